"""Hidden states on their way from vLLM's worker to who waits for them: frames, tags, an inbox, what goes wrong."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import MllmUnavailable
from engines.mllm.answer import MAX_OBJECTS
from engines.mllm.client import MllmClient
from engines.mllm.results import Decision, Written
from engines.mllm.tap import line as tap_line
from engines.mllm.tap import told as tap_told
from engines.mllm.tap.inbox import StatesInbox, open_inbox
from engines.mllm.tap.line import Line
from engines.mllm.tap.message import HEADER, MOST_NUMBERS, OF, TAG, Message
from engines.mllm.written import DecisionHead
from tests.engines.mllm.scripted_client import (
    ANSWER,
    IMAGE,
    SECONDS,
    TOKENS,
    chunk,
    completion,
    position,
    reason,
)
from tests.engines.mllm.scripted_server import Exchange, Reply, ScriptedServer, scripted_server

HEAD = DecisionHead(np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32))
"""The first number of a state speaks for the visible part, the second for the complete shape."""
MODAL, AMODAL = [5.0, 0.0], [0.0, 5.0]
WRITTEN = "<MODAL><REF_POS><REF_POS><|im_end|>"


def state(*numbers: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(numbers, np.float32)


@given(st.text("0123456789abcdef", min_size=16, max_size=16), st.booleans(), st.lists(st.floats(width=32)))
def test_a_frame_says_what_the_message_does(tag: str, anew: bool, numbers: list[float]) -> None:
    frame = Message(tag, anew, state(*numbers)).frame()
    told, begins, count = HEADER.unpack(frame[: HEADER.size])
    assert (told.decode(), begins, count) == (tag, anew, len(numbers))
    np.testing.assert_array_equal(np.frombuffer(frame[HEADER.size :], "<f4"), state(*numbers))


async def send(inbox: StatesInbox, *messages: Message) -> None:
    line = Line(str(inbox.address))
    for message in messages:
        await asyncio.to_thread(line.send, message.frame())


async def test_states_arrive_by_their_tag_and_begin_anew_when_they_say_so() -> None:
    async with open_inbox() as inbox:
        one, other = inbox.expect(before=[1], of=[2]), inbox.expect(before=[1], of=[2])
        await send(
            inbox,
            Message(one.tag, anew=True, state=state(0, 0)),
            Message(one.tag, anew=False, state=state(0, 1)),
            Message("nobody waits for", anew=True, state=state(9, 9)),
            Message(other.tag, anew=True, state=state(3, 3)),
            Message(one.tag, anew=True, state=state(1, 1)),  # the request was made once more
            Message(one.tag, anew=False, state=state(1, 2)),
            Message(one.tag, anew=False, state=state(1, 3)),
        )
        found = await one.take(first=True, others=2)
        assert [numbers.tolist() for numbers in found] == [[1, 1], [1, 2], [1, 3]]
        assert [numbers.tolist() for numbers in await other.take(first=True)] == [[3, 3]]
        assert [numbers.tolist() for numbers in await one.take(first=False, others=1)] == [[1, 2]]


async def test_who_is_gone_is_waited_for_no_longer() -> None:
    async with open_inbox() as inbox:
        told = inbox.expect()
        assert len(inbox._waiting) == 1
        del told
        gc.collect()
        assert len(inbox._waiting) == 0


async def test_states_that_do_not_come_are_missed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap_told, "PATIENCE_SECONDS", 0.05)
    async with open_inbox() as inbox:
        told = inbox.expect()
        with pytest.raises(MllmUnavailable, match="did not send its hidden states"):
            await told.take(first=True)


async def test_only_this_user_reaches_an_inbox_and_nothing_is_left_of_it() -> None:
    async with open_inbox() as inbox:
        folder = inbox.address.parent
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert not folder.exists()


async def test_what_is_no_state_ends_its_connection_and_no_other() -> None:
    async with open_inbox() as inbox:
        reader, writer = await asyncio.open_unix_connection(inbox.address)
        writer.write(HEADER.pack(b"0" * 16, True, MOST_NUMBERS + 1))
        assert await reader.read() == b""
        writer.close()
        reader, writer = await asyncio.open_unix_connection(inbox.address)
        writer.write(HEADER.pack(b"0" * 16, True, 2) + bytes(3))  # broken off
        writer.close()
        told = inbox.expect()
        await send(inbox, Message(told.tag, anew=True, state=state(1)))
        assert [numbers.tolist() for numbers in await told.take(first=True)] == [[1]]


def test_a_line_that_nobody_hears_drops_what_it_is_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Line(str(tmp_path / "nobody")).send(b"a state")
    assert "could not be sent" in caplog.text


def test_a_gateway_that_does_not_read_holds_the_model_up_no_longer_than_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tap_line, "SEND_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        deaf.listen()
        line = Line(str(tmp_path / "deaf"))
        line.send(bytes(1 << 24))
        assert "could not be sent" in caplog.text
        line.send(b"again")  # on a connection of its own: half a frame went before
        deaf.accept()[0].close()
        heard, _ = deaf.accept()
        assert heard.recv(16) == b"again"
        heard.close()


@asynccontextmanager
async def tapped(reply: Reply) -> AsyncIterator[tuple[MllmClient, ScriptedServer, StatesInbox]]:
    """A client of one scripted server that is tapped."""
    async with (
        open_inbox() as inbox,
        scripted_server(reply) as server,
        MllmClient(ANSWER, TOKENS, (server.url,), head=HEAD, inbox=inbox) as client,
    ):
        yield client, server, inbox


Answered = tuple[list[list[float]], object]
"""The states that come, and the answer's body, or a tuple of its events."""


