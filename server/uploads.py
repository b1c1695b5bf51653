"""Reading a segment request off the wire, as JSON or multipart, never more of it than is allowed."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from server.errors import INVALID, MALFORMED, MEDIA_TYPE, TOO_LARGE, UPLOAD_TIMEOUT, RequestRejected
from server.images import MEGA, ImageLimits, too_many_bytes
from server.nesting import check_nesting
from server.schemas import BatchBody, FieldFault, ImageSource, SegmentBody, SegmentOptions

OPTIONS_BYTES = 65_536
"""Room for everything but the image."""
SMALL = 65_536
"""A body up to this size is parsed on the event loop; a larger one in a thread."""
DISCARD_FACTOR, DISCARD_SECONDS = 5, 5.0
"""How much of a body that is too large is read to be thrown away: times its limit, and for how long."""
GRACE_SECONDS = 5.0
Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """`image` limits, the `seconds` in which a request must have arrived, and how slow it may be meanwhile.

    `bytes_per_second` is the slowest it may be on the whole, after its first `GRACE_SECONDS`.
    """

    image: ImageLimits
    seconds: float = 30.0
    bytes_per_second: float = 1000.0


@dataclass(frozen=True, slots=True)
class Upload:
    """A request as it came: what is asked, and the image file's bytes or where they are."""

    options: SegmentOptions
    image: bytes | ImageSource


async def read_upload(request: Request, limits: UploadLimits) -> Upload:
    """The request's options and image.

    Raises:
        RequestRejected: too slow, too large, malformed, of another media type, or not valid.
        ImageRejected: the image is too large.
        ClientDisconnect: the client left in the middle.
    """
    media_type = _media_type(request)
    async with _in_time(limits):
        if media_type == "application/json":
            return await _read_json(request, limits, parse_json)
        if media_type == "multipart/form-data":
            async with _form(request, limits) as form:
                return await _from_form(form, limits.image)
    raise RequestRejected(MEDIA_TYPE, "send application/json or multipart/form-data")


async def read_batch(request: Request, limits: UploadLimits) -> BatchBody:
    """A batch, as JSON. Raises what `read_upload` raises."""
    if _media_type(request) != "application/json":
        raise RequestRejected(MEDIA_TYPE, "send application/json")
    async with _in_time(limits):
        return await _read_json(request, limits, _parse_batch)


async def read_image(request: Request, limits: UploadLimits) -> bytes:
    """An image file, bare or as the `image` part of a multipart body. Raises what `read_upload` raises."""
    media_type = _media_type(request)
    async with _in_time(limits):
        if media_type == "multipart/form-data":
            async with _form(request, limits) as form:
                _check_parts(form, {"image"})
                return await _image_in(form, limits.image)
        if media_type.startswith("image/") or media_type == "application/octet-stream":
            chunks = bounded(request, limits.image.max_bytes, limits)
            return b"".join([chunk async for chunk in chunks])
    raise RequestRejected(
        MEDIA_TYPE, "send the file as image/*, application/octet-stream or multipart/form-data"
    )


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def _in_time(limits: UploadLimits) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limits.seconds):
            yield
    except TimeoutError as error:
        message = f"the request's body did not arrive within {limits.seconds:g} s"
        raise RequestRejected(UPLOAD_TIMEOUT, message) from error


async def bounded(request: Request, limit: int, limits: UploadLimits) -> AsyncGenerator[bytes, None]:
    """The body's chunks, up to `limit` bytes. Raises `RequestRejected` if there are more, or they trickle.

    What is not far beyond the limit is then read and thrown away: most clients send everything before they
    look for an answer, and a connection that is closed meanwhile shows them a reset instead of the problem.
    """
    announced = request.headers.get("content-length", "")
    length = int(announced) if announced.isdecimal() else 0
    if length > DISCARD_FACTOR * limit:
        raise _too_large(limit)
    received = 0
    stream = _paced(request.stream(), limits)
    async for chunk in stream:
        received += len(chunk)
        if max(received, length) > limit:
            await _discard(stream, DISCARD_FACTOR * limit - received)
            raise _too_large(limit)
        yield chunk


async def _paced(stream: AsyncIterator[bytes], limits: UploadLimits) -> AsyncGenerator[bytes, None]:
    """The same chunks. Raises `RequestRejected` when fewer bytes have come than must have by now."""
    began, received = asyncio.get_running_loop().time(), 0
    while True:
        due = began + GRACE_SECONDS + received / limits.bytes_per_second
        try:
            async with asyncio.timeout_at(due):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            message = f"the request's body came slower than {limits.bytes_per_second:g} bytes a second"
            raise RequestRejected(UPLOAD_TIMEOUT, message) from error
        if chunk is None:
            return
        received += len(chunk)
        yield chunk


