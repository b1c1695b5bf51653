"""StageTimes: how long each stage of a request takes, as measured; what every simulation starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt


class StageTimes(BaseModel):
    """Milliseconds of each stage for one request that is alone on its servers.

    `step_ms` is one decoding step of the reason server with one sequence, `step_ms_per_sequence` what every other
    one in the batch adds. `first_token_ms` is a reading that holds up the batch; `warm_ms` is the concentrate server's
    reading of image and prompt, `concentrate_ms` that of the answer, `decide_ms` what the decision's probability adds
    to it where the model has written its answer. The `_object_ms` are for every object after the first. `cores`: the
    CPU cores that all parts share on one machine, where a stage is so much work for one core; None where each part has
    its own.
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


CONCLUDING = ("decide", "concentrate")
"""The stages from the reasoning to the vectors; a model that has written its answer is not asked to decide."""


def written_tokens(reasoning_tokens: int, objects: int) -> int:
    """All that the model writes: behind the reasoning a decision, a reference for each object, and the end."""
    return reasoning_tokens + objects + 2


@dataclass(frozen=True, slots=True)
class Measured:
    """One answered request: the server's `timings_ms`, and how many tokens and objects it had."""

    timings_ms: Mapping[str, float]
    reasoning_tokens: int
    objects: int

    @property
    def tokens(self) -> int:
        """How many were written."""
        return written_tokens(self.reasoning_tokens, self.objects)


def fit(
    machine: str,
    alone: Sequence[Measured],
    told: Sequence[Measured],
    company: Sequence[Sequence[Measured]],
) -> StageTimes:
    """Stage times from requests that were asked one by one, and from groups whose requests set out together.

    `alone` are whole requests. `told` were told the mask's type, so that their vectors came beside no decision, and
    their pictures had been encoded before; so had those of `company`, of which the language model remembered its
    readings, too. Raises ValueError without requests of each kind that reasoned and found something.
    """
    alone, told = _useful(alone), _useful(told)
    groups = [useful for group in company if len(useful := _useful(group)) > 1]
    if not (alone and told and groups):
        raise ValueError("no measured request both reasoned and found an object")

    def typical(stage: str, requests: Sequence[Measured]) -> float:
        return median(one.timings_ms.get(stage, 0.0) for one in requests)

    step = median(map(_step, told))
    concentrate = typical("concentrate", told)
    decided = median(sum(one.timings_ms.get(stage, 0.0) for stage in CONCLUDING) for one in alone)
    return StageTimes(
        machine=machine,
        image_ms=typical("image", alone),
        encode_ms=typical("encode", alone),
        first_token_ms=median(one.timings_ms["reason"] - _step(one) * (one.tokens - 1) for one in told),
        step_ms=step,
        step_ms_per_sequence=max(median(_slower(group, step) for group in groups), 0.0),
        decide_ms=max(decided - concentrate, 0.0),
        warm_ms=typical("warm", told),
        concentrate_ms=concentrate,
        decode_ms=typical("decode", told),
        finish_ms=typical("finish", told),
    )


def _useful(requests: Sequence[Measured]) -> list[Measured]:
    return [one for one in requests if one.reasoning_tokens > 1 and one.objects > 0]


def _slower(group: Sequence[Measured], step: float) -> float:
    """Milliseconds by which each other sequence makes a step longer: the first to end had all of them to its end."""
    first = min(group, key=lambda one: one.timings_ms["reason"])
    return (_step(first) - step) / (len(group) - 1)


def _step(one: Measured) -> float:
    """Milliseconds from one token to the next."""
    began = (
        one.timings_ms.get("ttft", 0.0) - one.timings_ms.get("queue", 0.0) - one.timings_ms.get("image", 0.0)
    )
    return max(one.timings_ms["reason"] - began, 0.0) / (one.tokens - 1)
