"""Queries from a chat model: what is cleaned away, what is asked again, and that the result can be evaluated."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from engines.errors import InvalidInput
from engines.evaluation.datasets import open_dataset
from engines.evaluation.datasets.check import take_stock
from engines.evaluation.datasets.cocoa import Cocoa
from engines.evaluation.queries import ChatEndpoint, ChatFailed, Export, Origin, clean, generate
from engines.evaluation.queries.chat import Turn
from server.cli import app
from server.commands import queries as command
from tests.engines.evaluation import layouts

MUG = "instance id is 1, class name is mug"
BOX = "instance id is 2, class name is box"


def entry(query: str, answer: Any = BOX) -> dict[str, Any]:
    """A query as a model writes it."""
    return {"query": query, "answer": answer}


def full() -> dict[str, Any]:
    """All that is wanted for the picture."""
    return {
        "modal": [entry(f"what you drink from, number {word}", MUG) for word in "abcde"],
        "amodal": [entry(f"the whole of the partly hidden thing {word}") for word in "abcde"],
    }


class ScriptedChat:
    """In the place of a chat endpoint: says its lines one by one and keeps what it was told."""

    def __init__(self, *lines: Any) -> None:
        self.lines, self.told = list(lines), list[dict[str, Any]]()

    def respond(self, request: httpx.Request) -> httpx.Response:
        """The next line, as a completion."""
        self.told.append(json.loads(request.content))
        line = self.lines.pop(0)
        text = line if isinstance(line, str) else json.dumps(line)
        return httpx.Response(200, json={"choices": [{"message": {"role": "assistant", "content": text}}]})

    def endpoint(self) -> ChatEndpoint:
        """The endpoint that a generator talks to."""
        return ChatEndpoint("http://chat/v1", "m", "key", httpx.MockTransport(self.respond))


async def test_five_of_each_are_asked_for_with_the_picture_and_its_objects(tmp_path: Path) -> None:
    chat = ScriptedChat(full())
    scene = Cocoa(layouts.cocoa_published(tmp_path)).annotated("7")
    asked = await generate(scene, chat.endpoint())
    assert [draft.mask_type for draft in asked.drafts] == ["modal"] * 5 + ["amodal"] * 5
    assert (asked.missing, asked.uncovered) == ({"modal": 0, "amodal": 0}, ())
    picture, words = chat.told[0]["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert (
        "instance id is 2, class name is box, box [0, 0, 4, 6], occluded (50% of it is hidden)"
        in words["text"]
    )
    assert "instance id is 1, class name is mug, box [4, 0, 4, 6]\n" in words["text"]


async def test_what_is_missing_is_asked_for_again(tmp_path: Path) -> None:
    first = full()
    first["amodal"] = [entry("the hidden one", "instance id is 9, class name is cat")]
    chat = ScriptedChat("I cannot", first, {"modal": [], "amodal": full()["amodal"]})
    scene = Cocoa(layouts.cocoa_published(tmp_path)).annotated("7")
    asked = await generate(scene, chat.endpoint())
    assert (len(asked.drafts), len(asked.attempts), asked.uncovered) == (10, 3, ())
    assert "no JSON" in asked.attempts[0].dropped[0]
    words = chat.told[2]["messages"][-1]["content"]
    assert "0 modal and 5 amodal" in words
    assert "instance 2 (box)" in words
    assert "means instance 9, which is not there" in words


async def test_what_stays_missing_is_told(tmp_path: Path) -> None:
    scene = Cocoa(layouts.cocoa_published(tmp_path)).annotated("7")
    asked = await generate(scene, ScriptedChat("no", "no").endpoint(), attempts=2)
    assert (asked.missing, asked.uncovered) == ({"modal": 5, "amodal": 5}, (2,))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([entry("", MUG)], "no words"),
        (["a mug"], "no words"),
        ([entry("the mug", "that one")], "names no instance"),
        ([entry("the mug", None)], "means no instance"),
        ([entry("the mug", "instance id is 7")], "instance 7, which is not there"),
        ([entry("the mug", "instance id is 1, class name is cup")], "'cup'"),
        ([entry("the object with id 1", MUG)], "gives away"),
        ([entry("a mug", MUG), entry("A  mug", MUG)], "there already"),
    ],
)
def test_what_cannot_be_used_is_dropped_with_its_reason(
    entries: list[Any], reason: str, tmp_path: Path
) -> None:
    scene = Cocoa(layouts.cocoa_published(tmp_path)).annotated("7")
    drafts = clean(json.dumps({"modal": entries, "amodal": []}), scene)
    assert reason in drafts.dropped[0]
    assert len(drafts.kept) == len(entries) - 1


def test_an_amodal_query_means_something_occluded(tmp_path: Path) -> None:
    scene = Cocoa(layouts.cocoa_published(tmp_path)).annotated("7")
    drafts = clean(
        json.dumps({"modal": [], "amodal": [entry("the whole mug", MUG), entry("the box")]}), scene
    )
    assert [draft.targets for draft in drafts.kept] == [(2,)]
    assert "nothing it means is occluded" in drafts.dropped[0]


def test_json_in_a_fence_is_read(tmp_path: Path) -> None:
    scene = Cocoa(layouts.cocoa_published(tmp_path)).annotated("7")
    assert len(clean(f"```json\n{json.dumps(full())}\n```", scene).kept) == 10


async def test_what_is_written_can_be_evaluated_and_is_logged(tmp_path: Path) -> None:
    scene = Cocoa(layouts.cocoa_published(tmp_path / "in")).annotated("7")
    export = Export(tmp_path / "out", Origin(data=tmp_path / "in", layout="cocoa", model="m"))
    export.add(scene, await generate(scene, ScriptedChat(full()).endpoint()))
    export.finish()
    stock = take_stock(open_dataset("r2sm", tmp_path / "out"))
    assert (stock.queries, stock.by_type, stock.faults) == (10, {"modal": 5, "amodal": 5}, {})
    assert (stock.instances, stock.occluded) == (2, 1)
    [line] = (tmp_path / "out/log.jsonl").read_text().splitlines()
    assert json.loads(line)["attempts"][0]["kept"] == 10


@pytest.mark.parametrize(
    "response",
    [httpx.Response(500), httpx.Response(200, text="hello"), httpx.Response(200, json={"choices": []})],
)
async def test_an_endpoint_that_fails_is_named(response: httpx.Response, tmp_path: Path) -> None:
    scene = Cocoa(layouts.cocoa_published(tmp_path)).annotated("7")
    endpoint = ChatEndpoint(
        "http://chat/v1", "m", transport=httpx.MockTransport(lambda _: response), pauses=(0.0,)
    )
    with pytest.raises(ChatFailed, match="http://chat/v1"):
        await generate(scene, endpoint)


async def test_no_proxy_stands_before_an_endpoint_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": "a mug"}}]}).encode())

    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with HTTPServer(("127.0.0.1", 0), Chat) as server, ThreadPoolExecutor(1) as thread:
        thread.submit(server.serve_forever)
        endpoint = ChatEndpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", pauses=())
        try:
            assert await endpoint.say(b"", [Turn("user", "What is it?")]) == "a mug"
        finally:
            server.shutdown()
            await endpoint.close()


@pytest.mark.parametrize(
    ("proxy", "url"), [("http://127.0.0.1:notaport", "http://chat/v1"), ("", "http://chat:port")]
)
def test_an_endpoint_to_which_nothing_leads_is_named(
    proxy: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(ChatFailed, match="no way to"):
        ChatEndpoint(url, "m")


def test_the_command_writes_a_data_set_and_tells_what_came_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = layouts.cocoa_published(tmp_path / "in")
    chat = ScriptedChat(full(), "no", "no", "no")
    monkeypatch.setattr(command, "ChatEndpoint", lambda *_: chat.endpoint())
    good = CliRunner().invoke(app, ["queries", str(data), "--out", str(tmp_path / "good")])
    assert good.exit_code == 0, good.output
    assert len(json.loads((tmp_path / "good/queries.json").read_text())) == 10
    bad = CliRunner().invoke(app, ["queries", str(data), "--out", str(tmp_path / "bad")])
    assert bad.exit_code == 1
    assert "5 modal queries too few; 5 amodal queries too few; no amodal query means instance 2" in bad.stderr


def test_a_picture_that_came_short_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = layouts.cocoa_published(tmp_path / "in"), tmp_path / "out"
    chat = ScriptedChat("no", "no", "no", full())
    monkeypatch.setattr(command, "ChatEndpoint", lambda *_: chat.endpoint())
    run = ["queries", str(data), "--out", str(out)]
    assert CliRunner().invoke(app, run).exit_code == 1
    assert json.loads((out / "queries.json").read_text()) == []
    assert CliRunner().invoke(app, run).exit_code == 0
    assert len(json.loads((out / "queries.json").read_text())) == 10
    assert len(json.loads((out / "annotations.json").read_text())["images"]) == 1
    assert len(list((out / "images").iterdir())) == 1
    words = [turn["content"] for turn in chat.told[2]["messages"] if isinstance(turn["content"], str)]
    assert not any("True" in each for each in words), "how many are wanted is a number"


def test_a_run_that_breaks_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = layouts.cocoa_published(tmp_path / "in"), tmp_path / "out"
    monkeypatch.setattr(command, "ChatEndpoint", lambda *_: ScriptedChat(full()).endpoint())
    run = ["queries", str(data), "--out", str(out)]
    assert CliRunner().invoke(app, run).exit_code == 0
    before = (out / "queries.json").read_text()
    (out / "queries.json").unlink()
    with (out / "parts.jsonl").open("a") as file:
        file.write('{"picture": "half a')
    monkeypatch.setattr(command, "ChatEndpoint", lambda *_: ScriptedChat().endpoint())  # has nothing to say
    assert CliRunner().invoke(app, run).exit_code == 0
    assert (out / "queries.json").read_text() == before


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{half a line", "Invalid JSON"),
        ('{"picture": "a", "image": {}, "annotations": [{}], "queries": []}', r"annotations\.0\.id"),
        ("[]", "should be an object"),
        ("", "Invalid JSON"),
    ],
)
def test_a_whole_line_of_the_parts_that_cannot_be_used_is_named(
    line: str, fault: str, tmp_path: Path
) -> None:
    origin = Origin(data=tmp_path, layout="cocoa", model="m")
    Export(tmp_path, origin)
    parts = tmp_path / "parts.jsonl"
    parts.write_text(f"{parts.read_text()}{line}\n")
    with pytest.raises(InvalidInput, match=rf"parts\.jsonl:2: .*{fault}"):
        Export(tmp_path, origin)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"data": Path("/elsewhere")}, "data /here, not /elsewhere"),
        ({"layout": "coco"}, "layout cocoa, not coco"),
        ({"model": "n"}, "model m, not n"),
    ],
)
def test_a_data_set_does_not_go_on_with_another_origin(
    other: dict[str, Any], named: str, tmp_path: Path
) -> None:
    origin = Origin(data=Path("/here"), layout="cocoa", model="m")
    Export(tmp_path, origin)
    before = (tmp_path / "parts.jsonl").read_bytes()
    with pytest.raises(InvalidInput, match=f"made with {named}$"):
        Export(tmp_path, origin.model_copy(update=other))
    Export(tmp_path, origin)
    assert (tmp_path / "parts.jsonl").read_bytes() == before
    (tmp_path / "parts.jsonl").write_text('{"picture": "7"}\n')
    with pytest.raises(InvalidInput, match=r"parts\.jsonl:1: .* does not begin"):
        Export(tmp_path, origin)


def test_the_command_tells_of_another_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = layouts.cocoa_published(tmp_path / "in"), tmp_path / "out"
    monkeypatch.setattr(command, "ChatEndpoint", lambda *_: ScriptedChat(full()).endpoint())
    run = ["queries", str(data), "--out", str(out)]
    assert CliRunner().invoke(app, run).exit_code == 0
    again = CliRunner().invoke(app, [*run, "--model", "another"])
    assert again.exit_code == 2
    assert "model m, not another" in " ".join(again.output.replace("│", " ").split())  # unframed


def test_the_data_set_is_not_written_over_its_own_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = layouts.cocoa_published(tmp_path / "in")
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    monkeypatch.setattr(command, "ChatEndpoint", lambda *_: ScriptedChat(full()).endpoint())
    (tmp_path / "same").symlink_to(data)
    refused = CliRunner().invoke(app, ["queries", str(data), "--out", str(tmp_path / "same")])
    assert refused.exit_code == 2
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("out", "fault"),
    [
        ("file", "cannot be made a folder"),
        ("file/out", "nothing can be written in"),
        ("/proc/out", "nothing can be written in"),
        ("pictured", "cannot be made a folder"),
        ("begun", "cannot be written: Is a directory"),
    ],
)
def test_an_out_that_cannot_be_written_is_said_before_anything_is_asked(
    out: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = layouts.cocoa_published(tmp_path / "in")
    (tmp_path / "file").write_text("")
    (tmp_path / "pictured").mkdir()
    (tmp_path / "pictured/images").write_text("")
    (tmp_path / "begun/log.jsonl").mkdir(parents=True)
    monkeypatch.setattr(command, "ChatEndpoint", lambda *_: pytest.fail("it was asked"))
    words = ["queries", str(data), "--out", str(tmp_path / out)]
    refused = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert refused.exit_code == 2, refused.output
    assert "--out: " in refused.stderr
    assert fault in refused.stderr


def test_an_endpoint_that_fails_costs_its_picture_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = layouts.cocoa_published(tmp_path / "in"), tmp_path / "out"
    broken = httpx.MockTransport(lambda _: httpx.Response(401))
    monkeypatch.setattr(command, "ChatEndpoint", lambda *_: ChatEndpoint("http://chat", "m", None, broken))
    failed = CliRunner().invoke(app, ["queries", str(data), "--out", str(out)])
    assert failed.exit_code == 1
    assert "401" in failed.stderr
    assert json.loads((out / "queries.json").read_text()) == []
    monkeypatch.setattr(command, "ChatEndpoint", lambda *_: ScriptedChat(full()).endpoint())
    assert CliRunner().invoke(app, ["queries", str(data), "--out", str(out)]).exit_code == 0


async def test_a_busy_endpoint_is_asked_again(tmp_path: Path) -> None:
    scene = Cocoa(layouts.cocoa_published(tmp_path)).annotated("7")
    chat, busy = ScriptedChat(full()), [429, 503]

    def respond(request: httpx.Request) -> httpx.Response:
        return httpx.Response(busy.pop()) if busy else chat.respond(request)

    transport = httpx.MockTransport(respond)
    asked = await generate(scene, ChatEndpoint("http://chat/v1", "m", transport=transport, pauses=(0.0, 0.0)))
    assert len(asked.drafts) == 10
