"""``/`` and ``/docs``: pages for people, their scripts and styles, and the sample scenes they offer."""

from __future__ import annotations

import asyncio
from functools import cache
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

import server
from engines.evaluation.samples import SAMPLES

STATIC = Path(server.__file__).parent / "static"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
SAFE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept by the browser, but asked for again by its ETag
}
SAMPLE_HEADERS = {**SAFE_HEADERS, "Cache-Control": "public, max-age=86400"}

BY_NAME = {sample.name: sample for sample in SAMPLES}

router = APIRouter(include_in_schema=False)


class _SafeFiles(StaticFiles):
    """Static files with the headers that every page has."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(SAFE_HEADERS)
        return response


files = _SafeFiles(directory=STATIC)


def add_pages(app: FastAPI) -> None:
    """The playground at ``/``, the reference at ``/docs``, what both need under ``/static``."""
    app.include_router(router)
    app.mount("/static", files, name="static")


@router.get("/")
@router.head("/")
async def playground(request: Request) -> Response:
    """The playground's page."""
    return await files.get_response("index.html", request.scope)


@router.get("/docs")
@router.head("/docs")
async def docs(request: Request) -> Response:
    """The reference, drawn from ``/openapi.json``."""
    return await files.get_response("docs.html", request.scope)


@router.get("/samples")
async def samples() -> list[dict[str, str]]:
    """The sample scenes: where each one is, and what to ask about it."""
    return [
        {"url": f"/samples/{one.name}.png", "name": one.name, "target": one.target, "prompt": one.prompt}
        for one in SAMPLES
    ]


@router.get("/samples/{name}.png")
async def sample(request: Request, name: str) -> Response:
    """One sample scene, drawn when it is first asked for."""
    if name not in BY_NAME:
        raise HTTPException(404)
    data, etag = await asyncio.to_thread(_draw, name)
    headers = SAMPLE_HEADERS | {"ETag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type="image/png", headers=headers)


@cache
def _draw(name: str) -> tuple[bytes, str]:
    """A sample's file and its entity tag. Blocking."""
    data = BY_NAME[name].image()
    return data, f'"{sha256(data).hexdigest()[:32]}"'
