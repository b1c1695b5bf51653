"""Boxes, points and drafts over the wire: requests without a sentence, events, statistics."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from server.cli import app as command_line
from server.client import SegmentClient, pixels, uploaded
from server.commands.segment import in_words
from server.events import DoneEvent, StreamEvent
from server.gather import gather
from tests.server.asgi import connect
from tests.server.asking import as_json, post, refusal
from tests.server.conftest import Gateway, OpenGateway, photo
from tests.stand_ins import ScriptedMllm

PHOTO = photo()
POINTS = [{"x": 60, "y": 40}, {"x": 0, "y": 80.0, "label": 0}]


def pointed(**options: object) -> dict[str, Any]:
    return {"json": {"image": {"data": base64.b64encode(PHOTO).decode()}, **options}}


@pytest.mark.parametrize(
    "visual", [{"points": POINTS}, {"box": [10, 10, 60, 70]}, {"box": [0, 0, 120, 80], "points": POINTS}]
)
async def test_without_a_sentence_there_is_one_modal_mask(
    gateway: Gateway, visual: dict[str, object]
) -> None:
    gateway.mllm.calls.clear()
    answer = (await post(gateway, pointed(**visual, include=["reasoning", "heatmap"]))).json()
    assert gateway.mllm.calls == []
    assert [(mask["object"], mask["mask_type"]) for mask in answer["masks"]] == [(0, "modal")]
    assert answer["decision"] == {"mask_type": "modal", "confidence": 1.0, "source": "request"}
    assert (answer["reasoning"], answer["heatmap"]) == ("", None)
    assert answer["usage"] == {"prompt_tokens": 0, "reasoning_tokens": 0}
    assert "drafts" not in answer


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "prompt"),
        ({"points": POINTS, "mask_type": "both"}, "mask_type"),
        ({"points": POINTS, "objects": 2}, "objects"),
    ],
)
async def test_without_a_sentence_little_can_be_asked(
    gateway: Gateway, options: dict[str, object], named: str
) -> None:
    problem = await refusal(gateway, pointed(**options), 422, "invalid-request")
    assert [fault["field"] for fault in problem["errors"]] == [named]


async def test_a_place_outside_the_image_is_named(gateway: Gateway) -> None:
    request = as_json(points=[*POINTS, {"x": 120.5, "y": 3}])
    problem = await refusal(gateway, request, 422, "invalid-request")
    assert problem["detail"] == "points.2: (120.5, 3) is outside the image, 120 × 80 pixels"
    assert [fault["field"] for fault in problem["errors"]] == ["points.2"]


async def test_a_box_narrows_what_the_words_mean(gateway: Gateway) -> None:
    async with SegmentClient("http://gateway", gateway.client._transport) as client:
        image = uploaded((await client.upload(PHOTO)).id)
        words = await client.segment(image, "mug", mask_type="modal")
        both = await client.segment(image, "mug", mask_type="modal", box=[10, 10, 60, 70], points=POINTS)
        box = await client.segment(PHOTO, box=[10, 10, 60, 70])
    areas = {int(pixels(answer.masks[0]).sum()) for answer in (words, both, box)}
    assert len(areas) == 3


class Waiting(ScriptedMllm):
    """Ends its reasoning when a draft of it has been decoded."""

    drawn: asyncio.Event

    async def reason(self, *args: Any, **kwargs: Any) -> Any:
        async for item in super().reason(*args, **kwargs):
            yield item
            async with asyncio.timeout(60):
                await self.drawn.wait()


async def test_drafts_are_told_as_they_come_and_weighed_at_the_end(open_gateway: OpenGateway) -> None:
    mllm = Waiting()
    mllm.drawn = asyncio.Event()
    mllm.drawn.set()
    async with open_gateway(mllm) as gateway, connect(gateway.app) as socket:
        mllm.drawn.clear()
        socket.say(type="segment", id="a", prompt="mug", mask_type="amodal", drafts=1)
        socket.say_bytes(PHOTO)
        told = [await socket.hear()]
        while told[-1]["type"] != "mask.draft":
            told.append(await socket.hear())
        draft = told[-1]
        mllm.drawn.set()
        told += await socket.hear_until_end("a")
    assert (draft["number"], draft["object"], draft["mask_type"]) == (0, 0, "amodal")
    assert draft["rle"]["size"] == [80, 120]
    events = [StreamEvent.model_validate(event).root for event in told]
    assert isinstance(events[-1], DoneEvent)
    assert [(score.number, score.iou) for score in events[-1].drafts] == [(0, 1.0)]
    response = gather(events)
    assert response.drafts == events[-1].drafts
    assert "draft 0    after 0 tokens: IoU 1.00 with the mask" in in_words(response)


def test_the_command_line_says_what_is_no_box() -> None:
    for options in (("--box", "1,2,3"), ("--point", "a,b"), ("--not-point", "1")):
        result = CliRunner().invoke(command_line, ["segment", __file__, *options])
        assert result.exit_code == 2
        assert "numbers with commas" in " ".join(result.output.replace("│", "").split())


async def test_pointing_from_a_socket(gateway: Gateway) -> None:
    async with connect(gateway.app) as socket:
        socket.say(type="segment", id="a", points=POINTS)
        socket.say_bytes(PHOTO)
        events = await socket.hear_until_end("a")
        assert [event["type"] for event in events] == ["accepted", "decision", "mask", "done"]
        socket.say_text(json.dumps({"type": "segment", "id": "b"}))
        [error] = await socket.hear_until_end("b")
        assert [fault["field"] for fault in error["problem"]["errors"]] == ["prompt"]
