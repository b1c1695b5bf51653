"""FastAPI and httpx alone: ``python -m loadtests.bench.bare_app REASON_URL PORT``.

It takes a file, streams vLLM's answer and returns it: what the packages cost of any gateway's CPU time.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import httpx
import uvicorn
from fastapi import FastAPI, Form, UploadFile
from httpx_aiohttp import AiohttpTransport

DATA = "data: {"


def create_app(reason_url: str) -> FastAPI:
    """Calls are kept by name before they are asked for, so that nobody makes them while CPU time is counted."""
    app, calls = FastAPI(), dict[str, dict[str, Any]]()
    http = httpx.AsyncClient(base_url=reason_url, timeout=None, transport=AiohttpTransport(), trust_env=False)

    @app.get("/health")
    async def health() -> int:
        return os.getpid()

    @app.put("/calls/{name}")
    async def keep(name: str, call: dict[str, Any]) -> None:
        calls[name] = call

    @app.post("/segment")
    async def segment(image: UploadFile, call: Annotated[str, Form()]) -> str:
        await image.read()
        words = []
        async with http.stream("POST", "/v1/chat/completions", json=calls[call]) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith(DATA):
                    words += [one["delta"].get("content") or "" for one in json.loads(line[6:])["choices"]]
        return "".join(words)

    return app


def main() -> None:
    """Serve until SIGTERM."""
    uvicorn.run(create_app(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")


if __name__ == "__main__":
    main()
