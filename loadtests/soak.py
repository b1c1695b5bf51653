"""Overloads a gateway for minutes, with clients that leave, and reports what became of everything.

``python -m loadtests.soak`` starts ``r2sm serve``; ``--command`` starts another one. Each round measures the goodput
of a gateway that is just busy, then of one that is asked ten times as much, then how soon it is itself again, and its
goodput once more: its best is the mean of before and after, for machines that are shared change their speed.
Nearly every picture is new to the gateway (``--images 3``: soon none), and its caches are small, so that they are
full in the first round, whose memory is the level of the others. With ``--redis`` a Redis is started, too, and killed
and started anew in each overload. The exit code is 1 if a promise is broken: goodput below 0.9 of its best, more than
5 s to recover, memory or open files that grow, an answer with a status that is no refusal.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import shlex
import signal
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, fields
from types import MappingProxyType

import aiohttp
import cv2
import numpy as np

from engines.evaluation.samples import SAMPLES
from loadtests.processes import cpu_seconds, descendants, memory_mib, open_files

OVERLOAD, LEAVING = 10, 0.3
OVERLOAD_SECONDS = 60.0
REST_SECONDS = 10.0
RECOVERY_SECONDS = 5.0
MIN_GOODPUT = 0.9
MEMORY_SHARE, MEMORY_MIB, FILES = 1.1, 64.0, 16
"""How much more than before counts as the same."""
START_SECONDS, STOP_SECONDS = 600.0, 120.0
LOG_BYTES = 65_536
SQUARE = 8
"""Pixels of a picture's side that hold a bit of its number, enough to outlast JPEG."""
IMAGES = 8192
NICE = 19
"""Clients have machines of their own; here they take what is left. A Redis that they start would be as nice."""
SMALL_CACHES = {
    "R2SM_EMBEDDING_CACHE_MIB": "64",
    "R2SM_IMAGE_CACHE_MIB": "64",
    "R2SM_STORED_IMAGES_MIB": "64",
}
RATE_LIMIT = {"R2SM_RATE_LIMIT": "1000000/minute"}
"""Refuses nobody, but is asked: of Redis, where there is one."""
EXPECTED = {"200", "429", "503", "504", "left"}


@dataclass(slots=True)
class Round:
    """What one round showed; rates are requests a second that were answered in time, but for `asked`, all there were.

    `cores` tells by phase how many cores were kept busy by clients, gateway and vLLM.
    """

    best: float = 0.0
    overloaded: float = 0.0
    asked: float = 0.0
    recovery_seconds: float = 0.0
    memory_mib: float = 0.0
    files: int = 0
    cores: dict[str, dict[str, float]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)


