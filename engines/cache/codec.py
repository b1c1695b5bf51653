"""An image embedding as bytes: float16 behind a header that says whose features these are and whether they are whole.

| bytes | content |
|---|---|
| 4 | the magic number ``R2SE`` |
| 1 | format version |
| 1 | dtype: 1 is little-endian float16 |
| 1 | how many tensors follow |
| 32 | the encoder's fingerprint |
| 6 for each tensor | its shape (C, h, w), little-endian uint16 |
| 4 | CRC-32 of everything else |

The tensors' values follow, one after the other.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from itertools import accumulate
from math import prod

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int]

MAGIC, VERSION, FLOAT16 = b"R2SE", 2, 1
_HEAD = struct.Struct("<4sBBB32s")
_SHAPE = struct.Struct("<3H")
_CHECKSUM = struct.Struct("<I")
FINGERPRINT_BYTES = 32
LARGEST = float(np.finfo(np.float16).max)


class BadValue(ValueError):
    """The bytes are not an embedding of this encoder: damaged, cut short, or somebody else's."""


def to_half(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 values that float16 can hold: the nearest ones, those beyond its range at its ends."""
    return np.clip(values, -LARGEST, LARGEST).astype(np.float16).astype(np.float32)


def header_bytes(tensors: int) -> int:
    """How long the header of an embedding of so many tensors is."""
    return _HEAD.size + tensors * _SHAPE.size + _CHECKSUM.size


def encoded_bytes(shapes: Sequence[Shape]) -> int:
    """How long the encoding of tensors of those shapes is."""
    return header_bytes(len(shapes)) + 2 * sum(map(prod, shapes))


def encode(tensors: Sequence[NDArray[np.float32]], fingerprint: bytes) -> bytes:
    """The bytes of `tensors` float32 [C, h, w], as `to_half` left them, from the encoder with that fingerprint."""
    payload = b"".join(np.ascontiguousarray(values, dtype="<f2").data.cast("B") for values in tensors)
    shapes = b"".join(_SHAPE.pack(*values.shape) for values in tensors)
    head = _HEAD.pack(MAGIC, VERSION, FLOAT16, len(tensors), fingerprint) + shapes
    return b"".join((head, _CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(head))), payload))


def decode(data: bytes, fingerprint: bytes, shapes: Sequence[Shape]) -> tuple[NDArray[np.float32], ...]:
    """The tensors float32 [C, h, w] in `data`, if they have those shapes and come from that encoder.

    Raises:
        BadValue: they do not, or the bytes are damaged.
    """
    if len(data) != encoded_bytes(shapes):
        raise BadValue(f"{len(data)} bytes in place of {encoded_bytes(shapes)}")
    magic, version, dtype, tensors, encoder = _HEAD.unpack_from(data)
    if (magic, version, dtype) != (MAGIC, VERSION, FLOAT16):
        raise BadValue("not an embedding in this format")
    if encoder != fingerprint:
        raise BadValue("the features of another encoder")
    if tensors != len(shapes):
        raise BadValue(f"{tensors} tensors in place of {len(shapes)}")
    start = header_bytes(tensors)
    stored = list(_SHAPE.iter_unpack(data[_HEAD.size : start - _CHECKSUM.size]))
    if stored != list(shapes):
        raise BadValue(f"an embedding of other shapes: {stored}")
    payload = memoryview(data)[start:]
    [checksum] = _CHECKSUM.unpack_from(data, start - _CHECKSUM.size)
    if checksum != zlib.crc32(payload, zlib.crc32(data[: start - _CHECKSUM.size])):
        raise BadValue("the checksum does not fit")
    flat = np.frombuffer(payload, dtype="<f2").astype(np.float32)
    parts = np.split(flat, list(accumulate(map(prod, shapes)))[:-1])
    return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
