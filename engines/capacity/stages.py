"""StageTimes: how long each stage of a request takes, as measured; what every simulation starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt


class StageTimes(BaseModel):
    """Milliseconds of each stage for one request that is alone on its servers.

    `step_ms` is one decoding step of the reason server with one sequence, `step_ms_per_sequence` what every other
    one in the batch adds. `first_token_ms` and `decide_ms` are readings that hold up the batch; `warm_ms` is the
    concentrate server's reading of image and prompt, `concentrate_ms` that of the answer, whether it is waited for or
    foreseen. The `_object_ms` are for every object after the first.
    `cores`: the CPU cores that all parts share on one machine; None where each has its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    machine: str = Field(description="where the times were measured")
    image_ms: NonNegativeFloat
    encode_ms: NonNegativeFloat
    first_token_ms: NonNegativeFloat
    step_ms: NonNegativeFloat
    step_ms_per_sequence: NonNegativeFloat = 0.0
    decide_ms: NonNegativeFloat
    warm_ms: NonNegativeFloat
    concentrate_ms: NonNegativeFloat
    concentrate_object_ms: NonNegativeFloat = 0.0
    decode_ms: NonNegativeFloat
    decode_object_ms: NonNegativeFloat = 0.0
    finish_ms: NonNegativeFloat
    max_sequences: PositiveInt = 64
    decode_batch: PositiveInt = 16
    cores: PositiveInt | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One answered request: the server's `timings_ms`, and how many tokens and objects it had."""

    timings_ms: Mapping[str, float]
    reasoning_tokens: int
    objects: int


def fit(machine: str, alone: Sequence[Measured], together: Sequence[Measured], clients: int) -> StageTimes:
    """Stage times from requests that were asked one by one, and from those of so many clients at once.

    The second kind gives only what each sequence adds to a step: by Little's law clients times the share of a
    request that is reasoning is the number of sequences in the batch. Raises ValueError without requests that
    reasoned and found something.
    """
    alone = [one for one in alone if one.reasoning_tokens > 1 and one.objects > 0]
    together = [one for one in together if one.reasoning_tokens > 1 and one.objects > 0]
    if not alone or not together:
        raise ValueError("no measured request both reasoned and found an object")

    def typical(stage: str) -> float:
        return median(one.timings_ms.get(stage, 0.0) for one in alone)

    step, shared = median(map(_step, alone)), median(map(_step, together))
    share = fmean(one.timings_ms["reason"] / one.timings_ms["total"] for one in together)
    company = max(clients * share - 1, 0.0)
    return StageTimes(
        machine=machine,
        image_ms=typical("image"),
        encode_ms=typical("encode"),
        first_token_ms=median(
            one.timings_ms["reason"] - _step(one) * (one.reasoning_tokens - 1) for one in alone
        ),
        step_ms=step,
        step_ms_per_sequence=max(shared - step, 0.0) / company if company > 0 else 0.0,
        decide_ms=typical("decide"),
        warm_ms=typical("warm"),
        concentrate_ms=max(typical("concentrate"), typical("foresee")),
        decode_ms=typical("decode"),
        finish_ms=typical("finish"),
    )


def _step(one: Measured) -> float:
    """Milliseconds from one token to the next."""
    began = (
        one.timings_ms.get("ttft", 0.0) - one.timings_ms.get("queue", 0.0) - one.timings_ms.get("image", 0.0)
    )
    return max(one.timings_ms["reason"] - began, 0.0) / (one.reasoning_tokens - 1)
