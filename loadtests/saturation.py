"""``python -m loadtests.saturation``: whether `r2sm evaluate` asks a running server as fast as the load tester does.

All send requests about the same scenes, in turns: the evaluation of a data set in files, as its command does,
reading them and scoring what comes back; the evaluation of the demo's scenes, drawn meanwhile; and the load tester's
own REST requests from as many users, who ask again as soon as they are answered. Every picture is a new file to the
server each time. The server should have nothing else to do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from engines.demo.language import ask
from engines.demo.scenes import render_scene
from engines.errors import InvalidInput
from engines.evaluation.datasets import open_dataset
from engines.evaluation.datasets.annotated import AnnotatedPicture, Instance
from engines.evaluation.datasets.demo import DemoSet, encode_png
from engines.evaluation.datasets.files import Picture
from engines.evaluation.queries import Asked as Queries
from engines.evaluation.queries import Draft, Export, Origin
from engines.evaluation.questions import DataSet, FaultyData, Question, Reading
from engines.evaluation.runner import Plan
from loadtests.bench.figures import Figure, Pair, as_line
from loadtests.load.asking import FAULTS, Asked, Rest, Seen
from loadtests.load.questions import as_new
from loadtests.load.records import OK
from server.bearer import bearer
from server.client import SegmentClient, SegmentFailed
from server.commands.evaluate import ask_all
from server.retries import NEVER

FIRST_SCENE = 80_000_000
ANSWER_SECONDS = 120.0
FIGURES = {
    "evaluate_files": Figure(
        "requests a second of r2sm evaluate on files, over the load tester's with as many users",
        "1/s",
        ">=",
        0.95,
    ),
    "evaluate_demo": Figure("the same, the demo's scenes drawn meanwhile", "1/s", ">="),
}
Rates = dict[str, float]
"""Requests a second by figure, and those of the load tester as ``load``."""
OPTIONS = {"mask_type": "auto", "include": ["reasoning"]}
"""What the evaluation asks for, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class NewFiles:
    """The demo's questions, their pictures as files that nobody has seen."""

    questions: DemoSet
    mark: str

    def pictures(self) -> list[str]:
        """The demo's."""
        return self.questions.pictures()

    def read(self, picture: str) -> Reading:
        """The questions about one scene."""
        found = self.questions.read(picture).questions
        return Reading(tuple(replace(each, image=as_new(each.image, self.mark)) for each in found))


def as_files(scenes: DemoSet, mark: str, folder: Path) -> DataSet:
    """The demo's questions as a data set in R2SM's layout, their pictures as files that nobody has seen."""
    export = Export(folder, Origin(data=folder, layout="demo", model=mark))
    for seed in scenes.scenes():
        scene = render_scene(seed)
        picture = Picture(as_new(encode_png(scene.image), mark), scene.objects[0].modal.shape)
        instances = [
            Instance(place, each.name, each.modal, each.amodal) for place, each in enumerate(scene.objects)
        ]
        asked = ask(scene, random.Random(seed), scenes.queries_per_scene)
        drafts = tuple(Draft(each.mask_type, each.prompt, tuple(each.targets)) for each in asked)
        shown = AnnotatedPicture(str(seed), f"{seed}.png", picture, tuple(instances))
        export.add(shown, Queries(drafts, (), {}, ()))
    export.finish()
    return open_dataset("r2sm", folder)


def all_of(questions: DataSet) -> list[Question]:
    """All questions of a set at once.

    Raises:
        FaultyData: a picture of it cannot be used.
    """
    readings = [questions.read(picture) for picture in questions.pictures()]
    for fault in (fault for reading in readings for fault in reading.faults):
        raise FaultyData(fault)
    return [question for reading in readings for question in reading.questions]


async def evaluated(url: str, key: str | None, questions: DataSet, users: int) -> float:
    """Requests a second of the evaluation, from reading the first picture to having scored the last answer.

    Raises:
        SegmentFailed: a request was not answered.
    """
    began = time.perf_counter()
    client = SegmentClient(url, retries=NEVER, key=key)
    ran = await ask_all(questions, client, Plan(concurrency=users), "auto")
    spent = time.perf_counter() - began
    failed = [outcome.error for outcome in ran.outcomes if outcome.error is not None]
    if failed:
        raise SegmentFailed(f"{len(failed)} of the evaluation's requests failed: {failed[0]}")
    return len(ran.outcomes) / spent


