"""``python -m loadtests.scoring``: how long a file of results takes to be read, scored and summed up.

The queries mean two round objects on pictures of COCO's size, half of them partly hidden; every answer holds both
masks of both, a little aside. Nobody is asked: it is what `r2sm evaluate --results` does with a run that is whole.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from engines.evaluation.metrics import Mask
from engines.evaluation.outcomes import Answer
from engines.evaluation.questions import Question, Reading
from engines.evaluation.report import Report, summarise
from engines.evaluation.results import Record, Results, Run
from engines.evaluation.runner import Plan, evaluate
from engines.events import MaskType, Rle
from engines.vision.masks import encode
from loadtests.bench.figures import Figure, Pair, as_line

SHAPE = (480, 640)
SCENES = 40
ASIDE = 5  # pixels between an answer and the truth
RUN = Run(dataset="round objects")
TYPES: tuple[MaskType, MaskType] = ("modal", "amodal")
FIGURE = Figure("5,000 results, read, scored and summed up, over 10 s", "s", "<=", 1.0)
WANTED = 5000, 10.0  # so many results in so many seconds


@dataclass(frozen=True, slots=True)
class Round:
    """So many questions about forty scenes."""

    count: int
    scenes: tuple[tuple[Mask, ...], ...]

    def pictures(self) -> list[str]:
        """Their numbers."""
        return [str(number) for number in range(self.count)]

    def read(self, picture: str) -> Reading:
        """The question of a number."""
        seen, front, whole = self.scenes[int(picture) % SCENES]
        mask_type = TYPES[int(picture) % 2]
        truths = (whole if mask_type == "amodal" else seen, front)
        asked = Question(
            picture, b"", SHAPE, "both", mask_type, truths, (), "round", picture, hidden=whole & ~seen
        )
        return Reading((asked,))


def draw(place: int) -> tuple[Mask, ...]:
    """Two overlapping ellipses: what is seen of the one behind, the one in front, and the whole of the one behind."""
    masks = []
    for centre, axes in (
        ((220 + 3 * place, 200), (120, 90 + place)),
        ((330 + 2 * place, 260), (90 + place, 70)),
    ):
        canvas = np.zeros(SHAPE, dtype=np.uint8)
        cv2.ellipse(canvas, centre, axes, 7 * place, 0, 360, 1, -1)
        masks.append(np.asfortranarray(canvas.view(np.bool_)))
    whole, front = masks
    return whole & ~front, front, whole


def answers(scenes: tuple[tuple[Mask, ...], ...]) -> list[Answer]:
    """One for each scene, both masks of both objects."""
    found = []
    for seen, front, whole in scenes:
        codes = [encode(np.roll(mask, ASIDE, axis=1)).rle for mask in (seen, front, whole)]
        masks: dict[MaskType, list[Rle]] = {"modal": codes[:2], "amodal": [codes[2], codes[1]]}
        scores: dict[MaskType, list[float]] = {"modal": [0.9, 0.8], "amodal": [0.9, 0.8]}
        found.append(Answer("modal", "", masks, {"total": 1.0}, scores, 0.7))
    return found


def score_all(path: Path, questions: Round) -> Report:
    """Read the results and score them.

    Raises:
        AssertionError: a question would have been asked.
    """

    async def nobody(question: Question) -> Answer:
        raise AssertionError(f"the results lack {question.label}")

    results = Results(path, RUN)
    try:
        ran = asyncio.run(evaluate(questions, nobody, Plan(concurrency=2), results=results))
    finally:
        results.close()
    return summarise(ran.outcomes, ran.faults, both=True)


def write(path: Path, questions: Round) -> None:
    """The results of a run that is whole."""
    given = answers(questions.scenes)
    results = Results(path, RUN)
    try:
        for picture in questions.pictures():
            [question] = questions.read(picture).questions
            results.add(Record.of(question, given[int(picture) % SCENES], 1.0, None))
    finally:
        results.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="loadtests.scoring", description=__doc__)
    parser.add_argument("--results", type=int, default=WANTED[0], help="how many results")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if min(given.results, given.rounds) < 1:
        parser.error("counts must be at least 1")
    questions = Round(given.results, tuple(draw(place) for place in range(SCENES)))
    pairs, cpu = [], []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "results.jsonl"
        write(path, questions)
        for _ in range(given.rounds):
            began, busy = time.perf_counter(), time.process_time()
            score_all(path, questions)
            cpu.append(time.process_time() - busy)
            pairs.append(Pair(time.perf_counter() - began, WANTED[1] * given.results / WANTED[0]))
    machine = {"machine": platform.machine(), "cores": len(os.sched_getaffinity(0))}
    print(json.dumps({**machine, "results": given.results, "cpu_s": round(median(cpu), 3)}))
    print(json.dumps(as_line("scoring", pairs, FIGURE)))


if __name__ == "__main__":
    main()