class Tapped:
    """Sends the next `states` to the inbox with each answer, as vLLM's worker would, then the answer's `bodies`."""

    def __init__(self, *answers: Answered) -> None:
        self._answers = list(answers)
        self.asked: list[dict[str, object]] = []
        self.inbox: StatesInbox | None = None

    async def __call__(self, exchange: Exchange) -> None:
        states, body = self._answers.pop(0)
        wish: dict[str, object] = exchange.body["vllm_xargs"]  # type: ignore[assignment]
        self.asked.append(wish)
        assert self.inbox is not None
        tag, first = str(wish[TAG]), [True] + [False] * len(states)
        await send(
            self.inbox,
            *(Message(tag, anew, state(*one)) for anew, one in zip(first, states, strict=False)),
        )
        if isinstance(body, tuple):
            await exchange.stream(*body)
        else:
            await exchange.respond(body)


@asynccontextmanager
async def scripted(*answers: Answered) -> AsyncIterator[tuple[MllmClient, Tapped]]:
    script = Tapped(*answers)
    async with tapped(script) as (client, _, inbox):
        script.inbox = inbox
        yield client, script


REASONED: object = (chunk(f"The mug.</think>{WRITTEN}", finish="stop"),)


async def test_what_the_model_wrote_is_concluded_without_another_call() -> None:
    async with scripted(([MODAL, [1, 2], [3, 4]], REASONED)) as (client, script):
        _, end = await reason(client)
        assert end.written == Written("modal", 2)
        concluded = await client.conclude(IMAGE, "p", end.text, end.written, ["modal"], 2, timeout=SECONDS)
    assert concluded is not None
    decision, vectors = concluded
    assert decision.p_modal == pytest.approx(1 / (1 + np.exp(-5)))
    assert vectors["modal"].tolist() == [[1, 2], [3, 4]]
    assert len(script.asked) == 1


async def test_only_what_it_did_not_write_is_asked_for() -> None:
    other: list[Answered] = [([[float(number), 0.0]], {"usage": {}}) for number in (7, 8)]
    async with scripted(([MODAL, [1, 2], [3, 4]], REASONED), *other) as (client, script):
        _, end = await reason(client)
        assert end.written is not None
        concluded = await client.conclude(
            IMAGE, "p", end.text, end.written, ["modal", "amodal"], 2, timeout=SECONDS
        )
    assert concluded is not None
    assert concluded[1]["modal"].tolist() == [[1, 2], [3, 4]]
    assert sorted(concluded[1]["amodal"].tolist()) == [[7, 0], [8, 0]]
    assert [bool(wish[OF]) for wish in script.asked] == [True, False, False]


