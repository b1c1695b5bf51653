"""Every kind of problem as an example document, for the OpenAPI description."""

from __future__ import annotations

import uuid
from typing import Any

from engines.errors import ImageRejected
from server import errors
from server.errors import (
    BY_ERROR,
    CANCELLED,
    CONFLICT,
    HEADERS_TOO_LARGE,
    NO_SUCH_REQUEST,
    NOT_READY,
    ONLY_LOCAL,
    URN,
    Kind,
    faults_of,
    kind_of,
)
from server.schemas import FieldFault, Problem

IMAGE_FAULTS = {
    "too_many_bytes": "the image is larger than 20 MB",
    "too_many_pixels": "the image has 48,000,000 pixels, at most 40,000,000 are allowed",
    "not_an_image": "this is not an image of a known format (JPEG, PNG, WEBP, GIF, BMP)",
    "aspect_ratio": "one side is more than 100 times the other",
    "animated": "animated images are not supported: send one frame",
    "truncated": "the image is truncated: its data ends too early",
    "damaged": "the image is damaged: its data cannot be decoded",
}
"""What an `ImageRejected` of each reason says."""
DETAILS = {
    "malformed": "the request is not JSON: expected value at line 1 column 1",
    "upload-timeout": "the request's body did not arrive within 30 s",
    "request-too-large": "the request is larger than 26.7 MB",
    "unsupported-media-type": "send application/json or multipart/form-data",
    "invalid-request": "prompt: Field required",
    "cancelled": "cancelled by the client",
    "id-in-use": 'a request with the id "a" is under way',
    "no-such-request": 'no request with the id "a" is under way',
    "image-not-found": 'there is no image "sha256:…" here: it was never uploaded, was deleted, or has expired',
    "image-unreachable": "images are not fetched from this host",
    "not-acceptable": "the answer comes as application/json, text/event-stream, image/png",
    "not-ready": "not ready: mllm.reason",
    "deadline-exceeded": "the request was not done within 60 s",
}
FIELDS = {
    "invalid-request": FieldFault(field="prompt", message="Field required"),
    "image-not-found": FieldFault(field="image.id", message=DETAILS["image-not-found"]),
    "image-unreachable": FieldFault(field="image.url", message=DETAILS["image-unreachable"]),
    "not-ready": FieldFault(field="mllm.reason", message="no server answers"),
    "id-in-use": FieldFault(field="id", message=DETAILS["id-in-use"]),
    "no-such-request": FieldFault(field="id", message=DETAILS["no-such-request"]),
}
SOCKET_ONLY = (CANCELLED, CONFLICT, NO_SUCH_REQUEST)
"""Kinds that only a WebSocket's events tell of."""
OFF_ROUTES = (HEADERS_TOO_LARGE, ONLY_LOCAL)
"""Kinds that are met before any route is known, or on pages that the document leaves out."""
NAMED_ONLY = (*SOCKET_ONLY, *OFF_ROUTES, NOT_READY)
"""Kinds that not every route with their status can answer with."""


def examples(kinds: list[Kind]) -> dict[str, dict[str, Any]]:
    """OpenAPI examples by name."""
    return {kind.slug: {"summary": kind.title, "value": _example(kind)} for kind in kinds}


def of_status(status: int) -> list[Kind]:
    """The kinds of problem that any route may mean by a status."""
    return [kind for kind in all_kinds() if kind.status == status and kind not in NAMED_ONLY]


def all_kinds() -> list[Kind]:
    """The table's rows, and one for every reason to refuse an image; ordered by status."""
    named = [value for value in vars(errors).values() if isinstance(value, Kind)]
    images = [kind_of(ImageRejected(reason, "")) for reason in IMAGE_FAULTS]
    distinct = dict.fromkeys([*named, *BY_ERROR.values(), *images])
    return sorted(distinct, key=lambda kind: (kind.status, kind.slug))


def _example(kind: Kind) -> dict[str, Any]:
    reason = kind.slug.removeprefix("image-").replace("-", "_")
    refused = ImageRejected(reason, IMAGE_FAULTS[reason]) if reason in IMAGE_FAULTS else None
    faults = [FIELDS[kind.slug]] if kind.slug in FIELDS else faults_of(refused) if refused else []
    return Problem(
        type=URN + kind.slug,
        title=kind.title,
        status=kind.status,
        detail=kind.detail or (str(refused) if refused else DETAILS.get(kind.slug, kind.title)),
        instance=f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, URN + kind.slug)}",
        errors=faults,
    ).model_dump()
