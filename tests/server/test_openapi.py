"""The OpenAPI document is complete: bodies have valid examples, problems are told of where they occur."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jsonschema_rs import Draft202012Validator
from pydantic import BaseModel

import engines
import server
from engines.vision import masks
from server import examples
from server.app import create_app
from server.errors import PROBLEM_JSON, URN
from server.events import StreamEvent
from server.messages import ClientMessage
from server.openapi import FILE
from server.problem_examples import IMAGE_FAULTS, OFF_ROUTES, SOCKET_ONLY, all_kinds
from server.schemas import BatchBody, SegmentBody, SegmentOptions, SegmentResponse


def _never() -> Any:
    raise AssertionError("nothing is started to describe the interface")


DOCUMENT = create_app(_never).openapi()
BINARY = ("image/png", "image/*", "application/octet-stream")


class Body(NamedTuple):
    """A body of a request or an answer; `status` is empty for a request."""

    where: str
    status: str
    media_type: str
    content: dict[str, Any]

    @property
    def examples(self) -> list[Any]:
        if "example" in self.content:
            return [self.content["example"]]
        return [example["value"] for example in self.content.get("examples", {}).values()]


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def bodies() -> Iterator[Body]:
    for where, operation in operations():
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            yield Body(where, "", media_type, content)
        for status, answer in operation["responses"].items():
            for media_type, content in answer.get("content", {}).items():
                yield Body(where, status, media_type, content)


def told(body: Body) -> str:
    return f"{body.where} {body.status} {body.media_type}"


@pytest.mark.parametrize("body", [body for body in bodies() if body.media_type not in BINARY], ids=told)
def test_every_body_has_examples_and_they_are_valid(body: Body) -> None:
    assert body.examples
    validator = Draft202012Validator({**body.content["schema"], "components": DOCUMENT["components"]})
    for example in body.examples:
        validator.validate(example)


def test_every_operation_is_described_and_has_an_example_of_what_it_answers() -> None:
    for where, operation in operations():
        assert operation["summary"], where
        assert operation["description"], where
        answers = [body for body in bodies() if body.where == where and body.status.startswith("2")]
        assert where.startswith(("HEAD", "DELETE")) or any(body.examples for body in answers), where


def test_every_kind_of_problem_is_told_of_at_its_status() -> None:
    found = {
        (int(body.status), example["type"])
        for body in bodies()
        if body.media_type == PROBLEM_JSON
        for example in body.examples
    }
    on_sockets = DOCUMENT["x-websockets"]["/v1/segment/stream"]["problems"]["examples"]
    assert {kind.slug for kind in SOCKET_ONLY} == set(on_sockets)
    off_routes = DOCUMENT["x-problems"]["examples"]
    assert {kind.slug for kind in OFF_ROUTES} == set(off_routes)
    elsewhere = {*SOCKET_ONLY, *OFF_ROUTES}
    assert found == {(kind.status, URN + kind.slug) for kind in all_kinds() if kind not in elsewhere}


def test_problem_examples_bear_their_own_status() -> None:
    for body in bodies():
        if body.media_type == PROBLEM_JSON:
            assert {example["status"] for example in body.examples} == {int(body.status)}


def test_every_reason_to_refuse_an_image_is_known() -> None:
    roots = [Path(package.__file__ or "").parent for package in (engines, server)]
    calls = [
        node
        for root in roots
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ImageRejected"
    ]
    reasons = {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}
    assert reasons == set(IMAGE_FAULTS)


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (SegmentBody, list(examples.REQUESTS.values())),
        (SegmentOptions, [examples.OPTIONS, examples.EVERYTHING]),
        (BatchBody, [examples.BATCH]),
        (SegmentResponse, [examples.RESPONSE, examples.BOTH, examples.NOTHING]),
        (StreamEvent, list(examples.EVENTS.values())),
        (ClientMessage, list(examples.MESSAGES.values())),
    ],
)
def test_examples_are_what_the_server_itself_takes_and_gives(
    model: type[BaseModel], values: list[dict[str, Any]]
) -> None:
    for value in values:
        model.model_validate_json(json.dumps(value))


def test_the_masks_of_the_examples_are_masks() -> None:
    for mask, rle in ((examples.AMODAL, examples.AMODAL_RLE), (examples.MODAL, examples.MODAL_RLE)):
        assert mask["rle"] == rle
        assert masks.decode(rle).sum() == mask["area"]
    assert masks.subtract(examples.AMODAL_RLE, examples.MODAL_RLE).rle == examples.HIDDEN_RLE


def test_every_event_and_message_has_an_example() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for name, values in (("StreamEvent", examples.EVENTS), ("ClientMessage", examples.MESSAGES)):
        types = set(schemas[name]["discriminator"]["mapping"])
        assert types - {value["type"] for value in values.values()} <= {"error", "pong"}


def test_the_framework_announces_nothing_that_is_never_sent() -> None:
    assert "HTTPValidationError" not in str(DOCUMENT)
    assert FILE in str(DOCUMENT)