@pytest.mark.parametrize(("objects", "asked"), [(None, []), (1, []), (3, [False])])
async def test_a_type_that_is_named_keeps_the_states_that_came_with_it(
    objects: int | None, asked: list[bool]
) -> None:
    third: Answered = ([[5, 6]], {"usage": {}})
    async with scripted(([MODAL, [1, 2], [3, 4]], REASONED), third) as (client, script):
        _, end = await reason(client)
        decision = await client.decide(
            IMAGE, "p", end.text, mask_type="modal", objects=objects, written=end.written, timeout=SECONDS
        )
        count = objects or 2
        assert decision == Decision(1.0, 0.0, count)
        vectors = await client.concentrate(
            IMAGE, "p", end.text, ["modal"], count, known=decision.known, timeout=SECONDS
        )
    assert vectors["modal"].tolist() == [[1, 2], [3, 4], [5, 6]][:count]
    assert [bool(wish[OF]) for wish in script.asked[1:]] == asked


async def test_what_was_written_for_another_type_is_asked_again() -> None:
    counted = completion(position("<REF_POS>", REF_POS=-0.1), position("<|im_end|>"))
    async with scripted(([MODAL, [1, 2], [3, 4]], REASONED), ([AMODAL, [7, 8]], counted)) as (client, script):
        _, end = await reason(client)
        decision = await client.decide(
            IMAGE, "p", end.text, mask_type="amodal", written=end.written, timeout=SECONDS
        )
    assert (decision.mask_type, decision.objects) == ("amodal", 1)
    assert len(script.asked) == 2


async def test_states_that_speak_against_what_was_written_conclude_nothing() -> None:
    async with scripted(([AMODAL, [1, 2], [3, 4]], REASONED)) as (client, _):
        _, end = await reason(client)
        assert end.written is not None
        assert await client.conclude(IMAGE, "p", end.text, end.written, ["modal"], 2, timeout=SECONDS) is None


async def test_the_vectors_come_with_the_decision() -> None:
    asked = completion(
        position("<MODAL>", MODAL=-0.1, AMODAL=-3.0),
        position("<REF_POS>", REF_POS=-0.1),
        position("<|im_end|>"),
    )
    async with scripted(([MODAL, [1, 2]], asked)) as (client, script):
        decision = await client.decide(IMAGE, "p", "r", timeout=SECONDS)
        assert (decision.mask_type, decision.objects) == ("modal", 1)
        vectors = await client.concentrate(
            IMAGE, "p", "r", ["modal"], 1, known=decision.known, timeout=SECONDS
        )
    assert vectors["modal"].tolist() == [[1, 2]]
    assert len(script.asked) == 1


async def test_a_number_that_is_given_is_kept_whatever_the_model_wrote() -> None:
    asked = completion(
        position("<MODAL>", MODAL=-0.1, AMODAL=-3.0),
        position("<REF_POS>", REF_POS=-0.1),
        position("<|im_end|>"),
    )
    second: Answered = ([[5, 6]], {"usage": {}})
    async with scripted(([MODAL, [1, 2]], asked), second) as (client, script):
        decision = await client.decide(IMAGE, "p", "r", objects=2, timeout=SECONDS)
        assert decision.objects == 2
        vectors = await client.concentrate(
            IMAGE, "p", "r", ["modal"], 2, known=decision.known, timeout=SECONDS
        )
    assert vectors["modal"].tolist() == [[1, 2], [5, 6]]
    assert len(script.asked) == 2


async def test_a_reference_that_was_written_last_has_no_state_yet_and_is_asked_for() -> None:
    """At the most references the answer ends with one: the model has not read it again."""
    eight = [position("<REF_POS>", REF_POS=-0.1)] * MAX_OBJECTS
    asked = completion(position("<MODAL>", MODAL=-0.1, AMODAL=-3.0), *eight)
    came = [MODAL, *([float(number), 0.0] for number in range(MAX_OBJECTS - 1))]
    last: Answered = ([[9, 9]], {"usage": {}})
    async with scripted((came, asked), last) as (client, script):
        decision = await client.decide(IMAGE, "p", "r", timeout=SECONDS)
        assert decision.objects == MAX_OBJECTS
        vectors = await client.concentrate(
            IMAGE, "p", "r", ["modal"], MAX_OBJECTS, known=decision.known, timeout=SECONDS
        )
    assert vectors["modal"].tolist() == [*came[1:], [9, 9]]
    assert len(script.asked) == 2


