"""The load tests for Locust; ``r2sm loadtest`` starts it, ``locust -f loadtests/locustfile.py`` does too.

Locust replaces Python's sockets and threads by gevent's as soon as it is imported: this file is imported by Locust's
own processes only. Every Locust user is a source of arrivals, 1/N of the rate each. They send their records to
whoever counts (this process, or Locust's master), which writes them to ``--records``.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import httpx
from gevent.lock import Semaphore
from gevent.pool import Pool
from locust import User, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import LocalRunner, MasterRunner, Runner, WorkerRunner

from loadtests.load.arrivals import Load, arrivals, chance_of
from loadtests.load.questions import Picture, demo_pictures, folder_pictures, rotated
from loadtests.load.records import LEFT, OK, Ending, Record
from loadtests.load.scenarios import SCENARIOS, TRANSPORTS, Scenario
from loadtests.load.visits import TimeIsUp, Visitor, Visits
from server.bearer import bearer

RECORD, DONE = "r2sm_record", "r2sm_done"
DEMO_PICTURES, DEMO_PROMPTS = 16, 4
MOST_AT_ONCE = 4096
"""Visits under way in one process; clients that come on top of them have to wait, and their latency shows it."""
PROBES, PROBE_SECONDS = 3, 1.0


def add_options(parser: argparse.ArgumentParser, **_: object) -> None:
    """What ``r2sm loadtest`` hands over; Locust's master hands it on to its workers."""
    group = parser.add_argument_group("r2sm")
    group.add_argument("--scenario", default="mixed", choices=tuple(SCENARIOS))
    group.add_argument("--rates", default="", help="arrivals a second, one step for each number")
    group.add_argument("--step-seconds", type=float, default=0.0, help="how long a step is")
    group.add_argument("--transports", default=",".join(TRANSPORTS))
    group.add_argument("--images", default="", help="a folder with images and prompts.txt")
    group.add_argument("--patience", type=float, default=60.0, help="seconds that a client waits")
    group.add_argument("--seed", type=int, default=0, help="0: another one each time")
    group.add_argument("--records", default="", help="where the records are written")
    parser.add_argument("--api-key", default="", env_var="R2SM_API_KEY", is_secret=True)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises `TimeIsUp` in the block after so many seconds."""
    with gevent.Timeout(seconds, TimeIsUp):
        yield


class Counter:
    """Writes the records and the end of the run; lives where all records come together."""

    def __init__(self, runner: Runner, sources: int, path: str) -> None:
        self._runner = runner
        self._sources = sources
        self._path = Path(path) if path else None
        self._ended = False

    def keep(self, environment: Environment, msg: Any, **_: object) -> None:
        """A record has come."""
        self._write(msg.data)

    def done(self, environment: Environment, msg: Any, **_: object) -> None:
        """A source has brought all its clients, or, with a fault, the run is over for all."""
        self._sources -= 1
        if (self._sources == 0 or msg.data) and not self._ended:
            self._ended = True
            self._write(Ending(fault=msg.data).model_dump_json())
            gevent.spawn(self._runner.quit)

    def stopped(self, **_: object) -> None:
        """Locust has stopped; unless it was told to, its workers are lost or somebody has pressed Ctrl-C."""
        if not self._ended:
            self._ended = True
            self._write(Ending(fault="the load generator was stopped before its end").model_dump_json())
            gevent.spawn(self._runner.quit)

    def _write(self, line: str) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


class Bench:
    """What the sources of one process share: pictures, connections, and an eye on whether the server is there."""

    def __init__(self, environment: Environment) -> None:
        given = environment.parsed_options
        assert given is not None
        runner = environment.runner
        assert isinstance(runner, LocalRunner | WorkerRunner)
        self._runner: Runner = runner
        self.scenario: Scenario = SCENARIOS[given.scenario]
        rates = tuple(float(rate) for rate in given.rates.split(",") if rate) or (self.scenario.rate,)
        self.load = Load(rates, given.step_seconds or self.scenario.seconds, self.scenario.wave)
        self.sources: int = given.num_users or 1
        self.transports = [name for name in TRANSPORTS if name in given.transports.split(",")]
        self.chance = chance_of(given.seed, runner.worker_index)
        self.pictures: list[Picture] = (
            folder_pictures(Path(given.images))
            if given.images
            else gevent.get_hub().threadpool.apply(demo_pictures, (DEMO_PICTURES, DEMO_PROMPTS))
        )
        self._environment = environment
        self._url = environment.host or "http://127.0.0.1:8000"
        key = given.api_key or None
        self._http = httpx.Client(
            base_url=self._url,
            headers=bearer(key),
            timeout=None,
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )
        self._looking = Semaphore()
        self._gone = False
        self.visitor = Visitor(self._http, self._url, key, given.patience, within)

    def keep(self, record: Record) -> None:
        """Send a record to whoever counts, and tell Locust's own statistics."""
        self._runner.send_message(RECORD, record.model_dump_json(exclude_none=True))
        self._environment.events.request.fire(
            request_type=record.transport,
            name=self.scenario.name,
            response_time=record.end_to_end_ms or 0.0,
            response_length=0,
            exception=None if record.outcome in (OK, LEFT) else RuntimeError(record.outcome),
            context={},
        )
        if record.outcome[
            :1
        ].isupper():  # the name of an exception: the connection's fault, no problem document
            gevent.spawn(self._look)

    def done(self, fault: str = "") -> None:
        """A source is done, or nobody can go on."""
        self._runner.send_message(DONE, fault)

    def _look(self) -> None:
        """End the run if nobody answers any more."""
        with self._looking:
            for _ in range(PROBES):
                if self._gone or self._alive():
                    return
                gevent.sleep(PROBE_SECONDS)
            self._gone = True
            self.done(f"the server at {self._url} no longer answers")

    def _alive(self) -> bool:
        try:
            return self._http.get("/livez", timeout=PROBE_SECONDS).is_success
        except httpx.HTTPError:
            return False


