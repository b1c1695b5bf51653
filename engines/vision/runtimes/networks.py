"""Runs a network at fixed batch sizes on one stream: buffers and, on CUDA, a graph for each size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.errors import VisionFailed

Array = NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.int64] | NDArray[np.bool_]
Rows = Array | Sequence[Tensor | NDArray[np.float32]]
"""Items side by side: an array with the items along its first axis, or the items themselves, wherever they are."""
Result = TypeVar("Result")
HOST = torch.device("cpu")
KEPT = 24
Launch = Callable[[], Sequence[Tensor]]
"""Computes the outputs of bound inputs, on the current stream."""
Room = tuple[object, ...]
"""What one buffer is for: an input's name, whether it is on the host, and an item's shape."""


class Network(Protocol):
    """One compiled network."""

    def bind(self, inputs: Mapping[str, Tensor]) -> Launch:
        """A launch that reads these inputs, whatever they hold by then; the batch is the first axis of each."""
        ...

    def release(self) -> None:
        """Free the weights."""
        ...


@dataclass(frozen=True, slots=True)
class _Bound:
    """A network at one batch size: `inputs` on the device, `staging` on the host, and what computes the outputs.

    `rooms` names the buffers that they are part of.
    """

    inputs: dict[str, Tensor]
    staging: dict[str, Tensor]
    launch: Launch
    rooms: frozenset[Room]


class Lane:
    """One network on a stream of its own. Calls from several threads run one after another.

    Inputs are copied to page-locked memory and from there to the device; what a batch leaves free of its bucket
    keeps what stood there. All buckets share the buffers of the largest. With `graphs`, the kernels of each bucket are
    captured once and replayed; of the shapes that inputs can have, `KEPT` stay bound, and the buffers that these need.
    """

    def __init__(self, network: Network, device: torch.device, largest: int, *, graphs: bool) -> None:
        self._network = network
        self._device = device
        self._cuda = device.type == "cuda"
        self._graphs = graphs and self._cuda
        self._stream = torch.cuda.Stream(device) if self._cuda else None
        self._pool = torch.cuda.graph_pool_handle() if self._graphs else None
        self._largest = largest
        self._buffers: dict[Room, Tensor] = {}
        self._bound: dict[tuple[object, ...], _Bound] = {}  # the latest last
        self._lock = Lock()

    def run(
        self, bucket: int, values: Mapping[str, Rows], take: Callable[[Sequence[Tensor]], Result]
    ) -> Result:
        """What `take` makes of the outputs [bucket, …], called on the stream; they are overwritten by the next run.

        `values` hold `bucket` items at most.

        Raises:
            VisionFailed: the device failed.
        """
        with self._lock, self._streaming(), torch.inference_mode():
            kinds = {name: torch.as_tensor(rows[0]) for name, rows in values.items()}
            key = (bucket, *(tuple(kinds[name].shape) for name in sorted(kinds)))
            known = self._bound.pop(key, None)
            bound = known or self._bind(bucket, kinds)
            for name, rows in values.items():
                _fill(bound.inputs[name], bound.staging[name], rows)
            if known is None and self._graphs:
                bound = self._capture(bound)
            self._bound[key] = bound
            if len(self._bound) > KEPT:
                self._release_oldest()
            return take(bound.launch())

    def release(self) -> None:
        """Free buffers, graphs and weights; no call may follow."""
        with self._lock:
            self._bound.clear()
            self._buffers.clear()
            self._network.release()

    @contextmanager
    def _streaming(self) -> Iterator[None]:
        try:
            if self._stream is None:
                yield
            else:
                with torch.cuda.stream(self._stream):
                    yield
                    self._stream.synchronize()
        except (torch.OutOfMemoryError, torch.AcceleratorError) as error:
            raise VisionFailed(f"{self._device}: {error}") from error

    def _release_oldest(self) -> None:
        """Unbind the shape that has not come for longest, and free the buffers that no other needs."""
        oldest = self._bound.pop(next(iter(self._bound)))
        needed = frozenset[Room]().union(*(bound.rooms for bound in self._bound.values()))
        for room in oldest.rooms - needed:
            del self._buffers[room]

    def _bind(self, bucket: int, kinds: Mapping[str, Tensor]) -> _Bound:
        inputs = {name: self._buffer(name, kind, self._device)[:bucket] for name, kind in kinds.items()}
        staging = {name: self._buffer(name, kind, HOST)[:bucket] for name, kind in kinds.items()}
        rooms = frozenset(
            _room(name, kind, device) for name, kind in kinds.items() for device in (self._device, HOST)
        )
        return _Bound(inputs, staging, self._network.bind(inputs), rooms)

    def _buffer(self, name: str, kind: Tensor, device: torch.device) -> Tensor:
        """Room for `largest` items like `kind`, zero at first: a valid owner, size, label and pixel."""
        # What float16 holds on the device is float32 to the networks.
        dtype = torch.float32 if kind.is_floating_point() else kind.dtype
        room = _room(name, kind, device)
        if room not in self._buffers:
            shape, pinned = (self._largest, *kind.shape), self._cuda and device is HOST
            self._buffers[room] = torch.zeros(shape, dtype=dtype, device=device, pin_memory=pinned)
        return self._buffers[room]

    def _capture(self, bound: _Bound) -> _Bound:
        """`bound` with its kernels captured. The first launch outside makes what is made once."""
        assert self._stream is not None
        bound.launch()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # All graphs of a lane share memory: they never run side by side, and `take` has read one's outputs
        # before the next one runs. Other threads may go on using the device meanwhile.
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            outputs = bound.launch()

        def replay() -> Sequence[Tensor]:
            graph.replay()
            return outputs

        return _Bound(bound.inputs, bound.staging, replay, bound.rooms)


def _room(name: str, kind: Tensor, device: torch.device) -> Room:
    return (name, device is HOST, *kind.shape)


def _fill(buffer: Tensor, staging: Tensor, rows: Rows) -> None:
    length = len(rows)
    if isinstance(rows, np.ndarray):
        staging[:length].numpy()[...] = rows
        buffer[:length].copy_(staging[:length], non_blocking=True)
        return
    for place, row in enumerate(rows):
        if isinstance(row, Tensor):
            buffer[place].copy_(row, non_blocking=True)
        else:
            staging[place].numpy()[...] = row
            buffer[place].copy_(staging[place], non_blocking=True)
