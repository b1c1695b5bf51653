"""The figures of the drafts' benchmark, from times that are known."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator

from loadtests.drafts import AnyImage, Took, Trial, interval, report, timed
from server.client import SegmentClient
from server.events import WireEvent


def took(draft: float, mask: float, iou: float = math.nan, last: float | None = None) -> Took:
    return Took(draft, mask, mask if last is None else last, drafts=int(draft > 0), iou=iou)


def test_figures_are_ratios_of_neighbours() -> None:
    trials = [
        Trial(
            new=took(math.nan, 2.0),
            known=took(0.2, 1.0, iou=0.5),
            drafts=[(took(0.2, 1.0), took(math.nan, 0.8)), (took(0.2, 3.0), took(math.nan, 3.0))],
            both=[(took(math.nan, 1.0, last=1.2), took(math.nan, 1.0))],
        ),
        Trial(new=took(1.0, 2.0, iou=0.7), known=took(0.4, 1.0), drafts=[], both=[]),
    ]
    figures = {line[:44].strip(): float(line[44:].split()[0]) for line in report(trials, 3).splitlines()}
    assert figures == {
        "first draft / final mask, image known": 0.3,
        "first draft / final mask, image new": 0.5,
        "final mask with drafts=3 / without": 1.125,
        "95 % sure: no less than": 1.0,
        "95 % sure: no more than": 1.25,
        "both masks / one": 1.2,
        "mean IoU of first draft and final mask": 0.6,
        "drafts a request, image known": 1.0,
        "requests without any draft, image new": 0.5,
        "final mask, image known, ms": 1000.0,
    }


def test_without_any_draft_there_is_no_figure() -> None:
    lonely = Trial(new=took(math.nan, 2.0), known=took(math.nan, 1.0), drafts=[], both=[])
    assert "first draft / final mask, image known" in report([lonely], 3)
    assert report([lonely], 3).count("nan") == 7


async def test_an_answer_without_masks_has_no_times() -> None:
    class NoSuchObject(SegmentClient):
        """In the place of a server that finds nothing."""

        async def stream(
            self, image: AnyImage, prompt: str | None = None, **options: object
        ) -> AsyncGenerator[WireEvent, None]:
            nothing: list[WireEvent] = []
            for event in nothing:
                yield event

    found = await timed(NoSuchObject("http://server"), b"", "the unicorn", drafts=1)
    assert (math.isnan(found.mask), math.isnan(found.last), found.drafts) == (True, True, 0)


def test_the_interval_of_a_median_narrows_with_more_values() -> None:
    assert interval([float(n) for n in range(100)]) == (40.0, 59.0)
    assert interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
