"""A gateway on a scripted language model and a real, tiny vision model; pictures to send to it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from engines.images import ImagePreparer
from engines.mllm.answer import AnswerFormat
from engines.mllm.image import MllmImageConfig
from engines.vision.runtimes.torch_cpu import TorchRuntime
from server.app import create_app
from server.services import Engines, Services, open_services
from server.settings import Settings
from server.telemetry.telemetry import Telemetry
from tests.stand_ins import TINY_VISION, FaultyVision, ScriptedMllm, tiny_vision


def photo(size: tuple[int, int] = (120, 80), format: str = "PNG", **options: object) -> bytes:
    """A small colourful picture, as a file."""
    noise = np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(buffer, format, **options)
    return buffer.getvalue()


@dataclass
class Gateway:
    """An application under test, and the engines behind it."""

    app: FastAPI
    client: httpx.AsyncClient
    mllm: ScriptedMllm
    vision: FaultyVision

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services


OpenGateway = Callable[..., AbstractAsyncContextManager[Gateway]]


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> TorchRuntime:
    return tiny_vision(tmp_path_factory.mktemp("vision"))


@pytest.fixture
def open_gateway(runtime: TorchRuntime, monkeypatch: pytest.MonkeyPatch) -> OpenGateway:
    """Opens a gateway and waits until it is warm; keyword arguments are settings, but for the named ones."""
    monkeypatch.setattr("server.readiness.RETRY_SECONDS", 0.01)

    @asynccontextmanager
    async def opened(
        mllm: ScriptedMllm | None = None,
        *,
        wait: bool = True,
        telemetry: Telemetry | None = None,
        launched: dict[str, str] | None = None,
        **settings: object,
    ) -> AsyncIterator[Gateway]:
        mllm = mllm or ScriptedMllm()
        vision = FaultyVision(runtime)
        preparer = ImagePreparer(MllmImageConfig(), TINY_VISION.image_size)
        engines = Engines("tiny", "coprs", AnswerFormat(), 0.0, preparer, mllm, vision)
        read = Settings.model_validate(settings)
        app = create_app(lambda: open_services(engines, read, telemetry, launched))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://gateway") as client,
        ):
            while wait and (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110  # as an outsider
                await asyncio.sleep(0.01)
            yield Gateway(app, client, mllm, vision)

    return opened


@pytest.fixture
async def gateway(open_gateway: OpenGateway) -> AsyncIterator[Gateway]:
    async with open_gateway() as opened:
        yield opened
