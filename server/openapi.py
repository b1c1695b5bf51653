"""What the OpenAPI document says beyond what FastAPI finds by itself: bodies, problems, examples, the WebSocket."""

from __future__ import annotations

from collections.abc import Set
from http import HTTPStatus
from typing import Any, get_args

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from server import examples
from server.admission.callers import PRIORITY_HEADER
from server.admission.keys import Priority
from server.errors import PROBLEM_JSON, Kind
from server.events import StreamEvent
from server.messages import ClientMessage
from server.problem_examples import OFF_ROUTES, SOCKET_ONLY, of_status
from server.problem_examples import examples as problem_examples
from server.schemas import BatchBody, CocoResults, Problem, SegmentBody, SegmentOptions, SegmentResponse

FRAMEWORK_SCHEMAS = ("HTTPValidationError", "ValidationError")
COMPONENT = "#/components/schemas/{model}"
MODELS = (BatchBody, CocoResults, SegmentBody, SegmentOptions, Problem, StreamEvent, ClientMessage)


def _ref(name: str) -> dict[str, str]:
    return {"$ref": COMPONENT.format(model=name)}


def _named(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: {"value": value} for name, value in values.items()}


FILE = "@photo.png"
"""Stands for a file's bytes in examples of multipart bodies."""


SEGMENT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _ref(SegmentBody.__name__),
                "examples": _named(examples.REQUESTS),
            },
            "multipart/form-data": {
                "example": {"image": FILE, "request": examples.OPTIONS},
                "schema": {
                    "type": "object",
                    "required": ["image", "request"],
                    "additionalProperties": False,
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "request": _ref(SegmentOptions.__name__),
                    },
                },
                "encoding": {"request": {"contentType": "application/json"}},
            },
        },
    }
}
BATCH_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _ref(BatchBody.__name__), "example": examples.BATCH},
        },
    }
}
IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "example": {"image": FILE},
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "additionalProperties": False,
                    "properties": {"image": {"type": "string", "format": "binary"}},
                },
            },
        },
    }
}
SEGMENT_FORMS: dict[str, Any] = {
    "description": "The masks; the stream's schema is that of each event's data.",
    "content": {
        "application/json": {"schema": _ref(SegmentResponse.__name__)},
        "text/event-stream": {"schema": _ref(StreamEvent.__name__)},
        "image/png": {"schema": {"type": "string", "format": "binary"}},
        "application/vnd.coco.results+json": {"schema": _ref(CocoResults.__name__)},
    },
}
SOCKETS: dict[str, Any] = {
    "/v1/segment/stream": {
        "summary": "Stream",
        "description": "Several requests on one connection, one after another or side by side. "
        "A `segment` message without `image` is followed by a binary frame that holds the file, before another "
        "one without, even if the request has failed meanwhile; only a request that is cancelled needs no frame.",
        "client": {"schema": _ref(ClientMessage.__name__), "examples": _named(examples.MESSAGES)},
        "server": {"schema": _ref(StreamEvent.__name__), "examples": _named(examples.EVENTS)},
        "problems": {"schema": _ref(Problem.__name__), "examples": problem_examples(list(SOCKET_ONLY))},
        "closeCodes": {
            "1008": "The protocol was broken, the key is not known (any more), or nothing was taken for too long.",
            "1009": "A frame is too large.",
            "1012": "The server is stopping, and all that was asked for has ended.",
            "1013": "Too many connections are open, or the server is stopping: try again later.",
        },
    }
}
"""The WebSocket, which OpenAPI has no words for, as the extension `x-websockets`."""
ANSWERS: dict[tuple[str, str], dict[str, Any]] = {
    ("/v1/segment", "application/json"): {
        "one mask": examples.RESPONSE,
        "both masks, with everything": examples.BOTH,
        "no such object": examples.NOTHING,
    },
    ("/v1/segment", "text/event-stream"): examples.EVENTS,
    ("/v1/segment", "application/vnd.coco.results+json"): {"two ids of one's own": examples.COCO},
    ("/v1/segment/batch", "application/json"): {"one of two failed": examples.BATCH_RESPONSE},
    ("/v1/images", "application/json"): {"stored": examples.STORED},
    ("/v1/images/{id}", "application/json"): {"stored": examples.STORED},
    ("/v1/models", "application/json"): {"the demo model": {"object": "list", "data": [examples.MODEL]}},
    ("/livez", "application/json"): {"live": {"status": "live"}},
    ("/readyz", "application/json"): {"ready": {"status": "ready"}},
}
"""What a path answers with when all is well, by media type."""
DESCRIPTION = """An image and a sentence go in; streamed reasoning, a modal or amodal decision, a heatmap and masks
come out. Every error is a problem document (RFC 9457) with a stable `type`."""


def problems(*ways: int | Kind, but: Set[str] = frozenset()) -> dict[int | str, dict[str, Any]]:
    """The problem documents that a route may answer with: every kind of a status, except `but`, or just one kind."""
    kinds: dict[int, list[Kind]] = {}
    for way in ways:
        found = of_status(way) if isinstance(way, int) else [way]
        status = way if isinstance(way, int) else way.status
        kinds.setdefault(status, []).extend(kind for kind in found if kind.slug not in but)
    return {status: _problem(status, found) for status, found in kinds.items()}


def _problem(status: int, kinds: list[Kind]) -> dict[str, Any]:
    headers = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return {
        "description": HTTPStatus(status).phrase,
        "content": {PROBLEM_JSON: {"schema": _ref(Problem.__name__), "examples": problem_examples(kinds)}},
        **({"headers": headers} if status in (429, 503) else {}),
    }


PRIORITY: dict[str, Any] = {
    "name": PRIORITY_HEADER,
    "in": "header",
    "required": False,
    "description": "How urgent the request is, in place of what its key says.",
    "schema": {"type": "string", "enum": list(get_args(Priority))},
}
SECURITY: dict[str, Any] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, where the server asks for one.",
    },
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def complete_openapi(app: FastAPI) -> None:
    """Add the schemas that the routes refer to by name, the examples and the WebSocket."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(generate())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    _, schemas = models_json_schema([(model, "validation") for model in MODELS], ref_template=COMPONENT)
    known = document.setdefault("components", {}).setdefault("schemas", {})
    known.update(schemas["$defs"])
    for name in FRAMEWORK_SCHEMAS:
        known.pop(name, None)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete_operation(path, method, operation)
    document["components"]["securitySchemes"] = SECURITY
    document["x-websockets"] = SOCKETS
    document["x-problems"] = {"examples": problem_examples(list(OFF_ROUTES))}
    return document


def _complete_operation(path: str, method: str, operation: dict[str, Any]) -> None:
    """Its answers' examples; without the error that FastAPI announces for parameters, which is never sent."""
    if path.startswith("/v1/"):
        operation["security"] = [{}, *({name: []} for name in SECURITY)]
        operation.setdefault("parameters", []).append(PRIORITY)
    answers = operation["responses"]
    for status, answer in list(answers.items()):
        if "HTTPValidationError" in str(answer):
            del answers[status]
        elif method == "head":
            answer.pop("content", None)
        elif status.startswith("2"):
            for media_type, content in answer.get("content", {}).items():
                if (path, media_type) in ANSWERS:
                    content["examples"] = _named(ANSWERS[path, media_type])
    for parameter in operation.get("parameters", ()):
        if parameter["name"] == "id":
            parameter["example"] = examples.IMAGE_ID
