"""What the OpenAPI document says beyond what FastAPI finds by itself: both request bodies, the problems."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from server.errors import PROBLEM_JSON
from server.events import StreamEvent
from server.messages import ClientMessage
from server.schemas import BatchBody, CocoResults, Problem, SegmentBody, SegmentOptions, SegmentResponse

COMPONENT = "#/components/schemas/{model}"
MODELS = (BatchBody, CocoResults, SegmentBody, SegmentOptions, Problem, StreamEvent, ClientMessage)


def _ref(name: str) -> dict[str, str]:
    return {"$ref": COMPONENT.format(model=name)}


SEGMENT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _ref(SegmentBody.__name__)},
            "multipart/form-data": {
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
        "content": {"application/json": {"schema": _ref(BatchBody.__name__)}},
    }
}
IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
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


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem documents that a route may answer with."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_JSON: {"schema": _ref(Problem.__name__)}},
            **({"headers": {"Retry-After": {"schema": {"type": "integer"}}}} if status in (429, 503) else {}),
        }
        for status in statuses
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
    """Add the schemas that the routes refer to by name, and how a key is shown."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        _, schemas = models_json_schema([(model, "validation") for model in MODELS], ref_template=COMPONENT)
        document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
        document["components"]["securitySchemes"] = SECURITY
        for path, item in document["paths"].items():
            for operation in item.values() if path.startswith("/v1/") else ():
                operation["security"] = [{}, *({name: []} for name in SECURITY)]
        return document

    app.openapi = openapi  # type: ignore[method-assign]