async def _discard(stream: AsyncIterator[bytes], limit: int) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            async for chunk in stream:
                limit -= len(chunk)
                if limit < 0:
                    return


async def _read_json(
    request: Request, limits: UploadLimits, parse: Callable[[bytes, ImageLimits], Parsed]
) -> Parsed:
    limit = base64_length(limits.image.max_bytes) + OPTIONS_BYTES
    body = bytearray()
    async for chunk in bounded(request, limit, limits):
        body += chunk
    if len(body) <= SMALL:
        return parse(bytes(body), limits.image)
    return await asyncio.to_thread(parse, bytes(body), limits.image)


def parse_json(body: bytes, limits: ImageLimits) -> Upload:
    """A JSON request. Raises `RequestRejected` and `ImageRejected`."""
    check_nesting(body)
    try:
        parsed = SegmentBody.model_validate_json(body)
    except ValidationError as error:
        raise not_valid(error) from error
    image = parsed.image
    return Upload(parsed, image if image.data is None else image_bytes(image.data, limits))


def _parse_batch(body: bytes, limits: ImageLimits) -> BatchBody:
    check_nesting(body)
    try:
        return BatchBody.model_validate_json(body)
    except ValidationError as error:
        raise not_valid(error) from error


def image_bytes(data: str, limits: ImageLimits) -> bytes:
    """The file in a JSON request's base64. Raises `RequestRejected` and `ImageRejected`."""
    if len(data) > base64_length(limits.max_bytes):
        raise too_many_bytes(limits)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _fault("image.data", "is not base64 (send the bare data, without a data: prefix)") from error


def base64_length(length: int) -> int:
    """How many characters that many bytes become."""
    return (length + 2) // 3 * 4


class _InMemoryParser(MultiPartParser):
    """The body is bounded already: nothing needs to go to the disk."""

    spool_max_size = 0  # never


@asynccontextmanager
async def _form(request: Request, limits: UploadLimits) -> AsyncIterator[FormData]:
    stream = bounded(request, limits.image.max_bytes + OPTIONS_BYTES, limits)
    parser = _InMemoryParser(request.headers, stream, max_files=2, max_fields=2, max_part_size=OPTIONS_BYTES)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestRejected(MALFORMED, f"the multipart body cannot be read: {error.message}") from error
    except UnicodeError as error:
        raise RequestRejected(MALFORMED, "the multipart body is not in the charset that it names") from error
    try:
        yield form
    finally:
        await form.close()


async def _from_form(form: FormData, limits: ImageLimits) -> Upload:
    _check_parts(form, {"image", "request"})
    data = await _image_in(form, limits)
    options = form["request"]
    text = (
        await options.read() if isinstance(options, UploadFile) else options.encode("utf-8", "surrogatepass")
    )
    if len(text) > OPTIONS_BYTES:
        raise RequestRejected(TOO_LARGE, f"request: more than {OPTIONS_BYTES} bytes")
    check_nesting(text)
    try:
        return Upload(SegmentOptions.model_validate_json(text), data)
    except ValidationError as error:
        raise not_valid(error) from error


def _check_parts(form: FormData, parts: set[str]) -> None:
    """Each of `parts` is there once, and nothing else."""
    names = [name for name, _ in form.multi_items()]
    if unknown := sorted(set(names) - parts):
        raise _fault(unknown[0], "is not a part of this request")
    for name in sorted(parts):
        if names.count(name) != 1:
            raise _fault(name, "must be there once")


async def _image_in(form: FormData, limits: ImageLimits) -> bytes:
    image = form["image"]
    if not isinstance(image, UploadFile):
        raise _fault("image", "must be a file")
    data = await image.read()
    if len(data) > limits.max_bytes:
        raise too_many_bytes(limits)
    return data


def not_valid(error: ValidationError, skip: int = 0) -> RequestRejected:
    """Pydantic's findings; what the client sent is not repeated. `skip` drops the first names of every path."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        return RequestRejected(
            MALFORMED, "the request is not JSON: " + found[0]["msg"].removeprefix("Invalid JSON: ")
        )
    faults = [
        FieldFault(field=".".join(map(str, fault["loc"][skip:])) or fault["type"], message=fault["msg"])
        for fault in found
    ]
    return RequestRejected(INVALID, "; ".join(f"{fault.field}: {fault.message}" for fault in faults), faults)


def _fault(field: str, message: str) -> RequestRejected:
    return RequestRejected(INVALID, f"{field}: {message}", [FieldFault(field=field, message=message)])


def _too_large(limit: int) -> RequestRejected:
    return RequestRejected(TOO_LARGE, f"the request is larger than {limit / MEGA:.1f} MB")
