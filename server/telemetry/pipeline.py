"""What the pipeline tells of its requests and batches, as metrics, spans and the stages of the log."""

from __future__ import annotations

from contextlib import AbstractContextManager

from engines.events import DecisionMade, Done, Event, MaskReady
from server.telemetry.metrics import Metrics
from server.telemetry.record import current
from server.telemetry.spans import Spans

SPAN_NAMES = {"image": "load image"}


class PipelineTelemetry:
    """Implements `engines.observers.PipelineObserver`. The server's own warm-up is no request: it is not counted."""

    def __init__(self, metrics: Metrics, spans: Spans, log_prompts: bool) -> None:
        self._metrics = metrics
        self._spans = spans
        self._log_prompts = log_prompts

    def asked(self, prompt: str) -> None:
        """A request begins."""
        record = current()
        if self._log_prompts and record is not None:
            record.prompts.append(prompt)

    def stage(self, name: str) -> AbstractContextManager[object]:
        """A span around the stage."""
        return self._spans.stage(SPAN_NAMES.get(name, name))

    def took(self, name: str, seconds: float) -> None:
        """A stage has succeeded or a mark was passed."""
        record = current()
        if record is None:
            return
        record.stages[name] = seconds
        match name:
            case "queue":
                self._spans.past("admission", seconds)
                self._metrics.queue_wait.observe(seconds)
            case "ttft":
                self._metrics.ttft.observe(seconds)
            case "ttfm":
                self._metrics.ttfm.observe(seconds)
            case "ttfd" | "total":
                pass  # no stages: a client's own measure, and the whole request, which is measured where it ends
            case _:
                self._metrics.stage_seconds.labels(name).observe(seconds)

    def told(self, event: Event) -> None:
        """A request's next event."""
        record = current()
        if record is None:
            return
        if isinstance(event, DecisionMade):
            self._metrics.decisions.labels(event.mask_type, event.source).inc()
        elif isinstance(event, MaskReady):
            self._metrics.masks.labels(event.mask_type).inc()
        elif isinstance(event, Done):
            record.done = True
            self._metrics.reasoning_tokens.inc(event.usage.reasoning_tokens)
            self._metrics.prompt_tokens.inc(event.usage.prompt_tokens)

    def batch(self, stage: str, size: int) -> None:
        """A batch is about to run."""
        self._metrics.batch_size.labels(stage).observe(size)
