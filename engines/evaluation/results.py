"""The results of a run as a file: one JSON line a query, so that a run that breaks off can go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from engines.evaluation.outcomes import Answer
from engines.evaluation.questions import Fault, FaultyData, Question
from engines.events import DecisionSource, MaskType, Rle

VERSION = 3


class Record(BaseModel):
    """One query's answer, or why there was none. `key` is a digest of what was asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    key: str
    latency_ms: float | None = None
    error: str | None = None
    mask_type: MaskType | None = None
    reasoning: str = ""
    masks: dict[MaskType, list[Rle]] = {}
    timings_ms: dict[str, float] = {}
    scores: dict[MaskType, list[float]] = {}
    confidence: float | None = None
    source: DecisionSource = "model"
    heatmap: Rle | None = None

    @classmethod
    def of(
        cls, question: Question, answer: Answer | None, latency_ms: float | None, error: str | None
    ) -> Record:
        """What came of a question."""
        told: dict[str, Any] = {"latency_ms": latency_ms, "error": error}
        if answer is not None:
            told |= {name: getattr(answer, name) for name in Answer.__dataclass_fields__}
        return cls(label=question.label, key=key_of(question), **told)

    def answer(self) -> Answer | None:
        """The answer; None if there was none."""
        if self.mask_type is None or self.error is not None:
            return None
        return Answer(**{name: getattr(self, name) for name in Answer.__dataclass_fields__})


class Run(BaseModel):
    """The first line of a file: what the run asked of whom. A run goes on only with the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = VERSION
    dataset: str
    split: str | None = None
    mask_type: str = "auto"
    url: str = ""
    model: str = ""
    heatmaps: bool = False


def key_of(question: Question) -> str:
    """A digest of the picture, the words and the type, to tell that an answer belongs to this very question."""
    asked = hashlib.sha256(question.image)
    asked.update(json.dumps([question.prompt, question.mask_type]).encode())
    return asked.hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a file of results held: the last record of each query, and lines that could not be used."""

    records: dict[str, Record]
    faults: tuple[Fault, ...]


class Results:
    """A file of results, open for more. Lines are written whole and flushed one by one."""

    def __init__(self, path: Path, run: Run, *, strict: bool = False) -> None:
        """Read what is there, if anything is, and cut off a line that was never finished.

        Raises:
            FaultyData: the file belongs to another run; or, with `strict`, holds a line that cannot be used.
        """
        self.earlier = _read(path, run)
        if strict and self.earlier.faults:
            raise FaultyData(self.earlier.faults[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_unfinished(path)
        self._file: IO[str] = path.open("a", encoding="utf-8")
        if not path.stat().st_size:
            self._write(run.model_dump_json())

    def add(self, record: Record) -> None:
        """Append a record."""
        self._write(record.model_dump_json(exclude_defaults=True))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()


def _read(path: Path, run: Run) -> Earlier:
    *lines, unfinished = path.read_bytes().split(b"\n") if path.exists() else [b""]
    faults = []
    if not lines and not run.model_dump_json().encode().startswith(unfinished):
        raise _no_results(path)
    if unfinished:
        fault = Fault("results_line", f"{path.name}:{len(lines) + 1}", "the last line was never finished")
        faults.append(fault)
    records: dict[str, Record] = {}
    for number, line in enumerate(lines, 1):
        if number == 1:
            _check_run(path, line, run)
        else:
            _keep(records, faults.append, line, f"{path.name}:{number}")
    return Earlier(records, tuple(faults))


def _no_results(path: Path) -> FaultyData:
    return FaultyData(Fault("results_line", f"{path.name}:1", "the file does not begin as results do"))


def _check_run(path: Path, head: bytes, run: Run) -> None:
    try:
        found = Run.model_validate_json(head)
    except ValidationError as error:
        raise _no_results(path) from error
    if found != run:
        message = f"the results are of {found.model_dump(exclude={'version'})}, not of this run"
        raise FaultyData(Fault("results_line", f"{path.name}:1", message))


def _keep(records: dict[str, Record], note: Callable[[Fault], object], line: bytes, where: str) -> None:
    try:
        record = Record.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        note(Fault("results_line", where, f"the line cannot be used: {first['msg']}"))
    else:
        records[record.label] = record


def _cut_unfinished(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with path.open("r+b") as file:
            file.truncate(end)