BENCHES: dict[Environment, Bench] = {}


def prepare(environment: Environment, runner: Runner, **_: object) -> None:
    """Count where all comes together."""
    given = environment.parsed_options
    assert given is not None
    if not isinstance(runner, WorkerRunner):
        counter = Counter(runner, given.num_users or 1, given.records)
        runner.register_message(RECORD, counter.keep)
        runner.register_message(DONE, counter.done)
        environment.events.test_stop.add_listener(counter.stopped)


def open_bench(environment: Environment, **_: object) -> None:
    """Draw the pictures before the first client comes; Locust's workers have the options only now.

    They are drawn in a real thread, so that a worker can tell its master meanwhile that it is alive. The master needs
    none.
    """
    if not isinstance(environment.runner, MasterRunner):
        BENCHES[environment] = Bench(environment)


class Source(User):
    """One of N sources of arrivals."""

    @task
    def send(self) -> None:
        """All of its clients; then it is done."""
        bench = BENCHES[self.environment]
        chance = random.Random(bench.chance.getrandbits(64))
        pictures = rotated(bench.pictures, chance.randrange(len(bench.pictures)))
        visits = Visits(bench.scenario, pictures, bench.transports, chance)
        visiting, began = Pool(MOST_AT_ONCE), time.perf_counter()

        def visit(arrival: float) -> None:
            made = bench.visitor.make(visits.draw(), began + arrival, began, bench.load, gevent.sleep)
            for record in made:
                bench.keep(record)

        for arrival in arrivals(bench.load.share(bench.sources), chance):
            gevent.sleep(max(0.0, began + arrival - time.perf_counter()))
            visiting.spawn(visit, arrival)
        visiting.join()
        bench.done()
        raise StopUser()


events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(prepare)
events.test_start.add_listener(open_bench)
