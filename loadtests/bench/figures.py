"""The figures of the benchmark: what is compared with what, the targets, and one JSON line for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Direction = Literal["<=", ">="]


@dataclass(frozen=True, slots=True)
class Figure:
    """`ratio` is this server's value over the other one's. `limit` bounds it, or, where `absolute`, the value itself;
    without one the figure is there to be looked at. `better` says which way is better; one that is not `judged` is a
    share of the answer, which grows when the rest of the answer shrinks."""

    meaning: str
    unit: str
    better: Direction
    limit: float | None = None
    absolute: bool = False
    judged: bool = True


FIGURES: Mapping[str, Figure] = {
    "one_client_reference": Figure(
        "end to end, one client, new image, full reasoning, over the reference", "ms", "<=", 0.7
    ),
    "one_client_litserve": Figure("the same, over LitServe with the reference", "ms", "<="),
    "one_client_fastapi": Figure("the same, over FastAPI with the reference in a thread", "ms", "<="),
    "one_client_script": Figure("the same, over a plain script without the gateway", "ms", "<=", 1.10),
    "many_clients_reference": Figure("requests a second, many clients, over the reference", "1/s", ">=", 4),
    "many_clients_litserve": Figure("the same, over LitServe", "1/s", ">=", 2),
    "many_clients_fastapi": Figure("the same, over FastAPI", "1/s", ">="),
    "many_clients_script": Figure("end to end, many clients, over the plain script", "ms", "<=", 1.15),
    "four_prompts_reference": Figure(
        "requests a second, many clients, four prompts to an image, over the reference", "1/s", ">=", 6
    ),
    "four_prompts_litserve": Figure("the same, over LitServe", "1/s", ">=", 3),
    "last_token_to_mask": Figure(
        "from the last reasoning token to the mask, over one decoder run of the runtime", "ms", "<=", 3
    ),
    "second_prompt": Figure("second prompt on an image, over the first", "ms", "<=", 0.6),
    "draft_known": Figure("first draft mask over the final one, image known", "ms", "<=", 0.35),
    "draft_new": Figure("first draft mask over the final one, image new", "ms", "<=", 0.6),
    "gateway_cpu": Figure(
        "gateway's CPU a request without the decoder's, image known, over all of it",
        "ms",
        "<=",
        3,
        absolute=True,
    ),
    "gateway_cpu_bare": Figure(
        "the same, over all of FastAPI's and httpx's that take the file, stream the words and do nothing else",
        "ms",
        "<=",
    ),
    "part_reason": Figure(
        "vLLM alone streaming the reasoning, over the whole answer here", "ms", "<=", judged=False
    ),
    "part_concentrate": Figure(
        "vLLM alone reading to the vector, over the whole answer here", "ms", "<=", judged=False
    ),
    "part_encode": Figure("the runtime alone encoding, over the whole answer here", "ms", "<=", judged=False),
    "part_decode": Figure("the runtime alone decoding, over the whole answer here", "ms", "<=", judged=False),
}


@dataclass(frozen=True, slots=True)
class Pair:
    """One round's value and what it is compared with."""

    value: float
    against: float

    @property
    def ratio(self) -> float:
        """The one over the other."""
        return self.value / self.against


Pairs = dict[str, list[Pair]]
"""By figure, one for each round."""


def as_line(name: str, pairs: Sequence[Pair], figure: Figure | None = None) -> dict[str, object]:
    """A figure, one of `FIGURES` unless given, as its JSON line: medians over the rounds, the spread of the ratios."""
    figure, ratios = figure or FIGURES[name], [pair.ratio for pair in pairs]
    values = [pair.value for pair in pairs]
    judged = median(values) if figure.absolute else median(ratios)
    return {
        "figure": name,
        "meaning": figure.meaning,
        "unit": figure.unit,
        "value": round(median(values), 3),
        "against": round(median(pair.against for pair in pairs), 3),
        "ratio": round(median(ratios), 4),
        "spread": [round(min(ratios), 4), round(max(ratios), 4)],
        "rounds": len(pairs),
        "target": None if figure.limit is None else f"{figure.better} {figure.limit:g}",
        "kept": None if figure.limit is None else _keeps(figure.better, judged, figure.limit),
    }


def _keeps(better: Direction, value: float, limit: float) -> bool:
    return value <= limit if better == "<=" else value >= limit