def loaded(url: str, key: str | None, questions: Sequence[Question], users: int) -> float:
    """Requests a second of the load tester's users, without pauses.

    Raises:
        SegmentFailed: a request was not answered.
    """
    limits = httpx.Limits(max_connections=None)
    with (
        httpx.Client(
            base_url=url, headers=bearer(key), timeout=ANSWER_SECONDS, limits=limits, trust_env=False
        ) as http,
        ThreadPoolExecutor(users) as threads,
    ):
        rest, began = Rest(http), time.perf_counter()
        outcomes = list(threads.map(lambda each: outcome(rest, each), questions))
        spent = time.perf_counter() - began
    failed = [each for each in outcomes if each != OK]
    if failed:
        raise SegmentFailed(f"{len(failed)} of the load tester's requests failed: {failed[0]}")
    return len(questions) / spent


def outcome(rest: Rest, question: Question) -> str:
    """Ask one question as the evaluation does; what came of it."""
    seen = Seen(time.perf_counter())
    try:
        rest.ask(Asked(question.image, question.prompt, OPTIONS), seen)
    except FAULTS as error:
        return f"{type(error).__name__}: {error}"
    return seen.outcome


@dataclass(frozen=True, slots=True)
class Rounds:
    """Rounds against one server, each on scenes of its own; who begins changes from one to the next."""

    url: str
    key: str | None
    users: int
    requests: int

    async def run(self, count: int) -> list[Rates]:
        """The rates of each round, after one that warms up."""
        await self._round(0, self.users)
        found = []
        for number in range(1, count + 1):
            print(f"round {number} of {count}", file=sys.stderr, flush=True)
            found.append(await self._round(number, self.requests))
        return found

    async def _round(self, number: int, requests: int) -> Rates:
        scenes, mark = DemoSet(FIRST_SCENE + number * 100_000, requests), f"{os.getpid()}.{number}"
        with TemporaryDirectory() as folder:
            files = await asyncio.to_thread(as_files, scenes, f"{mark}.files", Path(folder))
            sent = await asyncio.to_thread(all_of, NewFiles(scenes, f"{mark}.sent"))
            drawn = NewFiles(scenes, f"{mark}.drawn")
            turns: dict[str, Callable[[], Awaitable[float]]] = {
                "evaluate_files": lambda: evaluated(self.url, self.key, files, self.users),
                "evaluate_demo": lambda: evaluated(self.url, self.key, drawn, self.users),
                "load": lambda: asyncio.to_thread(loaded, self.url, self.key, sent, self.users),
            }
            names = list(turns)
            place = number % len(names)
            return {name: await turns[name]() for name in names[place:] + names[:place]}


def as_lines(found: Sequence[Rates]) -> list[dict[str, object]]:
    """A line a figure."""
    return [
        as_line(name, [Pair(rates[name], rates["load"]) for rates in found], figure)
        for name, figure in FIGURES.items()
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="loadtests.saturation", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server; R2SM_API_KEY has its key")
    parser.add_argument("--users", type=int, default=8, help="requests at once, of both")
    parser.add_argument("--requests", type=int, default=96, help="requests of each in a round")
    parser.add_argument("--rounds", type=int, default=6)
    given = parser.parse_args()
    if min(given.users, given.requests, given.rounds) < 1:
        parser.error("counts must be at least 1")
    rounds = Rounds(given.url, os.environ.get("R2SM_API_KEY"), given.users, given.requests)
    try:
        found = asyncio.run(rounds.run(given.rounds))
    except (SegmentFailed, InvalidInput) as error:
        sys.exit(f"bench: {error}")
    machine = {"machine": platform.machine(), "cores": len(os.sched_getaffinity(0))}
    print(json.dumps({**machine, "requests": given.requests, "users": given.users}))
    for line in as_lines(found):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
