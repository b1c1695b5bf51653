"""The reference behind FastAPI, called in a thread: ``python -m loadtests.bench.fastapi_app BUNDLE PORT``."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from engines.events import Rle
from loadtests.bench.reference import Reference


class Asked(BaseModel):
    """One request; `image` is base64."""

    image: str
    prompt: str


def create_app(bundle: Path) -> FastAPI:
    """An application as most people would write it."""
    app, reference = FastAPI(), Reference(bundle)

    @app.get("/health")
    async def health() -> str:
        return "ok"

    @app.post("/segment")
    async def segment(asked: Asked) -> dict[str, list[Rle]]:
        image = base64.b64decode(asked.image)
        [masks] = await run_in_threadpool(reference.segment, [image], [asked.prompt])
        return {"masks": masks}

    return app


def main() -> None:
    """Serve until SIGTERM."""
    uvicorn.run(create_app(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")


if __name__ == "__main__":
    main()