class Soak:
    """Rounds against one gateway: `clients` ask without a pause for its best, and what `pid` holds is watched.

    Questions are written out beforehand: the clients share the machine with what they ask.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        pid: int,
        options: argparse.Namespace,
        redis: RestartingRedis | None,
    ) -> None:
        self._http = http
        self._pid = pid
        self._clients: int = options.clients
        self._seconds: float = options.seconds
        self._redis = redis
        self._questions = [
            question(image, {"prompt": prompt, "timeout_ms": options.timeout_ms})
            for image, prompt in photographs(options.images)
        ]
        self._chance = random.Random(11)
        self._usual = 0.0
        self.rounds: list[Round] = []

    async def round(self) -> None:
        """One round; adds it to `rounds`."""
        found = Round()
        with self._counting(found, "best"):
            found.best = await self._busy(found)
        with self._counting(found, "overloaded"):
            found.overloaded = await self._overload(found)
        found.recovery_seconds = await self._recover()
        with self._counting(found, "again"):
            found.best = (found.best + await self._busy(found)) / 2
        await asyncio.sleep(REST_SECONDS)
        found.memory_mib, found.files = memory_mib(self._pid), open_files(self._pid)
        self.rounds.append(found)
        print(json.dumps({one.name: getattr(found, one.name) for one in fields(found)}), flush=True)

    def broken(self) -> list[str]:
        """The promises that were not kept, a sentence for each. The first round is the level of the others."""
        first = self.rounds[0]
        faults = []
        for number, one in enumerate(self.rounds, 1):
            if one.overloaded < MIN_GOODPUT * one.best:
                faults.append(f"round {number}: goodput {one.overloaded:.2f}/s of {one.best:.2f}/s")
            if one.recovery_seconds > RECOVERY_SECONDS:
                faults.append(f"round {number}: {one.recovery_seconds:.1f} s to recover")
            if one.memory_mib > MEMORY_SHARE * first.memory_mib + MEMORY_MIB:
                faults.append(f"round {number}: {one.memory_mib:.0f} MiB, at first {first.memory_mib:.0f}")
            if one.files > first.files + FILES:
                faults.append(f"round {number}: {one.files} open files, at first {first.files}")
            if strange := set(one.outcomes) - EXPECTED:
                faults.append(f"round {number}: answers {sorted(strange)}")
        return faults

    @contextmanager
    def _counting(self, found: Round, phase: str) -> Iterator[None]:
        """Note the cores that are busy inside."""
        servers = descendants(self._pid)

        def used() -> dict[str, float]:
            vllm = sum(map(cpu_seconds, servers))
            return {"clients": cpu_seconds(os.getpid()), "gateway": cpu_seconds(self._pid), "vllm": vllm}

        before, began = used(), time.monotonic()
        yield
        seconds = time.monotonic() - began
        found.cores[phase] = {who: round((spent - before[who]) / seconds, 3) for who, spent in used().items()}

    async def _ask(self, found: Round) -> bool:
        body, headers = self._chance.choice(self._questions)
        priority = "batch" if self._chance.random() < LEAVING else "interactive"
        try:
            asked = self._http.post("/v1/segment", data=body, headers=headers | {"X-R2SM-Priority": priority})
            async with asked as response:
                await response.read()
        except asyncio.CancelledError:
            found.outcomes["left"] += 1
            raise
        except (aiohttp.ClientError, TimeoutError) as error:
            found.outcomes[type(error).__name__] += 1
            return False
        found.outcomes[str(response.status)] += 1
        return response.status == 200

    async def _busy(self, found: Round) -> float:
        """Clients that ask again as soon as they are answered."""
        end, done, spent = time.monotonic() + self._seconds / 4, 0, []

        async def client() -> None:
            nonlocal done
            while time.monotonic() < end:
                began = time.monotonic()
                if await self._ask(found):
                    done += 1
                    spent.append(time.monotonic() - began)

        began = time.monotonic()
        await asyncio.gather(*(client() for _ in range(self._clients)))
        self._usual = statistics.median(spent) if spent else 0.0
        return done / (time.monotonic() - began)

    async def _overload(self, found: Round) -> float:
        """Ten times as many, at random moments, some of whom leave; counts the answers in the whole time.

        They come when it is their time, whether or not those before them have been answered.
        """
        rate = OVERLOAD * max(found.best, 0.1)
        before, began, number = found.outcomes["200"], time.monotonic(), 0
        due, end = began, began + self._seconds
        asking: set[asyncio.Task[bool]] = set()
        restarting = asyncio.create_task(self._restart_redis())
        while time.monotonic() < end:
            number += 1
            task = asyncio.create_task(self._ask(found))
            asking.add(task)
            task.add_done_callback(asking.discard)
            if self._chance.random() < LEAVING:
                asyncio.get_running_loop().call_later(self._chance.uniform(0, 2), task.cancel)
            due += self._chance.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        found.asked = number / self._seconds
        done = found.outcomes["200"] - before
        for task in asking:
            task.cancel()
        await restarting
        await asyncio.gather(*asking, return_exceptions=True)
        return done / self._seconds

    async def _restart_redis(self) -> None:
        """In the second third of an overload there is none."""
        if self._redis is not None:
            await asyncio.sleep(self._seconds / 3)
            await self._redis.stop()
            await asyncio.sleep(self._seconds / 3)
            await self._redis.start()

    async def _recover(self) -> float:
        """Seconds until a request takes no longer than twice what is usual among busy clients."""
        began, aside = time.monotonic(), Round()
        while time.monotonic() - began < 10 * RECOVERY_SECONDS:
            asked = time.monotonic()
            if await self._ask(aside) and time.monotonic() - asked <= 2 * self._usual:
                return asked - began
        return time.monotonic() - began


def photographs(count: int) -> list[tuple[bytes, str]]:
    """So many pictures as JPEG, with prompts: the samples' scenes, and then the same with their number in a corner."""
    scenes = [cv2.imdecode(np.frombuffer(one.image(), np.uint8), cv2.IMREAD_COLOR) for one in SAMPLES]
    taken = []
    for number in range(count):
        repeats, which = divmod(number, len(SAMPLES))
        scene = np.array(scenes[which])
        for place in range(repeats.bit_length()):
            scene[:SQUARE, place * SQUARE :][:, :SQUARE] = 255 * (repeats >> place & 1)
        taken.append((cv2.imencode(".jpg", scene)[1].tobytes(), SAMPLES[which].prompt))
    return taken


def question(image: bytes, asked: dict[str, object]) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a multipart request."""
    mark = "r2sm-soak"
    head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n\r\n'
    then = f'\r\n--{mark}\r\nContent-Disposition: form-data; name="request"\r\n\r\n{json.dumps(asked)}\r\n'
    body = head.encode() + image + f"{then}--{mark}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={mark}"}


class RestartingRedis:
    """A Redis that remembers nothing, on a port that stays the same."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port: int = free.getsockname()[1]
        self._child: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Start it. Raises FileNotFoundError if there is no ``redis-server``."""
        options = ("--port", str(self._port), "--bind", "127.0.0.1", "--save", "")
        self._child = await asyncio.create_subprocess_exec(
            "redis-server", *options, stdout=asyncio.subprocess.DEVNULL
        )

    async def stop(self) -> None:
        """Kill it."""
        if self._child is not None and self._child.returncode is None:
            self._child.kill()
            await self._child.wait()


@asynccontextmanager
async def gateway(
    command: list[str], settings: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[tuple[int, str]]:
    """The process id and the URL of a gateway that is ready; it is stopped as an operator would. Its log is shown.

    The environment goes before `settings`.
    """
    child = await asyncio.create_subprocess_exec(
        *command, stderr=asyncio.subprocess.PIPE, env={**settings, **os.environ}
    )
    log: asyncio.Queue[str] = asyncio.Queue()
    heard = False

    async def read() -> None:
        assert child.stderr is not None
        while not heard and (line := await child.stderr.readline()):
            sys.stderr.buffer.write(line)
            log.put_nowait(line.decode())
        log.put_nowait("")
        while some := await child.stderr.read(LOG_BYTES):  # as it comes: under load it is much
            sys.stderr.buffer.write(some)

    reading = asyncio.create_task(read())
    try:
        async with asyncio.timeout(START_SECONDS):
            url = await _said(log, r"listens at (http://[\w.:\[\]]+)")
            await _said(log, r"(ready: a warm-up)")
        heard = True
        yield child.pid, url
        child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_SECONDS):
            ended = await child.wait()
        if ended != 0:
            raise SystemExit(f"the gateway ended with {child.returncode}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        await reading


async def _said(log: asyncio.Queue[str], pattern: str) -> str:
    while line := await log.get():
        if found := re.search(pattern, line):
            return found[1]
    raise SystemExit("the gateway ended before it was ready")


def niceness(options: argparse.Namespace) -> int:
    """How far the clients step back: as told, else to the end, but not at all where a Redis would come along."""
    if options.nice is not None:
        return int(options.nice)
    return 0 if options.redis else NICE


async def soak(options: argparse.Namespace) -> int:
    """Rounds until the time is up; prints each, and what was not kept. Returns the exit code."""
    end = time.monotonic() + 60 * options.minutes
    redis = RestartingRedis() if options.redis else None
    command = shlex.split(options.command)
    settings = dict(SMALL_CACHES)
    try:
        if redis is not None:
            await redis.start()
            command += ["--redis-url", redis.url]
            settings |= RATE_LIMIT
        async with gateway(command, settings) as (pid, url):
            os.nice(niceness(options))
            pool, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(options.timeout_ms / 500)
            async with aiohttp.ClientSession(url, connector=pool, timeout=timeout) as http:
                run = Soak(http, pid, options, redis)
                while not run.rounds or time.monotonic() < end:
                    await run.round()
    finally:
        if redis is not None:
            await redis.stop()
    faults = run.broken()
    counts = sum((one.outcomes for one in run.rounds), Counter[str]())
    print(json.dumps({"rounds": len(run.rounds), "outcomes": counts, "broken": faults}, indent=2))
    return 1 if faults else 0


def command_line() -> argparse.ArgumentParser:
    """Its options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="at least one round is run")
    parser.add_argument("--seconds", type=float, default=OVERLOAD_SECONDS, help="how long an overload lasts")
    parser.add_argument("--clients", type=int, default=12, help="how many at once keep the gateway just busy")
    parser.add_argument(
        "--nice",
        type=int,
        help=f"how far clients step back before what they ask, on shared cores [{NICE}; with --redis 0]",
    )
    parser.add_argument(
        "--images", type=int, default=IMAGES, help="how many there are; a few are soon known to the gateway"
    )
    parser.add_argument("--timeout-ms", type=int, default=20_000, help="the deadline of each request")
    parser.add_argument("--redis", action="store_true", help="restart a Redis in each overload")
    serve = f"{shlex.quote(sys.executable)} -c 'from server.cli import main; main()' serve --port 0"
    parser.add_argument("--command", default=f"{serve} --max-in-flight 8", help="what starts the gateway")
    return parser


def main() -> None:
    """The command line."""
    sys.exit(asyncio.run(soak(command_line().parse_args())))


if __name__ == "__main__":
    main()
