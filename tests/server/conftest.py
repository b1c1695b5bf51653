"""A gateway on a scripted language model and a real, tiny vision model; pictures to send to it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from engines.cache.observer import CountingObserver
from engines.vision.runtimes.torch_cpu import TorchRuntime
from server.app import create_app
from server.running import RunningGateway, run_gateway
from server.services import Services, open_services
from server.settings import Settings
from server.telemetry.telemetry import Telemetry
from tests.server.stand_in_engines import stand_in_engines
from tests.stand_ins import FaultyVision, ScriptedMllm, tiny_vision

if TYPE_CHECKING:
    from tests.vllm_fixture import ServedModel


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
    caches: CountingObserver

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
    monkeypatch.setattr("server.readiness.KEPT_SECONDS", 0.0)

    @asynccontextmanager
    async def opened(
        mllm: ScriptedMllm | None = None,
        *,
        wait: bool = True,
        encoder: str = "tiny",
        telemetry: Telemetry | None = None,
        launched: dict[str, str] | None = None,
        **settings: object,
    ) -> AsyncIterator[Gateway]:
        mllm = mllm or ScriptedMllm()
        vision = FaultyVision(runtime)
        engines = stand_in_engines(mllm, vision, encoder)
        counts = CountingObserver()
        if telemetry is None:
            telemetry = Telemetry()
            telemetry.caches = counts
        read = Settings.model_validate(settings)
        app = create_app(lambda: open_services(engines, read, telemetry, launched))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://gateway") as client,
        ):
            while wait and (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110  # as an outsider
                await asyncio.sleep(0.01)
            yield Gateway(app, client, mllm, vision, counts)

    return opened


@pytest.fixture
async def gateway(open_gateway: OpenGateway) -> AsyncIterator[Gateway]:
    async with open_gateway() as opened:
        yield opened


def settings_for(bundle: Path, reason_url: str, concentrate_url: str) -> Settings:
    return Settings(
        bundle=bundle, port=0, vision="torch", reason_url=(reason_url,), concentrate_url=(concentrate_url,)
    )


@pytest.fixture
async def real(served_model: ServedModel, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """A gateway on the session's vLLM servers, with the served bundle or with a tiny one around the model."""
    from tests.tiny_bundle import build_tiny_bundle  # transformers takes seconds to import

    bundle = served_model.bundle or build_tiny_bundle(tmp_path / "bundle", served_model.path)
    settings = settings_for(bundle, served_model.reason_url, served_model.concentrate_url)
    async with run_gateway(settings) as gateway:
        await gateway.wait_ready(120)
        yield gateway
