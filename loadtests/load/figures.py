"""From records to figures: percentiles, goodput, errors by type, and what the server's own metrics add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import get_args

import numpy as np

from engines.cache.observer import CacheName
from loadtests.load.records import LEFT, OK, Record
from loadtests.load.scenarios import STREAMS

MEASURES = {
    "ttft_ms": "to the first reasoning token",
    "ttfm_ms": "to the first mask",
    "end_to_end_ms": "to the end of the answer",
    "ms_per_token": "for each reasoning token after the first",
    "sent_ms": "that the load generator itself was late",
}
REASONING = {"ttft_ms": 1, "ms_per_token": 2}
"""The measures that only a stream shows, and how many reasoning tokens each needs."""
PERCENTILES = (50, 90, 95, 99)
CACHES = get_args(CacheName)
WAITS = {
    "queue_wait_ms": "in the gateway's queue, in the mean",
    "reason_wait_ms": "in the queue of vLLM's reason server, in the mean",
    "concentrate_wait_ms": "in the queue of vLLM's concentrate server, in the mean",
}
OTHERS = {
    "rate_per_s": "requests that were sent, a second",
    "goodput_per_s": "requests a second that were answered within their objectives",
    "goodput_share": "the same as a share of those whose clients stayed",
    "error_share": "requests without an answer, as a share of those whose clients stayed",
    "left_share": "requests whose clients left, as a share of all",
    "second_over_first": "median time to the first mask of a client's later prompts, over that of its first",
    "drift": "median time to the end in the last third of the run, over that in the first",
}
Figures = dict[str, float]
"""By name; what was not seen is not there."""


def figure_names() -> dict[str, str]:
    """Every figure there can be, and what it means."""
    found = {
        f"{measure}_p{percentile}": f"{meaning}, {percentile}th percentile"
        for measure, meaning in MEASURES.items()
        for percentile in PERCENTILES
    }
    found |= OTHERS | WAITS
    return found | {
        f"cache_hits_{name}": f"hits in the gateway's {name} cache, as a share of look-ups" for name in CACHES
    }


@dataclass(frozen=True, slots=True)
class Summary:
    """What a number of records came to; `outcomes` counts, `stages` are medians in ms.

    `not_shown` names the figures that there could not be, whatever the server did.
    """

    requests: int
    figures: Figures
    outcomes: Counter[str] = field(default_factory=Counter)
    stages: dict[str, float] = field(default_factory=dict)
    not_shown: frozenset[str] = frozenset()


def is_good(record: Record, good: Mapping[str, float]) -> bool:
    """Whether a request was answered, and within every objective that its transport lets one see."""
    if record.outcome != OK:
        return False
    times = record.model_dump(include=set(good))
    return all(times[name] is None or times[name] <= most for name, most in good.items())


def summarise(records: Sequence[Record], seconds: float, good: Mapping[str, float]) -> Summary:
    """The figures of a part of a run that took so many seconds; `good` are the objectives of each request."""
    answered = [record for record in records if record.outcome == OK]
    stayed = [record for record in records if record.outcome != LEFT]
    figures: Figures = {}
    for measure in MEASURES:
        values = [value for record in answered if (value := getattr(record, measure)) is not None]
        figures |= {f"{measure}_p{at}": percentile(values, at) for at in PERCENTILES if values}
    kept = sum(is_good(record, good) for record in stayed)
    figures |= {"rate_per_s": len(records) / seconds, "goodput_per_s": kept / seconds} if seconds else {}
    if stayed:
        figures |= {
            "goodput_share": kept / len(stayed),
            "error_share": (len(stayed) - len(answered)) / len(stayed),
        }
    if records:
        figures["left_share"] = (len(records) - len(stayed)) / len(records)
    figures |= _ratio("second_over_first", [r for r in answered if r.nth], [r for r in answered if not r.nth])
    figures |= _drift(answered)
    stages = {name for record in answered for name in record.stages}
    times = {
        name: median(record.stages[name] for record in answered if name in record.stages) for name in stages
    }
    outcomes = Counter(record.outcome for record in records)
    return Summary(len(records), figures, outcomes, times, not_shown(answered))


def not_shown(answered: Sequence[Record]) -> frozenset[str]:
    """The figures that none of these answers could show: those of reasoning, where none streamed enough of it.

    Without any answer there are none: nothing says what one would have shown.
    """
    streamed = [record.reasoning_tokens for record in answered if record.transport in STREAMS]
    longest = max(streamed, default=0)
    return frozenset(
        f"{measure}_p{at}"
        for measure, needed in REASONING.items()
        for at in PERCENTILES
        if answered and longest < needed
    )


def percentile(values: Sequence[float], at: float) -> float:
    """The percentile, interpolated between neighbours."""
    return float(np.percentile(values, at))


def _ratio(name: str, over: Sequence[Record], under: Sequence[Record]) -> Figures:
    above = [record.ttfm_ms for record in over if record.ttfm_ms is not None]
    below = [record.ttfm_ms for record in under if record.ttfm_ms is not None]
    return {name: median(above) / median(below)} if above and below else {}


def _drift(answered: Sequence[Record]) -> Figures:
    """By the order in which they came: a run that was broken off has thirds, too."""
    inside = sorted(answered, key=lambda record: record.intended)
    third = len(inside) // 3
    if third == 0:
        return {}
    first, last = inside[:third], inside[-third:]
    times = [[r.end_to_end_ms for r in part if r.end_to_end_ms is not None] for part in (first, last)]
    return {"drift": median(times[1]) / median(times[0])}
