"""``make bench-cache``: what a known image saves, and what a hit in Redis costs, as JSON.

Starts a gateway on the demo bundle and a Redis, both on the loopback interface, unless told where they are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median

import numpy as np
import uvloop

from engines.cache.codec import decode, encode, to_half
from engines.cache.observer import CountingObserver
from engines.cache.shared import Found
from engines.demo.language import ask
from engines.demo.scenes import render_scene
from engines.evaluation.datasets.demo import encode_png
from server.cache.redis_level import RedisLevel, RedisLimits
from server.client import SegmentClient
from server.running import run_gateway
from server.settings import Settings

SEED = 40_000_000
SHAPES = {"demo": (128, 24, 24), "sam": (256, 64, 64)}
REASONING = ("full", "brief", "none")
START_SECONDS = 540.0


async def prompts(client: SegmentClient, images: int, reasoning: str, seed: int) -> dict[str, float]:
    """Median milliseconds of a new image's first prompt and of its second, and their ratio.

    `writing_ms` is what the second one spends on writing its reasoning, from the first token to the last: no cache
    saves it, so that `floor`, its share of the first prompt, is what the ratio would be if all else were saved.
    """
    times: tuple[list[float], list[float]] = ([], [])
    written: tuple[list[float], list[float]] = ([], [])
    for number in range(seed, seed + images):
        scene = render_scene(number)
        image = encode_png(scene.image)
        for query, column, writing in zip(ask(scene, random.Random(number), 2), times, written, strict=False):
            begun = time.perf_counter()
            answer = await client.segment(image, query.prompt, reasoning=reasoning)
            column.append((time.perf_counter() - begun) * 1000)
            writing.append(writing_ms(answer.timings_ms))
    first, second = map(median, times)
    figures = {"first_ms": first, "second_ms": second, "writing_ms": median(written[1])}
    ratios = {"ratio": second / first, "floor": figures["writing_ms"] / first}
    return {name: round(value, 1) for name, value in figures.items()} | {
        name: round(value, 2) for name, value in ratios.items()
    }


def writing_ms(timings: Mapping[str, float]) -> float:
    """From the first token of the reasoning to its end; `timings` are an answer's, in milliseconds. 0 without any."""
    if "ttft" not in timings:
        return 0.0
    return timings["queue"] + timings["image"] + timings["reason"] - timings["ttft"]


async def redis_hit(url: str, shape: tuple[int, int, int], tries: int) -> float:
    """Median milliseconds from asking Redis to having the embedding."""
    level = RedisLevel(url, "bench:", RedisLimits(budget=10.0), CountingObserver())
    values = to_half(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    fingerprint = bytes(32)
    assert await level.put("embedding", encode([values], fingerprint), seconds=600)
    times = []
    for _ in range(tries):
        begun = time.perf_counter()
        claim = await level.claim("embedding")
        assert isinstance(claim, Found)
        await asyncio.to_thread(decode, claim.value, fingerprint, [shape])
        times.append((time.perf_counter() - begun) * 1000)
    await level.discard("embedding")
    await level.aclose()
    return round(median(times), 2)


@asynccontextmanager
async def some_redis(url: str | None) -> AsyncIterator[str]:
    """The URL of a Redis: the one that was named, or one of its own for as long as the block lasts."""
    if url is not None:
        yield url
        return
    executable = shutil.which("redis-server")
    if executable is None:
        raise SystemExit("there is no redis-server: install it, or name one with --redis-url")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
    process = await asyncio.create_subprocess_exec(executable, *options, stdout=subprocess.DEVNULL)
    try:
        await asyncio.sleep(1.0)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        await process.wait()


async def bench(images: int, url: str | None, redis_url: str | None) -> dict[str, object]:
    """All figures."""
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(some_redis(redis_url))
        hits = {name: await redis_hit(redis, shape, 100) for name, shape in SHAPES.items()}
        if images == 0:
            return {"redis_hit_ms": hits}
        if url is None:
            settings = Settings.model_validate({"port": 0, "redis_url": redis})
            gateway = await stack.enter_async_context(run_gateway(settings))
            await gateway.wait_ready(START_SECONDS)
            url = gateway.url
        client = await stack.enter_async_context(SegmentClient(url))
        await prompts(client, 2, "none", SEED - 2)
        cases = {
            reasoning: await prompts(client, images, reasoning, SEED + 10_000 * place)
            for place, reasoning in enumerate(REASONING)
        }
    return {"redis_hit_ms": hits, "prompts_on_one_image_by_reasoning": cases, "images": images}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--images", type=int, default=30, help="new images for each length of reasoning; 0: Redis only"
    )
    parser.add_argument("--url", help="a gateway that runs already")
    parser.add_argument("--redis-url", help="a Redis that runs already")
    given = parser.parse_args()
    print(json.dumps(uvloop.run(bench(given.images, given.url, given.redis_url)), indent=2))


if __name__ == "__main__":
    main()
