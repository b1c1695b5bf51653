"""The report as a page: it needs nothing beside it, says what was measured and nothing that was not."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from engines.evaluation.datasets import open_dataset
from engines.evaluation.examples import choose
from engines.evaluation.outcomes import Answer, Outcome, score
from engines.evaluation.page import write_page
from engines.evaluation.published import TABLES, tables_for
from engines.evaluation.questions import Question
from engines.evaluation.report import summarise
from engines.evaluation.runner import evaluate
from engines.vision.masks import encode
from tests.engines.evaluation import layouts


async def page(tmp_path: Path, prompt: str = "the cup") -> str:
    """The page of a run on a tiny R2SM whose server says "modal" to an amodal query."""
    asked = [layouts.query(prompt), layouts.query(" "), layouts.query("the cup's front", "modal")]
    dataset = open_dataset("r2sm", layouts.r2sm(tmp_path / "data", *asked))

    async def segment(question: Question) -> Answer:
        left = encode(layouts.left()).rle
        return Answer("modal", "", {"modal": [left]}, {}, {"modal": [0.9]}, 0.7, heatmap=left)

    ran = await evaluate(dataset, segment)
    report = summarise(ran.outcomes, ran.faults)
    write_page(tmp_path / "report.html", report, ran, dataset, title="r2sm", url="http://127.0.0.1:1")
    return (tmp_path / "report.html").read_text("utf-8")


class Tags(HTMLParser):
    """Collects what a page points to, and checks that what is opened is closed."""

    VOID = ("meta", "img", "circle", "rect", "polyline")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_the_page_is_whole_and_alone(tmp_path: Path) -> None:
    text = await page(tmp_path)
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert len(tags.links) == 5  # both queries are among the best and the worst, one is a wrong decision
    assert all(link.startswith("data:image/jpeg;base64,") for link in tags.links)
    assert "http" not in text.replace("http://127.0.0.1:1", "")


async def test_the_page_tells_the_figures_and_what_was_skipped(tmp_path: Path) -> None:
    text = await page(tmp_path)
    plain = re.sub(r"<[^>]+>", " ", text)
    for words in (
        "gIoU",
        "AP50",
        "Queries by form",
        "decided modal",
        "Wrong decisions",
        "empty_query",
        "50.0",
        "r = 1.000, 2 queries",
    ):
        assert words in plain


async def test_words_of_a_query_are_no_markup(tmp_path: Path) -> None:
    text = await page(tmp_path, "<script>alert(1)</script>")
    assert "<script" not in text
    assert "&lt;script&gt;" in text


async def test_tables_without_checked_rows_say_so(tmp_path: Path) -> None:
    text = await page(tmp_path)
    assert (
        "No published rows are known here: their source (Shih et al., R2SM, 2025) could not be read" in text
    )
    assert "--published FILE" in text
    assert tables_for("cocoa") == ()


def test_published_rows_fit_their_columns() -> None:
    for table in TABLES:
        for row in table.rows:
            assert len(row.figures) == len(table.columns)
            assert all(0 <= figure <= 100 for figure in row.figures)


def test_examples_are_the_best_the_worst_and_the_surest_wrong() -> None:
    def outcome(shift: int, decided_right: bool, confidence: float) -> Outcome:
        asked = Question(str(shift), b"", layouts.SHAPE, "x", "modal", (layouts.left(),), (), "form")
        mask = encode(np.roll(layouts.left(), shift, axis=1)).rle
        answer = Answer("modal" if decided_right else "amodal", "", {"modal": [mask]}, confidence=confidence)
        return score(asked, answer, 1.0)

    made = [outcome(0, True, 0.9), outcome(2, False, 0.6), outcome(4, False, 0.99)]
    chosen = choose(made)
    assert [each.label for each in chosen["Best"]] == ["0", "2", "4"]
    assert [each.label for each in chosen["Worst"]] == ["4", "2", "0"]
    assert [each.label for each in chosen["Wrong decisions"]] == ["4", "2"]
