"""Errors as problem documents (RFC 9457): one table says what each of them is over HTTP."""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route

from engines.errors import (
    BackendUnavailable,
    BundleError,
    CacheFailed,
    DeadlineExceeded,
    EngineError,
    EngineRefused,
    GraphRejected,
    ImageRejected,
    InvalidInput,
    MllmUnavailable,
    Overloaded,
    VisionFailed,
)
from server.schemas import FieldFault, Problem
from server.telemetry.record import note_outcome, request_id

PROBLEM_JSON = "application/problem+json"
URN = "urn:r2sm:problem:"
CLIENT_CLOSED_REQUEST = 499  # nginx's: nobody is left to read it, but a log may

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem. Without a `detail` the error's own message is told."""

    slug: str
    status: int
    title: str
    detail: str = ""


KEY_MISSING = Kind("api-key-missing", 401, "An API key is needed")
KEY_UNKNOWN = Kind("api-key-unknown", 401, "The API key is not known")
RATE_LIMITED = Kind("rate-limited", 429, "Too many requests")
DRAINING = Kind("draining", 503, "The server is stopping")
HEADERS_TOO_LARGE = Kind("headers-too-large", 431, "The request's header is too large")
MALFORMED = Kind("malformed", 400, "The request cannot be read")
UPLOAD_TIMEOUT = Kind("upload-timeout", 408, "The request did not arrive in time")
TOO_LARGE = Kind("request-too-large", 413, "The request is too large")
MEDIA_TYPE = Kind("unsupported-media-type", 415, "The request has an unsupported media type")
INVALID = Kind("invalid-request", 422, "The request is not valid")
CANCELLED = Kind("cancelled", 499, "The request was cancelled")
CONFLICT = Kind("id-in-use", 409, "The id is in use")
NO_SUCH_REQUEST = Kind("no-such-request", 404, "There is no such request")
NO_SUCH_IMAGE = Kind("image-not-found", 404, "There is no such image")
NOT_FORGOTTEN = Kind("image-not-forgotten", 503, "The image may not be forgotten everywhere")
REMOTE_IMAGE = Kind("image-unreachable", 422, "The image cannot be fetched")
NO_SUCH_PAGE = Kind("not-found", 404, "Not Found")
ONLY_LOCAL = Kind("only-local", 403, "This is for the server's own machine")
NOT_ACCEPTABLE = Kind("not-acceptable", 406, "No such form of answer")
NOT_READY = Kind("not-ready", 503, "The server is not ready")
INTERNAL = Kind("internal", 500, "The server failed", "An unexpected error; it is in the server's log.")
UNAVAILABLE = Kind(
    "model-unavailable", 503, "The model is not available", "The language model does not answer."
)

OVERLOADED = Kind("overloaded", 503, "The server is busy", "Too many requests are under way.")

BY_ERROR: dict[type[Exception], Kind] = {
    InvalidInput: INVALID,
    MllmUnavailable: UNAVAILABLE,
    Overloaded: OVERLOADED,
    DeadlineExceeded: Kind("deadline-exceeded", 504, "The deadline has passed"),
    VisionFailed: Kind(
        "vision-failed", 500, "The vision engine failed", "This image could not be processed."
    ),
    BackendUnavailable: INTERNAL,
    BundleError: INTERNAL,
    CacheFailed: INTERNAL,
    EngineRefused: INTERNAL,
    GraphRejected: INTERNAL,
    EngineError: INTERNAL,
}
IMAGE_STATUS = {"too_many_bytes": 413}
EXPECTED = (OVERLOADED, DRAINING)
"""Refusals that come by the hundred while a server does as it should: the access log's line about each is enough."""


