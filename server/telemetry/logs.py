"""The log on standard error: one JSON object a line for machines, or plain text for people."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

from server.telemetry.record import current

LogFormat = Literal["auto", "json", "text"]
FIELDS = ("route", "outcome", "status", "duration_ms", "stages_ms", "prompts")
"""What the access log says beside its message."""


class JsonFormatter(logging.Formatter):
    """``time``, ``level``, ``logger`` and ``message``; in a request also its id, trace and API key's name."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in the message."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request := current()) is not None:
            line |= {"request_id": request.id, "trace_id": request.trace, "key": request.key}
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        said = {name: value for name, value in line.items() if value not in (None, "", [], {})}
        return json.dumps(said, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, logger and message; in a request also its id, and the prompts where they are logged."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without an exception's trace, which the base class puts below it."""
        request, prompts = current(), getattr(record, "prompts", None)
        line = super().formatMessage(record)
        line = line if request is None else f"{line} [{request.id}]"
        return f"{line} {json.dumps(prompts, ensure_ascii=False)}" if prompts else line


def start_logging(level: str, format: LogFormat) -> None:
    """Log to standard error, JSON unless that is a terminal; libraries only speak up when something is wrong."""
    as_json = format == "json" or (format == "auto" and not sys.stderr.isatty())
    printing = logging.StreamHandler()
    printing.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[printing])
    for name in ("server", "engines"):
        logging.getLogger(name).setLevel(level.upper())
