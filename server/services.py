"""The services behind the routes, put together from the settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends
from PIL import Image
from starlette.requests import HTTPConnection, Request

from engines.assembly import open_pipeline
from engines.bundles import Bundle
from engines.deadline import Deadline
from engines.embeddings import EncoderIdentity, SharedEmbeddings
from engines.images import ImagePreparer, PreparedImage
from engines.mllm.answer import AnswerFormat
from engines.mllm.image import Content, as_bitmap
from engines.mllm.interface import Mllm
from engines.mllm.results import RoleHealth
from engines.pipeline import Pipeline
from engines.request import SegmentRequest, mask_types
from engines.vision.runtimes.base import VisionRuntime
from server.admission import Admission, Caller, Callers, KeysInvalid, RateLimits
from server.cache.opening import open_redis
from server.drawing import Drawing, draw_threads
from server.image_store import ImageStore
from server.images import ImageLoader
from server.readiness import Readiness
from server.remote_images import RemoteImages
from server.schemas import ModelInfo, SegmentOptions
from server.settings import MIB, Settings, StreamLimits
from server.sources import ImageSources
from server.telemetry.pages import VllmPages
from server.telemetry.telemetry import Telemetry
from server.uploads import UploadLimits

WARM_UP_SECONDS = 60.0
LAST_EVENTS_SECONDS = 5.0
"""How long a stopping server waits for WebSockets' clients to take their last events."""


class MllmWithHealth(Mllm, Protocol):
    """The language model's side, with the health of its servers."""

    async def health(self) -> tuple[RoleHealth, ...]: ...


