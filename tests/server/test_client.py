"""The client, the overlay and `r2sm segment`, against a scripted gateway and against nobody."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path, PurePath

import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner

import server.commands.segment
from engines.vision import masks
from server.cli import app
from server.client import SegmentClient, SegmentFailed, ServerAway
from server.commands.image_files import overlays_of_many
from server.errors import OVERLOADED, problem
from server.events import ErrorEvent
from server.images import ImageLimits, decode
from server.overlay import draw_overlay
from server.schemas import DecisionInfo, HiddenInfo, ImageInfo, MaskInfo, SegmentResponse, UsageInfo
from server.sync_client import SyncSegmentClient
from tests.server.conftest import Gateway, photo

NOBODY = "http://127.0.0.1:9"


def client_of(gateway: Gateway) -> SegmentClient:
    return SegmentClient("http://gateway", httpx.ASGITransport(gateway.app))


async def test_a_response_comes_back_typed(gateway: Gateway) -> None:
    async with client_of(gateway) as client:
        response = await client.segment(
            photo(), "both mugs", mask_type="both", objects=2, include=["heatmap"]
        )
        assert await client.ready()
    assert [(mask.object, mask.mask_type) for mask in response.masks][:2] == [(0, "modal"), (0, "amodal")]
    assert response.heatmap is not None


async def test_a_refusal_carries_its_problem(gateway: Gateway) -> None:
    async with client_of(gateway) as client:
        with pytest.raises(SegmentFailed, match="The image cannot be used") as caught:
            await client.segment(b"hello", "mug")
    assert caught.value.status == 422
    assert caught.value.problem is not None
    assert caught.value.problem.type == "urn:r2sm:problem:image-not-an-image"


async def test_options_are_checked_before_anything_is_sent() -> None:
    async with SegmentClient(NOBODY) as client:
        with pytest.raises(ValidationError):
            await client.segment(photo(), "mug", mask_tpye="both")


@pytest.mark.parametrize("url", [NOBODY, "http://no-such-host.invalid"])
async def test_nobody_there_is_said_so(url: str) -> None:
    with pytest.raises(ServerAway, match="is `r2sm serve` running"):
        async with SegmentClient(url) as client:
            await client.segment(photo(), "mug")


@pytest.mark.parametrize(
    "url", ["gopher://x", "localhost:8000", "/v1", "", "http://", "http://[::1", "http://a:b"]
)
def test_what_is_not_the_url_of_a_server_is_said_so_at_once(url: str) -> None:
    with pytest.raises(ServerAway, match=r"is not (a|an http:// or https://) URL"):
        SegmentClient(url)


@pytest.mark.parametrize("key", ["schlüssel", "r2sm_a\nr2sm_b", "r2sm_\x7f"])
@pytest.mark.parametrize("client", [SegmentClient, SyncSegmentClient])
def test_a_key_that_no_header_can_hold_is_refused_and_not_told(
    client: type[SegmentClient | SyncSegmentClient], key: str, picture: str
) -> None:
    with pytest.raises(ServerAway, match="the API key cannot be sent") as caught:
        client(NOBODY, key=key)
    code, output = run(picture, "mug", "--url", NOBODY, "--key", key)
    assert (code, output) == (1, f"r2sm: {caught.value}\n")
    assert key[-4:] not in output


async def test_white_space_around_a_key_is_not_sent() -> None:
    shown: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        shown.append(request.headers.get("authorization"))
        return httpx.Response(200)

    for key in (" r2sm_a\n", "\n", None):
        async with SegmentClient("http://x", httpx.MockTransport(answer), key=key) as client:
            await client.ready()
    assert shown == ["Bearer r2sm_a", None, None]


async def test_a_stream_that_is_refused_says_when_to_come_back() -> None:
    refused = problem(OVERLOADED, "80 requests are here already")
    event = ErrorEvent(id="a", seq=1, ms=1.0, problem=refused, retry_after=7.0)
    text = f"event: error\ndata: {event.model_dump_json()}\n\n"
    stream = httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)
    async with SegmentClient("http://x", httpx.MockTransport(lambda _: stream)) as client:
        with pytest.raises(SegmentFailed, match="already") as caught:
            async for _ in client.stream(photo(), "mug"):
                pass
    assert (caught.value.status, caught.value.retry_after) == (503, 7.0)


async def test_another_server_is_recognised() -> None:
    async with SegmentClient(
        "http://x", httpx.MockTransport(lambda _: httpx.Response(200, text="hi"))
    ) as client:
        with pytest.raises(SegmentFailed, match="does not answer like"):
            await client.segment(photo(), "mug")


def answer(with_hidden: bool) -> tuple[Image.Image, SegmentResponse]:
    """A white picture of 60 × 40 with a square at (10, 10), of which the right half is hidden."""
    amodal = np.zeros((40, 60), np.bool_)
    amodal[10:30, 10:30] = True
    hidden = np.zeros((40, 60), np.bool_)
    hidden[10:30, 20:30] = True
    found: list[MaskInfo] = []
    for kind, mask in (
        (("modal", amodal & ~hidden), ("amodal", amodal)) if with_hidden else (("amodal", amodal),)
    ):
        code = masks.encode(mask)
        found.append(
            MaskInfo.model_validate(
                {
                    "object": 0,
                    "mask_type": kind,
                    "rle": code.rle,
                    "bbox": code.bbox,
                    "area": code.area,
                    "score": 1,
                }
            )
        )
    parts = [HiddenInfo(object=0, rle=masks.encode(hidden).rle, fraction=0.5)] if with_hidden else []
    response = SegmentResponse(
        id="seg_1",
        model="tiny",
        image=ImageInfo(id="sha256:0", width=60, height=40),
        reasoning=None,
        decision=DecisionInfo(mask_type="amodal", confidence=1, source="request"),
        masks=found,
        hidden=parts,
        heatmap=None,
        timings_ms={},
        usage=UsageInfo(prompt_tokens=0, reasoning_tokens=0),
    )
    return Image.new("RGB", (60, 40), "white"), response


def test_masks_are_tinted_and_outlined() -> None:
    pixels = np.asarray(draw_overlay(*answer(with_hidden=False)))
    assert pixels.shape == (40, 60, 3)
    assert (pixels[35, 50] == 255).all(), "outside nothing changes"
    assert (pixels[15:25, 14:26] < 255).any(axis=-1).all(), "inside everything is tinted"
    assert pixels[10, 20].sum() < pixels[20, 20].sum(), "the outline is stronger"


def test_hidden_parts_are_hatched() -> None:
    pixels = np.asarray(draw_overlay(*answer(with_hidden=True)))
    tinted = np.asarray((pixels < 255).any(axis=-1))
    assert tinted[15:25, 14:18].all()
    assert 0.1 < tinted[15:25, 22:26].mean() < 0.9


async def test_the_heatmap_stands_beside(gateway: Gateway) -> None:
    async with client_of(gateway) as client:
        response = await client.segment(photo(), "mug", include=["heatmap"])
    drawn = draw_overlay(decode(photo(), ImageLimits()), response)
    assert drawn.size == (240, 80)


@pytest.fixture
def to_gateway(monkeypatch: pytest.MonkeyPatch) -> Callable[[SegmentResponse | SegmentFailed], None]:
    """Puts an answer in the place of the network."""

    def answering(answer: SegmentResponse | SegmentFailed) -> None:
        async def ask(*_: object) -> SegmentResponse:
            if isinstance(answer, SegmentFailed):
                raise answer
            return answer

        monkeypatch.setattr(server.commands.segment, "_ask", ask)

    return answering


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["segment", *arguments], env={"COLUMNS": "400"})
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "scene.png"
    path.write_bytes(photo((60, 40)))
    return str(path)


def test_segment_prints_words_and_writes_an_overlay(
    picture: str, tmp_path: Path, to_gateway: Callable[[SegmentResponse], None]
) -> None:
    response = answer(with_hidden=True)[1]
    to_gateway(response.model_copy(update={"warnings": ["drafts are not known", "points are not known"]}))
    code, output = run(picture, "the mug", "--mask-type", "both", "--out", str(tmp_path / "out.png"))
    assert code == 0
    assert "amodal (1.00, by the request)" in output
    assert "warning    drafts are not known\nwarning    points are not known\n" in output
    assert "50% of it hidden" in output
    assert Image.open(tmp_path / "out.png").size == (60, 40)


@pytest.mark.parametrize("link", [None, "symbolic", "hard"])
def test_segment_does_not_write_over_its_image(
    link: str | None, picture: str, tmp_path: Path, to_gateway: Callable[[SegmentResponse], None]
) -> None:
    to_gateway(answer(with_hidden=False)[1])
    before, out = Path(picture).read_bytes(), tmp_path / "out.png" if link else Path(picture)
    if link == "symbolic":
        out.symlink_to(picture)
    elif link == "hard":
        out.hardlink_to(picture)
    code, output = run(picture, "the mug", "--out", str(out))
    assert code == 2
    assert "is itself an image to segment" in output
    assert Path(picture).read_bytes() == before


def test_segment_prints_json(picture: str, to_gateway: Callable[[SegmentResponse], None]) -> None:
    to_gateway(answer(with_hidden=False)[1])
    code, output = run(picture, "the mug", "--json")
    assert code == 0
    assert SegmentResponse.model_validate(json.loads(output)).model == "tiny"


def test_segment_says_what_is_wrong(picture: str, tmp_path: Path, to_gateway: Callable[..., None]) -> None:
    code, output = run(picture, "the mug", "--url", NOBODY)
    assert code == 1
    assert "is `r2sm serve` running?" in output
    code, output = run(picture, "the mug", "--objects", "12")
    assert code == 2
    assert "objects" in output
    code, output = run(str(tmp_path / "none.png"), "the mug")
    assert code == 2
    to_gateway(SegmentFailed("The image cannot be used: it is animated", 422))
    code, output = run(picture, "the mug")
    assert (code, output.strip()) == (1, "r2sm: The image cannot be used: it is animated")


def test_an_overlay_replaces_files_when_forced_and_never_an_image(
    tmp_path: Path, to_gateway: Callable[..., None]
) -> None:
    jpeg, other, out = tmp_path / "mug.jpg", tmp_path / "mug.png", tmp_path / "out"
    jpeg.write_bytes(photo((60, 40), format="JPEG"))
    other.write_bytes(b"another picture")
    many, one = (f"{tmp_path}/*.jpg", "mug", "--out", str(tmp_path)), (str(jpeg), "mug", "--out", str(other))
    to_gateway(SegmentFailed("asked for nothing"))
    for arguments in (many, one):
        code, output = run(*arguments)
        assert code == 2
        assert "mug.png would be replaced, which only --force does" in output
    assert other.read_bytes() == b"another picture"
    to_gateway(answer(with_hidden=False)[1])
    for arguments in (many, one):
        other.write_bytes(b"another picture")
        assert run(*arguments, "--force")[0] == 0
        assert Image.open(other).size == (60, 40)
    out.mkdir()
    (out / "mug.png").hardlink_to(jpeg)
    code, output = run(f"{tmp_path}/*.jpg", "mug", "--out", str(out), "--force")
    assert (code, "is itself an image to segment" in output) == (2, True)
    code, output = run(str(tmp_path), "mug", "--out", str(out), "--force")
    assert (code, "another image would both have their overlay" in output) == (2, True)


def test_names_of_overlays_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [tmp_path / f"{number}.jpg" for number in range(50)]
    for image in images:
        image.touch()
    compared: list[Path] = []

    def same(path: Path, other: Path) -> bool:
        compared.append(path)
        return path is other

    monkeypatch.setattr(PurePath, "__eq__", same)
    assert len(overlays_of_many(images, tmp_path / "out", force=False)) == 50
    assert len(compared) < 50


@pytest.mark.parametrize(
    ("image", "out", "said"),
    [
        ("a.png", "out.xyz", "out.xyz is not the name of an image file"),
        ("a.png", "", "is not the name of an image file"),
        ("a.png", "nowhere/out.png", "nothing can be written in"),
        ("a.png", "/proc/out.png", "nothing can be written in /proc"),
        ("*", "notes.txt", "notes.txt cannot be made a folder: File exists"),
        ("*", "/proc", "nothing can be written in /proc"),
        (None, "out", "IMAGE is empty"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_asked(
    image: str | None, out: str, said: str, tmp_path: Path, to_gateway: Callable[..., None]
) -> None:
    (tmp_path / "a.png").write_bytes(photo((60, 40)))
    (tmp_path / "notes.txt").touch()
    to_gateway(SegmentFailed("asked for nothing"))
    code, output = run(str(tmp_path / image) if image else "", "mug", "--out", str(tmp_path / out))
    assert (code, said in output) == (2, True), output


def test_one_file_of_many_that_fails_leaves_the_others(
    tmp_path: Path, to_gateway: Callable[..., None]
) -> None:
    data, out = photo((60, 40)), tmp_path / "out"
    out.mkdir()
    (out / "a.png").symlink_to("/dev/full")
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "b.png").symlink_to("/proc/self/mem")  # nobody can read its first byte
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(data)
    (tmp_path / "d.png").write_bytes(data + bytes(ImageLimits().max_bytes))
    to_gateway(answer(with_hidden=False)[1].model_copy(update={"warnings": ["no points"]}))
    code, output = run(str(tmp_path), "mug", "--out", str(out), "--force")
    assert code == 1
    for line in (
        "a.png: amodal 400 px",
        "a.png: warning: no points",
        f"a.png: {out}/a.png cannot be written: [Errno 28] No space left on device",
        "b.png: the image cannot be read: Input/output error",
        "caf\\udce9.png: amodal 400 px",
        "d.png: amodal 400 px",
    ):
        assert f"{tmp_path}/{line}\n" in output
    assert "r2sm: 2 of 4 images failed" in output
    assert Image.open(out / "d.png").size == Image.open(out / os.fsdecode(b"caf\xe9.png")).size == (60, 40)
    code, output = run(str(tmp_path / "b.png"), "mug")
    assert (code, output) == (1, "r2sm: the image cannot be read: Input/output error\n")
    code, output = run(str(tmp_path / "d.png"), "mug", "--out", str(out / "a.png"), "--force")
    assert (code, output.index("decision") < output.index("r2sm: ")) == (1, True), "the answer is kept"
