"""What is known of the request that is being served, for logs, metrics and problem documents."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
OK, CANCELLED = "ok", "cancelled"


@dataclass(slots=True, eq=False)
class Record:
    """One request so far. A `quiet` one, of a machine that watches, is not counted, not traced and hardly logged.

    `outcome` is ``ok``, ``cancelled`` or a problem's slug, once it is known.

    `key` is the name of the API key, as the operator wrote it. `prompts` stays empty unless prompts are logged.
    """

    id: str
    method: str
    route: str = ""
    quiet: bool = False
    key: str = ""
    trace: str | None = None
    outcome: str = ""
    status: int | None = None
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds by stage or mark."""
    prompts: list[str] = field(default_factory=list)
    done: bool = False
    """A pipeline that works for it has come to its last event."""
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """How long the request has been here."""
        return time.perf_counter() - self.began


_current: ContextVar[Record | None] = ContextVar("r2sm_request", default=None)


@contextmanager
def working_for(record: Record) -> Iterator[None]:
    """What runs inside, and the tasks that it begins, work for this request."""
    token = _current.set(record)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Record | None:
    """The request that the running task works for."""
    return _current.get()


def request_id() -> str | None:
    """Its id."""
    record = _current.get()
    return None if record is None else record.id


def note_outcome(slug: str) -> None:
    """The request that the running task works for ends in this problem."""
    if (record := _current.get()) is not None:
        record.outcome = slug


def note_key(name: str) -> None:
    """The request comes with the API key of this name; the name is the operator's, never the client's."""
    if (record := _current.get()) is not None:
        record.key = name


def sane_id(given: str | None) -> str:
    """A client's own request id if it is short and of harmless characters, else a new one."""
    if given is not None and REQUEST_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex
