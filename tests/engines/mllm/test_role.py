"""One vLLM server: an image goes there once, and once more when mislaid; states that are none are refused."""

from __future__ import annotations

import asyncio
import base64
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from engines.errors import MllmUnavailable
from engines.mllm.image import Bitmap, MllmImage
from engines.mllm.role import VllmRole
from engines.mllm.wire import Generation, Pooling, PoolingAnswer, Prefill
from tests.engines.mllm.lasting_server import lasting_server
from tests.engines.mllm.scripted_server import Exchange, scripted_server
from tests.waiting import until

PREFILL = Prefill(MllmImage("sha256:a", Bitmap("data:image/bmp;base64,AAAA"), 28, 28), "the mug", "<think>")
FAILED = {"error": {"message": "Internal server error", "code": 500}}
BEGUN = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
ENDED = {"choices": [{"index": 0, "delta": {"content": "b"}, "finish_reason": "stop"}]}


def deadline() -> float:
    return asyncio.get_running_loop().time() + 5.0


async def text(role: VllmRole) -> str:
    async with aclosing(role.stream(Generation(PREFILL, {}), deadline())) as chunks:
        return "".join([chunk.text async for chunk in chunks])


async def test_a_stream_that_fails_at_once_is_begun_once_more_with_the_data() -> None:
    answers: list[tuple[object, ...]] = [(BEGUN, ENDED), (FAILED,), (BEGUN, ENDED)]

    async def reply(exchange: Exchange) -> None:
        await exchange.stream(*answers.pop(0))

    async with scripted_server(reply) as server:
        role = VllmRole("reason", server.url)
        assert [await text(role), await text(role)] == ["ab", "ab"]
        await role.aclose()
    assert ["AAAA" in str(exchange.body) for exchange in server.seen] == [True, False, True]


async def test_streams_share_a_connection_one_after_another() -> None:
    async with lasting_server() as server:
        role, used = VllmRole("reason", server.url), set[object]()
        for _ in range(3):
            assert await text(role) == "ab"
            assert server.runner.server is not None
            used |= set(server.runner.server.connections)
        await role.aclose()
    assert len(used) == 1


@pytest.mark.parametrize(("events", "tries"), [((FAILED,), 2), ((BEGUN, FAILED), 1)])
async def test_one_that_fails_again_or_later_has_failed(events: tuple[object, ...], tries: int) -> None:
    async def reply(exchange: Exchange) -> None:
        await exchange.stream(*events)

    async with scripted_server(reply) as server:
        role = VllmRole("reason", server.url)
        with pytest.raises(MllmUnavailable, match="Internal server error"):
            await text(role)
        await role.aclose()
    assert len(server.seen) == tries


@pytest.mark.parametrize(("statuses", "tries"), [((503,), 2), ((404, 500), 3), ((500,), 1)])
async def test_a_failure_for_want_of_the_image_is_tried_again_though_it_was_sent(
    statuses: tuple[int, ...], tries: int
) -> None:
    """vLLM's front end may remember it from a call that failed before; of a new one it cannot be for want."""
    state = base64.b64encode(bytes(8)).decode()
    left = list(statuses)
    answer = {"data": [{"index": 0, "object": "embedding", "embedding": state}]}

    async def reply(exchange: Exchange) -> None:
        await exchange.respond(*((FAILED, left.pop(0)) if left else (answer, 200)))

    async with scripted_server(reply) as server:
        role = VllmRole("concentrate", server.url)
        for status in statuses:
            if status != statuses[-1] or tries == 1:
                with pytest.raises(MllmUnavailable):
                    await role.call(Pooling((PREFILL,)), PoolingAnswer, deadline())
            else:
                await role.call(Pooling((PREFILL,)), PoolingAnswer, deadline())
        await role.aclose()
    assert len(server.seen) == tries


@pytest.mark.parametrize(
    ("statuses", "copies"),
    [
        ((200, 200), [1, 0]),
        ((400, 200, 200), [1, 3, 0]),
        ((503, 200, 200), [1, 3, 0]),
        ((200, 400, 200), [1, 0, 3]),
    ],
)
async def test_a_new_images_data_goes_with_the_first_prefill_and_with_all_if_that_is_not_enough(
    statuses: tuple[int, ...], copies: list[int]
) -> None:
    state = base64.b64encode(bytes(8)).decode()
    data = [{"index": i, "object": "embedding", "embedding": state} for i in range(3)]
    left = list(statuses)

    async def reply(exchange: Exchange) -> None:
        status = left.pop(0)
        await exchange.respond({"data": data} if status == 200 else FAILED, status)

    async with scripted_server(reply) as server:
        role = VllmRole("concentrate", server.url)
        for _ in range(2):
            answer = await role.call(Pooling((PREFILL,) * 3), PoolingAnswer, deadline())
            assert answer.vectors().shape == (3, 2)
        await role.aclose()
    bodies = [str(exchange.body) for exchange in server.seen]
    assert [body.count("AAAA") for body in bodies] == copies
    assert [body.index("AAAA") < body.index("None") for body in bodies if body.count("AAAA") == 1] == [True]
    assert [body.count("sha256:a") for body in bodies] == [3] * len(bodies)


