"""A .safetensors file that is written piece by piece, so that no more than a piece is ever in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from engines.errors import CheckpointError

Shape = tuple[int, ...]

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


class TensorFile:
    """A .safetensors file of known `shapes`, all of one `dtype`; use it as a context manager.

    The library writes such files from whole tensors only. The disk's space is taken at once, so that a full one
    is known before the work. Leaving the context raises CheckpointError if a row was never written, or twice.
    """

    def __init__(self, path: Path, shapes: Mapping[str, Shape], dtype: torch.dtype) -> None:
        self._path = path
        self._dtype = dtype
        self._shapes = dict(shapes)
        self._missing = {name: _numbers(shape) for name, shape in shapes.items()}
        self._starts: dict[str, int] = {}
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in shapes.items():
            start, end = end, end + _numbers(shape) * dtype.itemsize
            self._starts[name] = start
            header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._head = len(text).to_bytes(8, "little") + text
        self._size = len(self._head) + end

    def __enter__(self) -> Self:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.posix_fallocate(self._file, 0, self._size)
            os.pwrite(self._file, self._head, 0)
        except OSError:
            os.close(self._file)
            raise
        return self

    def write(self, name: str, values: Tensor, first_row: int = 0) -> None:
        """Write rows of the tensor `name`, converted to the file's dtype. Raises KeyError for a name it has not."""
        shape = self._shapes[name]
        if tuple(values.shape[1:]) != shape[1:]:
            raise ValueError(f"{name}: rows of {tuple(values.shape[1:])} in a tensor of {shape}")
        content = values.detach().to(self._dtype).contiguous().view(-1).view(torch.uint8).numpy()
        offset = first_row * _numbers(shape[1:]) * self._dtype.itemsize
        place, left = len(self._head) + self._starts[name] + offset, memoryview(content.data)
        while left:
            written = os.pwrite(self._file, left, place)
            place, left = place + written, left[written:]
        self._missing[name] -= values.numel()

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._check()
                os.fsync(self._file)
        finally:
            os.close(self._file)

    def _check(self) -> None:
        for name, missing in self._missing.items():
            if missing:
                amount = "has rows missing" if missing > 0 else "was written twice"
                raise CheckpointError(f"{name} {amount}: the shards do not make one model")


def _numbers(shape: Shape) -> int:
    return int(torch.Size(shape).numel())
