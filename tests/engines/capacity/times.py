"""Stage times that are easy to reckon with."""

from __future__ import annotations

from engines.capacity.stages import StageTimes

TIMES = StageTimes(
    machine="none",
    image_ms=5,
    encode_ms=20,
    first_token_ms=40,
    step_ms=5,
    step_ms_per_sequence=0.25,
    decide_ms=10,
    warm_ms=20,
    concentrate_ms=10,
    concentrate_object_ms=2,
    decode_ms=8,
    decode_object_ms=1,
    finish_ms=5,
    max_sequences=32,
)
