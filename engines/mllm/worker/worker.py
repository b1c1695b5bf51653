"""vLLM's own CPU worker with a tap for hidden states, and with guesses at what comes next: ``--worker-cls``.

It reads what the model runner keeps between the model and the sampler, so that nothing is computed twice: of
vLLM 0.32, `execute_model_state`, `input_batch`, `input_ids`, `query_start_loc`, `drafter`, `rejection_sampler` and
`effective_drafter_max_model_len`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from vllm.v1.worker.cpu_worker import CPUWorker

from engines.mllm.tap.line import Line
from engines.mllm.tap.message import SOCKET
from engines.mllm.worker.guesser import Guesser
from engines.mllm.worker.rows import rows_of
from engines.mllm.worker.tap import Tap
from engines.mllm.worker.verifier import Verifier


class Worker(CPUWorker):  # type: ignore[misc]  # vLLM's classes are untyped here
    """`CPUWorker`; where a socket is named it is tapped, and where its drafter is a `Guesser` it is told of requests.

    Of tensor-parallel ranks the first one sends; all of them guess, alike.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        address = os.environ.get(SOCKET)
        self._tap = Tap(Line(address)) if address and self.is_driver_worker else None
        self._guesser: Guesser | None = None

    def init_device(self) -> None:
        """As vLLM has it."""
        super().init_device()
        runner = self.model_runner
        if isinstance(drafter := getattr(runner, "drafter", None), Guesser):
            self._guesser = drafter
            drafter.runner = runner
            # a memory reads no sequence that could be too long for it
            runner.effective_drafter_max_model_len = sys.maxsize
            runner.rejection_sampler = Verifier(runner.sampler, drafter.plain)

    def execute_model(self, scheduler_output: Any) -> Any:
        """The first half of a step, up to the logits, as vLLM has it."""
        for part in (self._tap, self._guesser):
            if part is not None:
                for request in scheduler_output.finished_req_ids:
                    part.end(request)
                for new in scheduler_output.scheduled_new_reqs:
                    part.begin(new)
        return super().execute_model(scheduler_output)

    def sample_tokens(self, grammar_output: Any) -> Any:
        """The other half, and what is wished for of the step's states."""
        state = self.model_runner.execute_model_state
        output = super().sample_tokens(grammar_output)
        if self._tap and state is not None:
            self._tap.tell(rows_of(self.model_runner, state, output.sampled_token_ids))
        return output
