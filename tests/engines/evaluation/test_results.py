"""A file of results: a run goes on where it broke off, and what is no result is named."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engines.evaluation.outcomes import Answer, QueryFailed
from engines.evaluation.questions import FaultyData, Question, Reading
from engines.evaluation.results import Results, Run
from engines.evaluation.runner import Plan, Ran, evaluate
from engines.vision.masks import encode
from tests.engines.evaluation.layouts import SHAPE, left

RUN = Run(dataset="halves")


class Halves:
    """Six questions about the left half."""

    def pictures(self) -> list[str]:
        """Their numbers."""
        return [str(number) for number in range(6)]

    def read(self, picture: str) -> Reading:
        """One question."""
        asked = Question(picture, picture.encode(), SHAPE, f"half {picture}", "modal", (left(),), (), "form")
        return Reading((asked,))


class Server:
    """Knows the truth, counts what it is asked, and fails the questions named."""

    def __init__(self, *failing: str) -> None:
        self.failing, self.asked = failing, list[str]()

    async def segment(self, question: Question) -> Answer:
        """Answer a question."""
        self.asked.append(question.label)
        if question.label in self.failing:
            raise QueryFailed("busy")
        return Answer("modal", "why", {"modal": [encode(left()).rle]}, {"total": 4.0}, {"modal": [0.9]}, 0.8)


async def run(path: Path, server: Server, *, strict: bool = False, limit: int | None = None) -> Ran:
    """One run that keeps its results."""
    results = Results(path, RUN, strict=strict)
    try:
        return await evaluate(Halves(), server.segment, Plan(2, limit), results=results)
    finally:
        results.close()


async def test_a_run_goes_on_and_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    path, first, second = tmp_path / "kept" / "results.jsonl", Server("1"), Server()
    before = await run(path, first, limit=4)
    after = await run(path, second)
    assert sorted(first.asked) == ["0", "1", "2", "3"]
    assert sorted(second.asked) == ["1", "4", "5"]  # what failed is asked again
    assert [outcome.overlap.iou for outcome in before.outcomes] == [1.0, 0.0, 1.0, 1.0]
    assert [outcome.overlap.iou for outcome in after.outcomes] == [1.0] * 6
    kept = after.outcomes[0]
    assert (kept.confidence, kept.timings_ms, kept.latency_ms) == (
        0.8,
        {"total": 4.0},
        before.outcomes[0].latency_ms,
    )
    third = Server("0", "1", "2", "3", "4", "5")
    assert (await run(path, third)).outcomes == after.outcomes
    assert third.asked == []


@pytest.mark.parametrize("cut", [1, 40, 200])
async def test_a_line_that_was_never_finished_is_named_and_asked_again(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    await run(path, Server(), limit=3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with pytest.raises(FaultyData, match=r"results.jsonl:4: the last line was never finished"):
        Results(path, RUN, strict=True)
    assert path.read_bytes() == whole[:-cut]  # a refusal changes nothing
    again = Server()
    ran = await run(path, again)
    assert [fault.kind for fault in ran.faults] == ["results_line"]
    assert len(again.asked) == 4
    assert (await run(path, Server(), strict=True)).faults == []


async def test_a_line_that_is_no_result_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    await run(path, Server(), limit=2)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:50], lines[2], ""]))
    ran = await run(path, Server())
    assert [fault.where for fault in ran.faults] == ["results.jsonl:2"]
    with pytest.raises(FaultyData, match="cannot be used"):
        Results(path, RUN, strict=True)


async def test_results_of_another_run_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    await run(path, Server(), limit=1)
    for other in (Run(dataset="halves", split="val"), Run(dataset="halves", model="another")):
        with pytest.raises(FaultyData, match="not of this run"):
            Results(path, other)


@pytest.mark.parametrize("content", ['{"some": "other file"}\n', '{"without": "an end of line"}', "\n"])
async def test_another_file_is_refused_and_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(content)
    with pytest.raises(FaultyData, match="does not begin as results do"):
        Results(path, RUN)
    assert path.read_text() == content


async def test_a_run_whose_first_line_was_never_finished_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(RUN.model_dump_json()[:20])
    assert len((await run(path, Server())).outcomes) == 6


async def test_an_answer_to_another_question_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    await run(path, Server(), limit=1)
    path.write_text(path.read_text().replace('"key":"', '"key":"0'))
    again = Server()
    await run(path, again, limit=1)
    assert again.asked == ["0"]


async def test_a_broken_off_run_keeps_what_it_has(tmp_path: Path) -> None:
    path, server, reached = tmp_path / "results.jsonl", Server(), asyncio.Event()

    async def stuck(question: Question) -> Answer:
        if question.label == "3":
            reached.set()
            await asyncio.Event().wait()
        return await server.segment(question)

    results = Results(path, RUN)
    running = asyncio.create_task(evaluate(Halves(), stuck, results=results))
    await asyncio.wait_for(reached.wait(), 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    results.close()
    again = Server()
    assert len((await run(path, again)).outcomes) == 6
    assert again.asked == ["3", "4", "5"]
