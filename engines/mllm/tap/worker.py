"""vLLM's own CPU worker, which also sends the last hidden states that requests ask for: ``--worker-cls``.

Runs within vLLM. It reads what the model runner keeps between the model and the sampler, so that nothing is computed
twice: of vLLM 0.32, `execute_model_state`, `input_batch`, `input_ids` and `query_start_loc`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from vllm.v1.worker.cpu_worker import CPUWorker

from engines.mllm.tap.line import Line
from engines.mllm.tap.message import BEFORE, OF, SOCKET, TAG, Message


@dataclass(slots=True)
class Wish:
    """What a request wants to know: as `asking` says. `last` is the state from which its last token was chosen.

    `place` is that state's token's: what is computed again after a preemption has been told already.
    """

    tag: str
    before: frozenset[int]
    of: frozenset[int]
    place: int = -1
    last: torch.Tensor | None = None

    @classmethod
    def read(cls, extra: dict[str, Any] | None) -> Wish | None:
        """The wish in a request's ``extra_args``, if there is one."""
        if not extra or TAG not in extra:
            return None
        return cls(str(extra[TAG]), frozenset(extra.get(BEFORE, ())), frozenset(extra.get(OF, ())))


class TapWorker(CPUWorker):  # type: ignore[misc]  # vLLM's classes are untyped here
    """`CPUWorker` with a line to the gateway; of tensor-parallel ranks the first one sends."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wishes: dict[str, Wish] = {}
        self._line = Line(os.environ[SOCKET])

    def execute_model(self, scheduler_output: Any) -> Any:
        """One step, as vLLM has it, and what was wished for of its states."""
        for request in scheduler_output.finished_req_ids:
            self._wishes.pop(request, None)
        for new in scheduler_output.scheduled_new_reqs:
            wish = Wish.read(new.sampling_params and new.sampling_params.extra_args)
            if wish and self.is_driver_worker:
                self._wishes[new.req_id] = wish
        output = super().execute_model(scheduler_output)
        if self._wishes and (state := self.model_runner.execute_model_state) is not None:
            self._tell(state.sample_hidden_states)
        return output

    def _tell(self, states: torch.Tensor) -> None:
        """Send what is wished for of each request's last state; states [R, D] stand in the batch's order."""
        runner = self.model_runner
        batch = runner.input_batch
        for row, request in enumerate(batch.req_ids):
            wish = self._wishes.get(request)
            if wish is None:
                continue
            end = int(runner.query_start_loc.np[row + 1])
            place = int(batch.num_computed_tokens_cpu[row]) + end - int(runner.query_start_loc.np[row]) - 1
            if place < batch.num_prompt_tokens[row] - 1 or place <= wish.place:
                continue  # more of the prompt is still to come, or it is computed again
            if place == batch.num_prompt_tokens[row] - 1:
                if not (wish.before or wish.of):
                    self._send(wish, states[row], anew=True)
            else:
                self._hear(wish, int(runner.input_ids.cpu[end - 1]), states[row])
            wish.last, wish.place = states[row], place

    def _hear(self, wish: Wish, token: int, state: torch.Tensor) -> None:
        """A token that was written, and its state."""
        if token in wish.before and wish.last is not None:
            self._send(wish, wish.last, anew=True)
        if token in wish.of:
            self._send(wish, state, anew=False)

    def _send(self, wish: Wish, state: torch.Tensor, *, anew: bool) -> None:
        self._line.send(Message(wish.tag, anew, state.float().numpy()).frame())
