"""The codec: what goes in comes out, and nothing but that does."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from engines.cache.codec import BadValue, decode, encode, encoded_bytes, header_bytes, to_half

FINGERPRINT, OTHER = bytes(range(32)), bytes(32)
SHAPES = ((3, 4, 4), (1, 8, 8))
VALUES = tuple(to_half(np.random.default_rng(0).normal(size=shape).astype(np.float32)) for shape in SHAPES)
WHOLE = encode(VALUES, FINGERPRINT)

embeddings = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(st.lists(embeddings, min_size=1, max_size=3), st.binary(min_size=32, max_size=32))
def test_a_round_trip_changes_no_bit_of_a_rounded_embedding(
    tensors: list[NDArray[np.float32]], fingerprint: bytes
) -> None:
    half = [to_half(values) for values in tensors]
    data = encode(half, fingerprint)
    shapes = [(values.shape[0], values.shape[1], values.shape[2]) for values in tensors]
    assert len(data) == encoded_bytes(shapes)
    for values, decoded in zip(half, decode(data, fingerprint, shapes), strict=True):
        np.testing.assert_array_equal(decoded, values)
        assert np.isfinite(values).all()


@given(embeddings)
def test_rounding_is_to_the_nearest_and_is_done_once(values: NDArray[np.float32]) -> None:
    half = to_half(values)
    np.testing.assert_array_equal(to_half(half), half)
    inside = np.abs(values) < 65000
    np.testing.assert_allclose(half[inside], values[inside], rtol=2**-11, atol=2**-25)


@given(st.integers(0, len(WHOLE) - 1))
def test_what_was_cut_short_is_refused(length: int) -> None:
    with pytest.raises(BadValue):
        decode(WHOLE[:length], FINGERPRINT, SHAPES)


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_changed_byte_anywhere_is_noticed(place: int, change: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[place] ^= change
    with pytest.raises(BadValue):
        decode(bytes(damaged), FINGERPRINT, SHAPES)


@given(st.binary(max_size=300) | st.binary(min_size=len(WHOLE), max_size=len(WHOLE)))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadValue):
        decode(data, FINGERPRINT, SHAPES)


def test_another_encoders_features_are_refused() -> None:
    with pytest.raises(BadValue, match="another encoder"):
        decode(encode(VALUES, OTHER), FINGERPRINT, SHAPES)


def test_another_shape_of_the_same_size_is_refused() -> None:
    turned = (VALUES[0].reshape(4, 3, 4), VALUES[1])
    with pytest.raises(BadValue, match="other shapes"):
        decode(encode(turned, FINGERPRINT), FINGERPRINT, SHAPES)


def test_another_number_of_tensors_is_refused() -> None:
    one = to_half(np.ones((1, 1, len(WHOLE) // 2 - header_bytes(1) // 2), np.float32))
    data = encode([one], FINGERPRINT)
    data += WHOLE[len(data) :]
    with pytest.raises(BadValue, match="1 tensors in place of 2"):
        decode(data, FINGERPRINT, SHAPES)


@pytest.mark.parametrize(("place", "value"), [(4, 1), (5, 2)], ids=["version", "dtype"])
def test_a_format_that_is_not_known_is_refused_though_it_is_whole(place: int, value: int) -> None:
    start = header_bytes(len(SHAPES))
    head = bytearray(WHOLE[: start - 4])
    head[place] = value
    payload = WHOLE[start:]
    checksum = struct.pack("<I", zlib.crc32(payload, zlib.crc32(head)))
    with pytest.raises(BadValue, match="not an embedding in this format"):
        decode(bytes(head) + checksum + payload, FINGERPRINT, SHAPES)
