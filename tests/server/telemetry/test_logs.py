"""The log: whole JSON lines whatever is logged, with a request's fields, and without what clients sent."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from server.telemetry.logs import JsonFormatter, TextFormatter, start_logging
from server.telemetry.record import Record, note_key, working_for
from server.telemetry.telemetry import Telemetry
from tests.server.asking import PHOTO, as_json, post, refusal
from tests.server.conftest import Gateway, OpenGateway

SECRET = "the secret mug of Mrs. Miller"


@contextmanager
def logged(formatter: logging.Formatter) -> Iterator[io.StringIO]:
    """What the gateway and the engines log, down to DEBUG, as the formatter writes it."""
    written = io.StringIO()
    printing = logging.StreamHandler(written)
    printing.setFormatter(formatter)
    loggers = [logging.getLogger(name) for name in ("server", "engines")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(printing)
        logger.setLevel(logging.DEBUG)
    try:
        yield written
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(printing)
            logger.setLevel(level)


def lines(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


@pytest.fixture
async def telling(open_gateway: OpenGateway) -> AsyncIterator[Gateway]:
    async with open_gateway(telemetry=Telemetry(log_prompts=True)) as gateway:
        yield gateway


@asynccontextmanager
async def asked(gateway: Gateway) -> AsyncIterator[list[dict[str, Any]]]:
    """The access log of one good and one failing request."""
    with logged(JsonFormatter()) as written:
        headers = {"headers": {"x-request-id": "r1"}}
        await post(gateway, as_json(SECRET) | headers)
        gateway.mllm.failing = {"decide"}
        await post(gateway, as_json(SECRET) | headers)
        yield lines(written)


async def test_a_request_is_one_line(gateway: Gateway) -> None:
    async with asked(gateway) as seen:
        good, bad = (line for line in seen if line["logger"] == "server.access")
    assert good["message"].startswith("POST /v1/segment: ok in ")
    assert (good["level"], good["request_id"], good["outcome"], good["status"]) == ("info", "r1", "ok", 200)
    assert good["stages_ms"].keys() >= {"queue", "image", "encode", "reason", "ttft", "ttfm", "total"}
    assert good["duration_ms"] >= good["stages_ms"]["total"] > 0
    assert (bad["outcome"], bad["status"]) == ("model-unavailable", 503)
    [why] = [line for line in seen if "decide failed" in line["message"]]
    assert (why["request_id"], why["level"]) == ("r1", "warning")


async def test_a_refusal_for_want_of_room_is_one_line_of_information(open_gateway: OpenGateway) -> None:
    async with open_gateway(max_in_flight=1, max_queued=0) as gateway, gateway.services.admission.place():
        with logged(JsonFormatter()) as written:
            await refusal(gateway, as_json(), 503, "overloaded")
    seen = [line for line in lines(written) if line["level"] != "debug"]
    assert [(line["logger"], line["level"], line["outcome"]) for line in seen] == [
        ("server.access", "info", "overloaded")
    ]


async def test_neither_prompts_nor_images_are_logged(gateway: Gateway) -> None:
    async with asked(gateway) as seen:
        text = json.dumps(seen)
    assert "Miller" not in text
    assert as_json()["json"]["image"]["data"][:40] not in text
    assert len(text) < 5_000 + len(PHOTO)


async def test_prompts_are_logged_where_that_is_wanted(telling: Gateway) -> None:
    async with asked(telling) as seen:
        good, _ = (line for line in seen if line["logger"] == "server.access")
    assert good["prompts"] == [SECRET]


async def test_probes_are_not_worth_an_info(gateway: Gateway) -> None:
    with logged(JsonFormatter()) as written:
        for path in ("/livez", "/readyz", "/metrics"):
            await gateway.client.get(path)
    assert [line["level"] for line in lines(written) if line["logger"] == "server.access"] == ["debug"] * 3


def format_one(formatter: logging.Formatter, message: str, *arguments: object) -> str:
    return formatter.format(logging.LogRecord("server.x", logging.INFO, "x.py", 1, message, arguments, None))


def test_a_line_is_a_line_whatever_is_in_it() -> None:
    line = format_one(JsonFormatter(), "two\nlines %s \u2028 \x00", '"}')
    assert "\n" not in line
    assert json.loads(line)["message"] == 'two\nlines "} \u2028 \x00'
    assert "request_id" not in json.loads(line)


def test_the_key_and_the_trace_are_named() -> None:
    with working_for(Record("r1", "POST", trace="0af7")):
        note_key("ci")
        line = json.loads(format_one(JsonFormatter(), "x"))
    assert (line["request_id"], line["key"], line["trace_id"]) == ("r1", "ci", "0af7")


def test_plain_text_names_the_request() -> None:
    with working_for(Record("r1", "POST")):
        assert format_one(TextFormatter(), "hello").endswith("INFO server.x: hello [r1]")
    assert format_one(TextFormatter(), "hello").endswith("INFO server.x: hello")


def test_exceptions_are_part_of_the_line() -> None:
    try:
        raise ZeroDivisionError("nought")
    except ZeroDivisionError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("server.x", logging.ERROR, "x.py", 1, "failed", None, info)
    assert json.loads(JsonFormatter().format(record))["exception"].endswith("ZeroDivisionError: nought")
    assert TextFormatter().format(record).endswith("ZeroDivisionError: nought")


@pytest.mark.parametrize(("wanted", "terminal", "formatter"), [
    ("auto", False, JsonFormatter), ("auto", True, TextFormatter),
    ("text", False, TextFormatter), ("json", True, JsonFormatter),
])  # fmt: skip
def test_json_unless_somebody_watches(
    monkeypatch: pytest.MonkeyPatch, wanted: Any, terminal: bool, formatter: type[logging.Formatter]
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(logging, "basicConfig", lambda **options: given.update(options))
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    start_logging("info", wanted)
    [printing] = given["handlers"]
    assert type(printing.formatter) is formatter


async def test_tasks_of_one_request_do_not_see_another() -> None:
    seen: list[str] = []

    async def work(id: str) -> None:
        with working_for(Record(id, "POST")):
            await asyncio.sleep(0)
            seen.append(json.loads(format_one(JsonFormatter(), id))["request_id"])

    await asyncio.gather(*(work(str(number)) for number in range(5)))
    assert seen == [str(number) for number in range(5)]
