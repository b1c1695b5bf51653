"""``python -m loadtests.drafts``: what draft masks, and second masks, cost and give, as ratios within one run.

Every figure compares requests that were made one right after the other, in turns, so that a machine with other work
slows both alike. One client; the server should have nothing else to do.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from engines.evaluation.datasets.demo import DemoSet
from engines.evaluation.questions import Question
from engines.request import MAX_DRAFTS
from server.client import SegmentClient, uploaded
from server.events import DoneEvent, DraftEvent, MaskEvent
from server.schemas import ImageSource

AnyImage = bytes | ImageSource


@dataclass(frozen=True, slots=True)
class Took:
    """One request: seconds from sending it to its first draft, its first and its last mask; NaN for none.

    `drafts` came; `iou` is the first one's with the final mask.
    """

    draft: float
    mask: float
    last: float
    drafts: int
    iou: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One scene's requests; a pair is (with, without)."""

    new: Took
    known: Took
    drafts: list[tuple[Took, Took]]
    both: list[tuple[Took, Took]]


async def timed(client: SegmentClient, image: AnyImage, prompt: str, **options: object) -> Took:
    """Ask, and note when masks come."""
    began, drafts, masks, iou = time.perf_counter(), [], [], math.nan
    async for event in client.stream(image, prompt, objects=1, reasoning="full", **options):
        if isinstance(event, DraftEvent):
            drafts.append(time.perf_counter() - began)
        elif isinstance(event, MaskEvent):
            masks.append(time.perf_counter() - began)
        elif isinstance(event, DoneEvent) and event.drafts and event.drafts[0].iou is not None:
            iou = event.drafts[0].iou
    first, last = (masks[0], masks[-1]) if masks else (math.nan, math.nan)
    return Took(drafts[0] if drafts else math.nan, first, last, len(drafts), iou)


async def try_scene(client: SegmentClient, questions: Sequence[Question], drafts: int, repeats: int) -> Trial:
    """One scene: a first question about it, another one, and that one again and again in turns."""
    first, second = questions
    new = await timed(client, first.image, first.prompt, mask_type=first.mask_type, drafts=drafts)
    image = uploaded((await client.upload(second.image)).id)
    known = await timed(client, image, second.prompt, mask_type=second.mask_type, drafts=drafts)
    pairs, both = [], []
    for turn in range(repeats):
        counts = (drafts, 0) if turn % 2 else (0, drafts)
        took = {
            n: await timed(client, image, second.prompt, mask_type=second.mask_type, drafts=n) for n in counts
        }
        pairs.append((took[drafts], took[0]))
        kinds = ("both", "modal") if turn % 2 else ("modal", "both")
        of = {kind: await timed(client, image, second.prompt, mask_type=kind) for kind in kinds}
        both.append((of["both"], of["modal"]))
    return Trial(new, known, pairs, both)


def report(trials: Sequence[Trial], drafts: int) -> str:
    """The figures, each with its aim."""
    known, new = [trial.known for trial in trials], [trial.new for trial in trials]
    pairs = [pair for trial in trials for pair in trial.drafts]
    both = [pair for trial in trials for pair in trial.both]
    delays = [a.mask / b.mask for a, b in pairs]
    low, high = interval(delays)
    drafted = [took for took in (*known, *new) if not math.isnan(took.iou)]
    rows = [
        ("first draft / final mask, image known", _median(t.draft / t.mask for t in known), "<= 0.35"),
        ("first draft / final mask, image new", _median(t.draft / t.mask for t in new), "<= 0.60"),
        (f"final mask with drafts={drafts} / without", _median(delays), "<= 1.05"),
        ("  95 % sure: no less than", low, ""),
        ("  95 % sure: no more than", high, ""),
        ("both masks / one", _median(a.last / b.last for a, b in both), "<= 1.15"),
        (
            "mean IoU of first draft and final mask",
            fmean(t.iou for t in drafted) if drafted else math.nan,
            "",
        ),
        ("drafts a request, image known", fmean(t.drafts for t in (*known, *(a for a, _ in pairs))), ""),
        ("requests without any draft, image new", fmean(t.drafts == 0 for t in new), ""),
        ("final mask, image known, ms", _median(1000 * t.mask for t in known), ""),
    ]
    return "\n".join(f"{name:44} {value:8.3f}   {aim}" for name, value, aim in rows)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Between which the median lies with 95 %, by order statistics in their normal approximation."""
    if not values:
        return math.nan, math.nan
    ranked, reach = sorted(values), 0.98 * math.sqrt(len(values))
    first = max(0, math.floor(len(values) / 2 - reach))
    return ranked[first], ranked[-1 - first]


def _median(values: Iterable[float]) -> float:
    """The median of the numbers among `values`."""
    numbers = [value for value in values if not math.isnan(value)]
    return median(numbers) if numbers else math.nan


async def run(url: str, seed: int, scenes: int, drafts: int, repeats: int) -> str:
    """Measure on `scenes` scenes from `seed` on."""
    asked = DemoSet(seed, scenes + 1, queries_per_scene=2)
    trials = []
    async with SegmentClient(url) as client:
        for place, number in enumerate(asked.scenes()):
            questions = [question for question in asked.questions(number) if question.truths]
            if len(questions) == 2:
                trial = await try_scene(client, questions, drafts, repeats)
                trials += [trial] if place else []  # the first scene warms everything up
    return f"{len(trials)} scenes, {repeats} turns each\n{report(trials, drafts)}"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="loadtests.drafts", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--seed", type=int, default=40_000_000)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--drafts", type=int, default=3, choices=range(1, MAX_DRAFTS + 1))
    parser.add_argument("--repeats", type=int, default=4)
    given = parser.parse_args()
    print(asyncio.run(run(given.url, given.seed, given.scenes, given.drafts, given.repeats)))


if __name__ == "__main__":
    main()
