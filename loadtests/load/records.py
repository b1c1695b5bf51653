"""What is kept of each request, one JSON line each; the last line says how the run ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from loadtests.load.scenarios import Transport

OK, LEFT = "ok", "left"


class Record(BaseModel):
    """One request. `intended` is the second of the run at which it was to be sent; the other times are milliseconds
    since then, None where it did not come so far or the transport does not show it.

    `sent_ms` is what the load generator itself was late. `outcome` is ``ok``, ``left``, the slug of a problem, or the
    name of what went wrong with the connection.
    """

    model_config = ConfigDict(frozen=True)

    step: int
    transport: Transport
    nth: int
    """How many prompts the client had asked about its image before."""
    intended: float
    sent_ms: float
    outcome: str
    ttft_ms: float | None = None
    ttfm_ms: float | None = None
    end_to_end_ms: float | None = None
    ms_per_token: float | None = None
    reasoning_tokens: int = 0
    """As the answer counts them."""
    stages: dict[str, float] = {}


class Ending(BaseModel):
    """How the run ended; `fault` is empty when it came to its end."""

    model_config = ConfigDict(frozen=True)

    fault: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What a file of records holds. `ending` is None when whoever wrote it was broken off."""

    records: list[Record]
    ending: Ending | None


def read_records(path: Path) -> Kept:
    """All whole lines of a file; one that was never finished is left out."""
    kept: list[Record] = []
    ending: Ending | None = None
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                if b'"fault"' in line:
                    ending = Ending.model_validate_json(line)
                else:
                    kept.append(Record.model_validate_json(line))
            except ValidationError:
                break
    return Kept(kept, ending)
