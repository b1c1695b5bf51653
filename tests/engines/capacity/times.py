"""Stage times: some that are easy to reckon with, and those of a real machine with what it really did."""

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

MEASURED = StageTimes(
    machine="x86_64",
    image_ms=11.97,
    encode_ms=22.13,
    first_token_ms=39.76,
    step_ms=0.997,
    step_ms_per_sequence=0.074,
    decide_ms=3.63,
    warm_ms=38.62,
    concentrate_ms=10.75,
    decode_ms=3.19,
    finish_ms=0.72,
    cores=2,
)
"""What `r2sm capacity --measure … --cores 2` wrote of the demo bundle, whose reasoning is 62 tokens on average."""
REASONING_TOKENS = 62
OVERLOADS = {8: 13.40, 16: 14.90}
"""The requests a second that it printed of the same server, by clients at once."""