class RequestRejected(Exception):
    """The request is refused before an engine sees it; `faults` names the fields.

    `retry_after` is in seconds; 0 where trying again is of no use.
    """

    def __init__(
        self, kind: Kind, detail: str, faults: Sequence[FieldFault] = (), retry_after: float = 0
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.faults = list(faults)
        self.retry_after = retry_after


def add_error_handlers(app: FastAPI) -> None:
    """Every error of every route leaves as a problem document."""
    app.add_exception_handler(ClientDisconnect, _client_left)
    app.add_exception_handler(HTTPException, _http_error)
    for kind in (RequestRejected, EngineError, Exception):
        app.add_exception_handler(kind, _any_error)


def kind_of(error: Exception) -> Kind:
    """The table's row for an error: the one of its nearest class."""
    if isinstance(error, RequestRejected):
        return error.kind
    if isinstance(error, ImageRejected):
        slug = f"image-{error.reason.replace('_', '-')}"
        return Kind(slug, IMAGE_STATUS.get(error.reason, 422), "The image cannot be used")
    return next((BY_ERROR[base] for base in type(error).__mro__ if base in BY_ERROR), INTERNAL)


def kind_of_status(status: int) -> Kind:
    """A kind that says no more than HTTP does."""
    phrase = HTTPStatus(status).phrase
    return Kind(phrase.lower().replace(" ", "-"), status, phrase)


def faults_of(error: Exception) -> list[FieldFault]:
    """The fields at fault. An `InvalidInput` says "field: what is wrong"."""
    if isinstance(error, RequestRejected):
        return error.faults
    if isinstance(error, ImageRejected):
        return [FieldFault(field="image", message=str(error))]
    if isinstance(error, InvalidInput):
        field, _, message = str(error).partition(": ")
        return [FieldFault(field=field, message=message)] if message else []
    return []


def problem(kind: Kind, detail: str, faults: Sequence[FieldFault] = ()) -> Problem:
    """A problem document; its `instance` is new and, like its `request_id`, can be looked up in the log."""
    return Problem(
        type=URN + kind.slug,
        title=kind.title,
        status=kind.status,
        detail=detail,
        instance=f"urn:uuid:{uuid.uuid4()}",
        errors=list(faults),
        request_id=request_id(),
    )


def as_response(document: Problem, retry_after: float = 0) -> Response:
    """A problem document as a response; `retry_after` is in seconds, rounded up."""
    note_outcome(document.type.removeprefix(URN))
    headers = {"Retry-After": str(math.ceil(retry_after))} if retry_after else {}
    if document.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="r2sm"'
    if document.status in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT):
        headers["Connection"] = "close"  # the rest of the body will not be read
    return Response(document.model_dump_json(), document.status, headers, PROBLEM_JSON)


def problem_of(error: Exception, where: str) -> Problem:
    """An error as a problem document. One of the server's own making is logged, with `where` it happened.

    It is a warning, unless it is `EXPECTED`.
    """
    kind = kind_of(error)
    document = problem(kind, kind.detail or str(error), faults_of(error))
    if kind.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        level = logging.DEBUG if kind in EXPECTED else logging.WARNING
        logger.log(level, "%s: %s: %s: %s", where, document.instance, type(error).__name__, error)
    return document


async def _any_error(request: Request, error: Exception) -> Response:
    document = problem_of(error, f"{request.method} {request.url.path}")
    return as_response(document, getattr(error, "retry_after", 0))


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such path, no such method."""
    assert isinstance(error, HTTPException)
    kind = kind_of_status(error.status_code)
    response = as_response(problem(kind, f"{request.method} {request.url.path}: {kind.title}"))
    response.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (methods := _methods_of(request)):
        response.headers["Allow"] = ", ".join(sorted(methods))  # Starlette names those of one route only
    return response


def _methods_of(request: Request) -> set[str]:
    """What a request's path may be asked for, over all routes of that path."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in matching for method in route.methods or ()}


async def _client_left(request: Request, error: Exception) -> Response:
    logger.info("%s %s: the client left", request.method, request.url.path)
    return Response(status_code=CLIENT_CLOSED_REQUEST)