@pytest.mark.parametrize("first_fails", [False, True])
async def test_an_image_is_brought_by_one_call_while_others_wait_to_name_it(first_fails: bool) -> None:
    """vLLM takes the second to bring an image as known, and can come to it before the first."""
    state = base64.b64encode(bytes(8)).decode()
    answer = {"data": [{"index": 0, "object": "embedding", "embedding": state}]}
    go_on = asyncio.Event()

    async def reply(exchange: Exchange) -> None:
        await go_on.wait()
        fails = first_fails and len(server.seen) == 1
        await exchange.respond(FAILED if fails else answer, 404 if fails else 200)

    async with scripted_server(reply) as server:
        role = VllmRole("concentrate", server.url)
        calls = [
            asyncio.create_task(role.call(Pooling((PREFILL,)), PoolingAnswer, deadline())) for _ in range(3)
        ]
        await until(lambda: bool(server.seen))
        await asyncio.sleep(0.2)
        assert len(server.seen) == 1
        go_on.set()
        found = await asyncio.gather(*calls, return_exceptions=True)
        await role.aclose()
    assert [isinstance(one, MllmUnavailable) for one in found] == [first_fails, False, False]
    brought = ["AAAA" in str(exchange.body) for exchange in server.seen]
    assert brought == ([True, True, False] if first_fails else [True, False, False])


@pytest.mark.parametrize("states", [(b"?",), (bytes(3),), (bytes(4), bytes(8))])
async def test_states_that_are_none_are_the_servers_fault(states: tuple[bytes, ...]) -> None:
    encoded = ["?" if state == b"?" else base64.b64encode(state).decode() for state in states]
    data = [{"index": i, "object": "embedding", "embedding": state} for i, state in enumerate(encoded)]

    async def reply(exchange: Exchange) -> None:
        await exchange.respond({"data": data})

    async with scripted_server(reply) as server:
        role = VllmRole("concentrate", server.url)
        with pytest.raises(MllmUnavailable, match="does not talk like vLLM"):
            await role.call(Pooling((PREFILL,)), PoolingAnswer, deadline())
        await role.aclose()


@pytest.mark.parametrize(
    "junk",
    [
        b"SSH-2.0-no web server\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["another protocol", "an endless header", "chunks without lengths"],
)
async def test_a_server_that_speaks_no_http_is_unavailable(junk: bytes) -> None:
    async def reply(exchange: Exchange) -> None:
        exchange.writer.write(junk)
        await exchange.writer.drain()

    async with scripted_server(reply) as server:
        role = VllmRole("reason", server.url)
        with pytest.raises(MllmUnavailable, match="the reason server at"):
            await role.call(Pooling((PREFILL,)), PoolingAnswer, deadline())
        with pytest.raises(MllmUnavailable, match="the reason server at"):
            await text(role)
        assert not (await role.probe()).well
        await role.aclose()


async def break_off(exchange: Exchange) -> None:
    exchange.writer.close()


async def reset(exchange: Exchange) -> None:
    exchange.writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    exchange.writer.close()


async def say_nothing(exchange: Exchange) -> None:
    await exchange.until_left()


@pytest.mark.parametrize("reply", [break_off, reset, say_nothing])
async def test_a_server_that_took_the_connection_has_been_reached(
    reply: Callable[[Exchange], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.mllm.role.HEALTH_SECONDS", 0.5)
    async with scripted_server(reply) as server:
        role = VllmRole("reason", server.url)
        probe = await role.probe()
        await role.aclose()
    assert (probe.well, probe.reached) == (False, True)


async def test_one_that_takes_none_has_not(unused_tcp_port: int) -> None:
    for host in (f"127.0.0.1:{unused_tcp_port}", "no-such-host.invalid"):
        role = VllmRole("reason", f"http://{host}")
        probe = await role.probe()
        await role.aclose()
        assert (probe.well, probe.reached) == (False, False)
        assert host.partition(":")[0] in probe.fault


async def test_one_whose_name_nobody_looks_up_in_time_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr("engines.mllm.role.HEALTH_SECONDS", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(5.0))
    role = VllmRole("reason", "http://pod.test")
    probe = await role.probe()
    answered.set()
    await role.aclose()
    assert (probe.well, probe.reached) == (False, False)


async def test_a_server_whose_name_is_gone_is_not_well_though_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names, look_up = {"pod.test": "127.0.0.1"}, socket.getaddrinfo

    def addresses(host: str, *rest: object, **more: object) -> object:
        if host.endswith(".test") and host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return look_up(names.get(host, host), *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    async with lasting_server() as server:
        role = VllmRole("reason", f"http://pod.test:{server.port}")
        assert (await role.probe()).well
        assert await text(role) == "ab"
        del names["pod.test"]
        assert not (await role.probe()).well
        assert await text(role) == "ab"
        names["pod.test"] = "127.0.0.1"
        assert (await role.probe()).well
        await role.aclose()
