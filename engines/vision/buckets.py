"""Batch sizes that a compiled network is made for; a batch in between is filled up to the next one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engines.vision.onnx_cache import DECODER_FILE, ENCODER_FILE, PROMPTED_DECODER_FILE


@dataclass(frozen=True, slots=True)
class Profile:
    """Batches from `least` to `most`; the network is tuned for `best`."""

    least: int
    best: int
    most: int


@dataclass(frozen=True, slots=True)
class Buckets:
    """The batch sizes to run encoder and decoder at, in rising order."""

    encode: tuple[int, ...]
    decode: tuple[int, ...]


ENCODER_PROFILES = (Profile(1, 1, 1), Profile(2, 4, 4), Profile(5, 8, 8))
DECODER_PROFILES = (Profile(1, 1, 1), Profile(2, 8, 8), Profile(9, 16, 32))
POINTS = Profile(1, 3, 34)
"""Visual prompts: two for a point alone or a box, up to 32 points and a box."""
PROFILES = {
    ENCODER_FILE: ENCODER_PROFILES,
    DECODER_FILE: DECODER_PROFILES,
    PROMPTED_DECODER_FILE: DECODER_PROFILES,
}
DEVICE_BUCKETS = Buckets(encode=(1, 2, 4, 8), decode=(1, 2, 4, 8, 16, 32))
CPU_BUCKETS = Buckets(encode=(1,), decode=(1, 2))


def chunks(count: int, buckets: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Slices of `count` items no longer than the largest bucket, each with the smallest bucket that holds it."""
    for start in range(0, count, buckets[-1]):
        length = min(buckets[-1], count - start)
        yield slice(start, start + length), next(bucket for bucket in buckets if bucket >= length)


def profile_of(bucket: int, profiles: Sequence[Profile]) -> int:
    """The number of the profile that holds `bucket`. Raises ValueError where none does."""
    for number, profile in enumerate(profiles):
        if profile.least <= bucket <= profile.most:
            return number
    raise ValueError(f"no profile holds a batch of {bucket}")
