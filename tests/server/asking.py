"""Requests to a gateway under test, and what a refusal must look like."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx

from tests.server.conftest import Gateway, photo

PHOTO = photo()


def as_json(prompt: object = "the whole mug", image: bytes = PHOTO, **options: object) -> dict[str, Any]:
    return {"json": {"prompt": prompt, "image": {"data": base64.b64encode(image).decode()}, **options}}


def as_multipart(prompt: object = "the whole mug", image: bytes = PHOTO, **options: object) -> dict[str, Any]:
    return {
        "files": {"image": ("mug.png", image)},
        "data": {"request": json.dumps({"prompt": prompt, **options})},
    }


async def post(gateway: Gateway, request: dict[str, Any]) -> httpx.Response:
    return await gateway.client.post("/v1/segment", **request)


async def refusal(gateway: Gateway, request: dict[str, Any], status: int, slug: str) -> dict[str, Any]:
    response = await post(gateway, request)
    problem: dict[str, Any] = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, problem["status"], problem["type"]) == (
        status,
        status,
        f"urn:r2sm:problem:{slug}",
    )
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"].startswith("urn:uuid:")
    assert "Traceback" not in response.text
    return problem