@dataclass(frozen=True, slots=True)
class Engines:
    """A bundle's engines, ready to be asked."""

    name: str
    grounder: str
    answer: AnswerFormat
    mask_threshold: float
    preparer: ImagePreparer
    mllm: MllmWithHealth
    vision: VisionRuntime
    encoder: EncoderIdentity

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        mllm: MllmWithHealth,
        vision: VisionRuntime,
        content: Callable[[Image.Image], Content] = as_bitmap,
    ) -> Engines:
        """The engines that serve `bundle`; `content` makes what vLLM gets of an image."""
        preparer = ImagePreparer(bundle.mllm_image, bundle.vision.image_size, bundle.vision.fit, content)
        return cls(
            bundle.name,
            bundle.grounder,
            bundle.answer,
            bundle.mask_threshold,
            preparer,
            mllm,
            vision,
            EncoderIdentity.of(bundle.vision_digest, vision),
        )

    def info(self) -> ModelInfo:
        """What `/v1/models` tells of them."""
        return ModelInfo(
            id=self.name,
            grounder=self.grounder,
            mask_types=list(mask_types(self.answer)),
            reasoning_tokens={"full": self.answer.budget("full"), "brief": self.answer.budget("brief")},
            vision=self.vision.info(),
        )


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes call."""

    model: ModelInfo
    pipeline: Pipeline
    sources: ImageSources
    drawing: Drawing
    callers: Callers
    admission: Admission
    sockets: Admission
    readiness: Readiness
    upload_limits: UploadLimits
    stream_limits: StreamLimits
    default_timeout_ms: int
    telemetry: Telemetry
    vllm_pages: VllmPages
    metrics_local: bool

    def deadline(self, options: SegmentOptions) -> Deadline:
        """The deadline of a request that has just been read."""
        return Deadline.after((options.timeout_ms or self.default_timeout_ms) / 1000)

    @asynccontextmanager
    async def place(self, caller: Caller) -> AsyncIterator[None]:
        """A place for one request of the caller's, whose rate is charged, before its body is read.

        Its deadline is in the body: until that has been read, the server's own stands for it.

        Raises:
            RequestRejected: it is one too many, or the server is stopping.
            Overloaded: there is no place, or the answer could not come in time.
        """
        await self.callers.charge(caller)
        async with self.admission.place(caller.priority, self.default_timeout_ms / 1000):
            yield

    async def drain(self, seconds: float) -> bool:
        """Take nothing new, wait until all that runs has ended, after `seconds` end it, and close the WebSockets.

        Tells whether everything could finish.
        """
        self.sockets.close()
        finished = await self.admission.drain(seconds)
        await self.sockets.drain(LAST_EVENTS_SECONDS)
        return finished

    def reload(self, settings: Settings) -> None:
        """Take on what of new settings needs no restart: keys, rate limits, bounds.

        Raises:
            KeysInvalid: they cannot be used, or there are none any more, which would open a server that asks for them.
        """
        if settings.keys is None and self.callers.closed:
            raise KeysInvalid("no API keys are set any more; restart the server to serve without")
        self.callers.update(settings.keys, settings.limits)
        self.admission.resize(settings.max_in_flight, settings.max_queued)


async def _current(connection: HTTPConnection) -> Services:
    services: Services = connection.app.state.services
    return services


CurrentServices = Annotated[Services, Depends(_current)]


async def _identify(request: Request, services: CurrentServices) -> Caller:
    return services.callers.identify(request)


CurrentCaller = Annotated[Caller, Depends(_identify)]


async def _place(caller: CurrentCaller, services: CurrentServices) -> AsyncIterator[None]:
    """A place among the requests, from before the body is read until the answer has been sent."""
    async with services.place(caller):
        yield


async def _charge(caller: CurrentCaller, services: CurrentServices) -> None:
    await services.callers.charge(caller)


KEYED, CHARGED, IN_PLACE = Depends(_identify), Depends(_charge), Depends(_place)


@asynccontextmanager
async def open_services(
    engines: Engines,
    settings: Settings,
    telemetry: Telemetry | None = None,
    launched: Mapping[str, str] | None = None,
) -> AsyncIterator[Services]:
    """The services on open engines. A task of theirs tries requests until one passes: then they are ready.

    `telemetry` is what the engines tell theirs to. `launched` are the URLs, by role, of the vLLM servers that
    were started here.
    """
    telemetry = telemetry or Telemetry()
    telemetry.running(engines.name, str(engines.vision.info().get("runtime", "")))
    with ThreadPoolExecutor(settings.image_threads, "image") as image_threads, draw_threads() as drawers:
        async with (
            open_redis(settings, telemetry.caches) as redis,
            open_pipeline(
                engines.answer,
                engines.mask_threshold,
                engines.mllm,
                engines.vision,
                settings.pipeline_limits,
                telemetry.pipeline,
                SharedEmbeddings(redis, engines.encoder) if redis else None,
                telemetry.caches,
            ) as pipeline,
        ):
            limits = settings.upload_limits.image
            loader = ImageLoader(
                engines.preparer.prepare, limits, image_threads, settings.image_cache_mib * MIB
            )
            store = ImageStore(
                settings.stored_images_mib * MIB, settings.stored_image_seconds, redis, telemetry.caches
            )
            remote = RemoteImages(settings.image_url_hosts, limits, settings.image_url_seconds)
            rates = RateLimits(
                settings.redis_url,
                settings.redis_prefix,
                settings.redis_limits.budget,
                telemetry.caches.trouble,
            )
            services = Services(
                model=engines.info(),
                pipeline=pipeline,
                sources=ImageSources(loader, store, remote, limits, pipeline),
                drawing=Drawing(drawers),
                callers=Callers(settings.keys, settings.limits, rates),
                admission=Admission(settings.max_in_flight, settings.max_queued),
                sockets=Admission(settings.max_sockets, 0),
                readiness=Readiness(
                    lambda: asyncio.to_thread(engines.vision.warm_up),
                    lambda: _try_request(pipeline, engines),
                    engines.mllm.health,
                    {"cache": redis.trouble, "limits": rates.trouble} if redis else {},
                ),
                upload_limits=settings.upload_limits,
                stream_limits=settings.stream_limits,
                default_timeout_ms=settings.default_timeout_ms,
                telemetry=telemetry,
                vllm_pages=VllmPages(launched or {}),
                metrics_local=settings.metrics == "local",
            )
            warming = asyncio.create_task(services.readiness.warm_up())
            try:
                yield services
            finally:
                warming.cancel()
                ending = (services.readiness.aclose(), services.sources.aclose(), rates.aclose())
                await asyncio.gather(warming, *ending, return_exceptions=True)


async def _try_request(pipeline: Pipeline, engines: Engines) -> None:
    """One short request through every engine. Raises what the pipeline raises."""
    request = SegmentRequest(
        "the box", mask_type="both" if engines.answer.decides else "modal", objects=1, max_reasoning_tokens=4
    )

    async def load() -> PreparedImage:
        grey = Image.linear_gradient("L").resize((320, 240)).convert("RGB")
        return await asyncio.to_thread(engines.preparer.prepare, grey, "sha256:warm-up")

    async with aclosing(pipeline.segment(request, load, Deadline.after(WARM_UP_SECONDS))) as events:
        async for _ in events:
            pass
