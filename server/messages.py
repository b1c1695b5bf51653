"""What a client may say on a WebSocket."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, RootModel, StringConstraints, ValidationError
from pydantic_core import from_json

from server.errors import RequestRejected
from server.nesting import check_nesting
from server.schemas import ImageSource, RequestModel, SegmentOptions
from server.uploads import not_valid

ClientId = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class SegmentMessage(SegmentOptions):
    """Begin a request. Without `image` the next binary frame is its image file, even if it has failed meanwhile.

    Until that frame is sent, or the request is cancelled, no other one without `image` may begin.
    """

    type: Literal["segment"]
    id: ClientId = Field(description="The client's own; free again when the request has ended.")
    image: ImageSource | None = None


class CancelMessage(RequestModel):
    """Stop a request: it ends with an `error` event. A binary frame that has not been sent for it is not to be sent."""

    type: Literal["cancel"]
    id: ClientId


class PingMessage(RequestModel):
    """Ask for a `pong` event, as browsers cannot send a WebSocket's own pings."""

    type: Literal["ping"]


Message = SegmentMessage | CancelMessage | PingMessage


class ClientMessage(RootModel[Annotated[Message, Field(discriminator="type")]]):
    """Any text frame of a client; `type` says which."""


class MessageRejected(RequestRejected):
    """A text frame is refused; `id` is the one it names, if it names one."""

    def __init__(self, refusal: RequestRejected, id: str | None) -> None:
        super().__init__(refusal.kind, str(refusal), refusal.faults)
        self.id = id


def parse_message(text: str) -> Message:
    """A text frame's message. Raises `MessageRejected`."""
    try:
        check_nesting(text.encode())
    except RequestRejected as refusal:
        raise MessageRejected(refusal, None) from refusal
    try:
        return ClientMessage.model_validate_json(text).root
    except ValidationError as error:
        raise MessageRejected(not_valid(error, skip=1), _id_in(text)) from error


def _id_in(text: str) -> str | None:
    try:
        content = from_json(text)
    except ValueError:
        return None
    named = content.get("id") if isinstance(content, dict) else None
    return named if isinstance(named, str) else None