async def test_an_object_that_is_only_taken_for_granted_is_asked_for() -> None:
    """A model that stopped too early means one all the same, and has written no reference."""
    asked = completion(
        position("<MODAL>", MODAL=-0.1, AMODAL=-3.0), position("<|im_end|>", REF_POS=-0.5, NO_OBJECT=-3.0)
    )
    granted: Answered = ([[5, 6]], {"usage": {}})
    async with scripted(([MODAL], asked), granted) as (client, _):
        decision = await client.decide(IMAGE, "p", "r", timeout=SECONDS)
        assert decision.objects == 1
        vectors = await client.concentrate(
            IMAGE, "p", "r", ["modal"], 1, known=decision.known, timeout=SECONDS
        )
    assert vectors["modal"].tolist() == [[5, 6]]


async def test_one_type_is_given_and_the_references_are_counted() -> None:
    counted = completion(position("<REF_POS>", REF_POS=-0.1), position("<|im_end|>"))

    async def reply(exchange: Exchange) -> None:
        wish: dict[str, object] = exchange.body["vllm_xargs"]  # type: ignore[assignment]
        await send(inbox, Message(str(wish[TAG]), anew=False, state=state(1, 2)))
        await exchange.respond(counted)

    async with tapped(reply) as (client, server, inbox):
        decision = await client.decide(IMAGE, "p", "r", mask_type="amodal", timeout=SECONDS)
        vectors = await client.concentrate(
            IMAGE, "p", "r", ["amodal"], 1, known=decision.known, timeout=SECONDS
        )
    assert decision == Decision(0.0, 1.0, 1, prompt_tokens=80, tokens=2)
    assert vectors["amodal"].tolist() == [[1, 2]]
    assert len(server.seen) == 1


async def test_a_tapped_server_needs_no_warming_and_no_second_role() -> None:
    async def reply(exchange: Exchange) -> None:
        await exchange.respond({})

    async with tapped(reply) as (client, server, _):
        assert not client.concentrates_apart
        await client.warm(IMAGE, "p", timeout=SECONDS)
        assert [role.role for role in await client.health()] == ["reason"]
    assert [exchange.path for exchange in server.seen] == ["/health"]


async def test_a_call_that_fails_is_the_engines_fault_also_among_several() -> None:
    async def reply(exchange: Exchange) -> None:
        await exchange.respond({"error": {"message": "engine is dead"}}, 404)

    async with tapped(reply) as (client, _, _):
        with pytest.raises(MllmUnavailable, match="engine is dead"):
            await client.concentrate(IMAGE, "p", "r", ["modal", "amodal"], 2, timeout=SECONDS)


async def test_a_state_is_taken_before_its_call_is_answered_and_the_call_ends_with_the_client() -> None:
    inboxes: list[StatesInbox] = []
    left = asyncio.Event()

    async def tells_and_does_not_answer(exchange: Exchange) -> None:
        wish: dict[str, object] = exchange.body["vllm_xargs"]  # type: ignore[assignment]
        await send(inboxes[0], Message(str(wish[TAG]), True, state(1, 2)))
        await exchange.until_left()
        left.set()

    async with asyncio.timeout(SECONDS), tapped(tells_and_does_not_answer) as (client, _, inbox):
        inboxes.append(inbox)
        vectors = await client.concentrate(IMAGE, "p", "r", ["modal"], 1, timeout=SECONDS)
        assert vectors["modal"].tolist() == [[1, 2]]
        assert not left.is_set(), "the answer may come yet"
        await client.aclose()
        await left.wait()


async def test_a_call_is_broken_off_when_nobody_wants_its_state_any_more() -> None:
    reached, left = asyncio.Event(), asyncio.Event()

    async def hangs(exchange: Exchange) -> None:
        reached.set()
        await exchange.until_left()
        left.set()

    async with asyncio.timeout(SECONDS), tapped(hangs) as (client, _, _):
        asking = asyncio.create_task(client.concentrate(IMAGE, "p", "r", ["modal"], 1, timeout=SECONDS))
        await reached.wait()
        asking.cancel()
        await left.wait()
        with pytest.raises(asyncio.CancelledError):
            await asking
