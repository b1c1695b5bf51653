"""A compiled TensorRT engine on the GPU, with torch tensors as its buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorrt as trt
import torch
from torch import Tensor

from engines.errors import EngineRefused, VisionFailed
from engines.vision.buckets import Profile, profile_of
from engines.vision.runtimes.networks import Launch
from engines.vision.runtimes.tensorrt_build import Log

_TYPES = {
    trt.DataType.FLOAT: torch.float32,
    trt.DataType.HALF: torch.float16,
    trt.DataType.BF16: torch.bfloat16,
    trt.DataType.INT32: torch.int32,
    trt.DataType.INT64: torch.int64,
    trt.DataType.BOOL: torch.bool,
    trt.DataType.UINT8: torch.uint8,
}


class Engine:
    """A `Network`: each batch size has a context of its own, and all of them one scratch memory.

    A CUDA graph is of one context in one shape, which is why they do not share it; they run on one stream, one after
    another, which is why they may share the scratch memory.
    """

    def __init__(self, plan: Path, profiles: Sequence[Profile], device: torch.device) -> None:
        """Load an engine that this machine has built.

        Raises:
            EngineRefused: TensorRT does not take it.
        """
        self._log = log = Log()  # TensorRT keeps no reference to it
        self._runtime = trt.Runtime(log)
        with torch.cuda.device(device):
            engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise EngineRefused(f"{plan}: TensorRT does not load it: {'; '.join(log.errors[:3])}")
        self._engine: trt.ICudaEngine | None = engine
        self._profiles = profiles
        self._device = device
        self._scratch: Tensor | None = torch.empty(
            max(engine.device_memory_size_v2, 1), dtype=torch.uint8, device=device
        )
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
        self._inputs = [name for name in names if name not in self._outputs]

    def bind(self, inputs: Mapping[str, Tensor]) -> Launch:
        """A launch on these inputs, on whichever stream is current. See `Network`."""
        assert self._engine is not None, "released"
        context = self._context(next(iter(inputs.values())).shape[0])
        for name in self._inputs:  # an input that the graph does not use is not among the engine's
            self._check(context.set_input_shape(name, tuple(inputs[name].shape)), name)
            self._check(context.set_tensor_address(name, inputs[name].data_ptr()), name)
        outputs = []
        for name in self._outputs:
            axes = context.get_tensor_shape(name)
            output = torch.empty(
                [axes[axis] for axis in range(len(axes))],
                dtype=_TYPES[self._engine.get_tensor_dtype(name)],
                device=self._device,
            )
            self._check(context.set_tensor_address(name, output.data_ptr()), name)
            outputs.append(output)
        held = list(inputs.values())  # the context knows only their addresses

        def launch() -> Sequence[Tensor]:
            assert held
            self._check(context.execute_async_v3(torch.cuda.current_stream(self._device).cuda_stream), "run")
            return outputs

        return launch

    def _context(self, batch: int) -> trt.IExecutionContext:
        assert self._engine is not None, "released"
        assert self._scratch is not None, "released"
        context = self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise VisionFailed("TensorRT makes no execution context: the GPU's memory may be full")
        context.set_device_memory(self._scratch.data_ptr(), self._scratch.numel())
        stream = torch.cuda.current_stream(self._device)
        number = profile_of(batch, self._profiles)
        self._check(context.set_optimization_profile_async(number, stream.cuda_stream), "profile")
        stream.synchronize()
        return context

    def release(self) -> None:
        """Free the engine. Its contexts go with their launches."""
        self._engine = self._scratch = None

    def _check(self, done: bool, what: str) -> None:
        if not done:
            raise VisionFailed(f"TensorRT refused: {what}")
