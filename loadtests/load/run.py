"""Starts Locust for one run, tells how it goes, and reads what it kept."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engines.mllm.leash import leashed
from loadtests.load.arrivals import Load
from loadtests.load.records import Record, read_records
from loadtests.load.scenarios import Scenario, Transport
from loadtests.load.server_side import Reading, read_metrics

LOCUSTFILE = Path(__file__).parents[1] / "locustfile.py"
RECORDS, LOG = "requests.jsonl", "locust.log"
TELL_SECONDS, POLL_SECONDS = 5.0, 0.2
START_SECONDS, GRACE_SECONDS = 180.0, 30.0
"""How long Locust may take to begin, and to end when it is told to."""
WORKERS_SECONDS = 600
"""How long it waits for workers on other machines before it gives up."""
LONG_PAUSE = 10
"""Pauses between a client's prompts are hardly ever longer than so many times their mean."""
LAST_WORDS = 600  # characters of Locust's log


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. `processes` bring the load, or `workers` on other machines that connect to this one."""

    scenario: Scenario
    load: Load
    url: str
    folder: Path
    transports: tuple[Transport, ...]
    images: Path | None = None
    key: str | None = None
    patience: float = 60.0
    seed: int = 0
    processes: int = 1
    workers: int = 0

    def command(self) -> list[str]:
        """Locust's command line; the key goes through the environment."""
        several = {"--processes": self.processes} if self.processes > 1 else {}
        waiting = {"--expect-workers": self.workers, "--expect-workers-max-wait": WORKERS_SECONDS}
        sources = self.workers or self.processes
        options: dict[str, object] = {
            "--host": self.url,
            "--users": sources,
            "--spawn-rate": sources,
            "--scenario": self.scenario.name,
            "--rates": ",".join(f"{rate:g}" for rate in self.load.rates),
            "--step-seconds": self.load.seconds,
            "--transports": ",".join(self.transports),
            "--patience": self.patience,
            "--seed": self.seed,
            "--records": self.folder / RECORDS,
            "--loglevel": "WARNING",
            **({"--images": self.images} if self.images else {}),
            **several,
            **(waiting if self.workers else {}),
        }
        words = [word for name, value in options.items() for word in (name, str(value))]
        return [
            *(sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"),
            *words,
            *(["--master"] if self.workers else []),
        ]


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run showed; `fault` says why it is incomplete, and is empty if it is whole."""

    plan: Plan
    records: list[Record]
    before: Reading
    after: Reading
    fault: str


def run(plan: Plan, tell: Callable[[str], None]) -> Ran:
    """Run Locust to its end, or until it or the server fails, or Ctrl-C; what was measured till then is kept."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    (plan.folder / RECORDS).unlink(missing_ok=True)
    before = read_metrics(plan.url, plan.key, tell)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if plan.key:
        environment["R2SM_API_KEY"] = plan.key
    with (plan.folder / LOG).open("wb") as log:
        command = leashed(plan.command(), GRACE_SECONDS)
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        fault = _watch(child, plan, tell)
    kept = read_records(plan.folder / RECORDS)
    if kept.ending is not None and not (fault and kept.ending.fault):
        fault = kept.ending.fault
    elif not fault:
        words = (plan.folder / LOG).read_text("utf-8", "replace")[-LAST_WORDS:].strip()
        fault = f"the load generator ended with status {child.returncode}: {words}"
    return Ran(plan, kept.records, before, read_metrics(plan.url, plan.key, tell), fault)


def _watch(child: subprocess.Popen[bytes], plan: Plan, tell: Callable[[str], None]) -> str:
    """Wait for Locust, which also hears of a Ctrl-C; returns why it was stopped, if it was.

    It is on a leash: it ends with this process, and so do its own.
    """
    began = told = time.monotonic()
    visit = plan.scenario.prompts * (plan.patience + LONG_PAUSE * plan.scenario.think)
    longest = START_SECONDS + plan.load.total + visit
    try:
        while child.poll() is None:
            now = time.monotonic()
            if plan.workers and not (plan.folder / RECORDS).exists():
                began = now  # the workers may still be coming
            if now - began > longest:
                return f"it was not over after {longest:.0f} s"
            if now - told > TELL_SECONDS:
                told = now
                tell(f"{now - began:4.0f} s  {_lines(plan.folder / RECORDS)} requests")
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        return "it was stopped"
    finally:
        _end(child)
    return ""


def _lines(path: Path) -> int:
    """How many there are; none before Locust writes the first one."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(2 * GRACE_SECONDS)  # the leash itself kills after one
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
