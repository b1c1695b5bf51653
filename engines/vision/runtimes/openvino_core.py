"""What all graphs on OpenVINO share: the process's core, how they are compiled, and that several threads run them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Literal

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13

from engines.errors import VisionFailed

Precision = Literal["fp32", "bf16"]
Array = NDArray[np.float32]
Inputs = dict[str, NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.int64] | NDArray[np.bool_]]
Settings = dict[str, str | int | bool]

_making = Lock()
_HINTS = {"fp32": "f32", "bf16": "bf16"}


def process_core() -> ov.Core:
    """The one core of this process, which lives as long and has run something.

    OpenVINO gives the thread that makes a core another stack for signals, and frees it with the core, in whatever
    thread that is: the next signal would find no stack. And its first inference makes what all inferences share: if
    two threads were the first, each could wait for the other for ever, and the interpreter with them.
    """
    with _making:
        return _core()


@cache
def _core() -> ov.Core:
    core = ov.Core()
    number = opset13.parameter([1], np.float32)
    core.compile_model(ov.Model([number], [number]), "CPU").create_infer_request().infer(
        [np.zeros(1, np.float32)]
    )
    return core


def best_precision(core: ov.Core) -> Precision:
    """bfloat16 where the processor multiplies it natively (AVX512-BF16 or AMX), else float32.

    This is OpenVINO's own default; its list of capabilities names bfloat16 also where it would be emulated.
    """
    return "bf16" if core.get_property("CPU", "INFERENCE_PRECISION_HINT") == ov.Type.bf16 else "fp32"


def settings_for(precision: Precision, threads: int | None) -> Settings:
    """How a graph is compiled for this processor."""
    settings: Settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "ENABLE_CPU_PINNING": False,  # the vLLM servers bind themselves to cores; do not fight them for one
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


class Shared:
    """A compiled graph that several threads may run at once, each on an infer request of its own."""

    def __init__(self, graph: ov.CompiledModel) -> None:
        self._graph = graph
        self._idle: SimpleQueue[ov.InferRequest] = SimpleQueue()
        self.threads = int(self._graph.get_property("INFERENCE_NUM_THREADS"))

    def __call__(self, inputs: Inputs, outputs: list[str]) -> list[Array]:
        with self._borrowed() as request:
            try:
                results = request.infer(inputs, share_inputs=True)
            except RuntimeError as error:
                raise VisionFailed(f"OpenVINO: {error}") from error
            return [results[name] for name in outputs]

    @contextmanager
    def _borrowed(self) -> Iterator[ov.InferRequest]:
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self._graph.create_infer_request()
        yield request
        self._idle.put(request)  # not reached after an error: a request that failed is not used again
