"""An image embedding as bytes: float16 behind a header that says whose features these are and whether they are whole.

| bytes | content |
|---|---|
| 4 | the magic number ``R2SE`` |
| 1 | format version |
| 1 | dtype: 1 is little-endian float16 |
| 6 | the shape (C, h, w), little-endian uint16 |
| 32 | the encoder's fingerprint |
| 4 | CRC-32 of everything else |
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

MAGIC, VERSION, FLOAT16 = b"R2SE", 1, 1
_HEAD = struct.Struct("<4sBB3H32s")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEAD.size + _CHECKSUM.size
FINGERPRINT_BYTES = 32
LARGEST = float(np.finfo(np.float16).max)


class BadValue(ValueError):
    """The bytes are not an embedding of this encoder: damaged, cut short, or somebody else's."""


def to_half(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 values that float16 can hold: the nearest ones, those beyond its range at its ends."""
    return np.clip(values, -LARGEST, LARGEST).astype(np.float16).astype(np.float32)


def encoded_bytes(shape: tuple[int, int, int]) -> int:
    """How long the encoding of an embedding of that shape is."""
    return HEADER_BYTES + 2 * shape[0] * shape[1] * shape[2]


def encode(values: NDArray[np.float32], fingerprint: bytes) -> bytes:
    """The bytes of `values` float32 [C, h, w], as `to_half` left them, from the encoder with that fingerprint."""
    payload = np.ascontiguousarray(values, dtype="<f2").data.cast("B")
    head = _HEAD.pack(MAGIC, VERSION, FLOAT16, *values.shape, fingerprint)
    return b"".join((head, _CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(head))), payload))


def decode(data: bytes, fingerprint: bytes, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """The values float32 [C, h, w] in `data`, if they have that shape and come from that encoder.

    Raises:
        BadValue: they do not, or the bytes are damaged.
    """
    if len(data) != encoded_bytes(shape):
        raise BadValue(f"{len(data)} bytes in place of {encoded_bytes(shape)}")
    magic, version, dtype, *stored_shape, encoder = _HEAD.unpack_from(data)
    if (magic, version, dtype) != (MAGIC, VERSION, FLOAT16):
        raise BadValue("not an embedding in this format")
    if encoder != fingerprint:
        raise BadValue("the features of another encoder")
    if tuple(stored_shape) != shape:
        raise BadValue(f"an embedding of another shape: {stored_shape}")
    payload = memoryview(data)[HEADER_BYTES:]
    [checksum] = _CHECKSUM.unpack_from(data, _HEAD.size)
    if checksum != zlib.crc32(payload, zlib.crc32(data[: _HEAD.size])):
        raise BadValue("the checksum does not fit")
    return np.frombuffer(payload, dtype="<f2").reshape(shape).astype(np.float32)
