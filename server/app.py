"""The application: routes, error handlers and the services behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware

from server.errors import add_error_handlers
from server.openapi import complete_openapi
from server.routes import batch, health, images, metrics, models, segment
from server.services import Services
from server.telemetry.middleware import observe_requests

TITLE = "r2sm-server"
GZIP_BYTES, GZIP_LEVEL = 1024, 5
OpenServices = Callable[[], AbstractAsyncContextManager[Services]]


def create_app(open_services: OpenServices) -> FastAPI:
    """The gateway. `open_services` is entered when it starts and left when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_services() as services:
            app.state.services = services
            yield

    app = FastAPI(title=TITLE, lifespan=lifespan)
    for router in (segment.router, batch.router, images.router, models.router, health.router, metrics.router):
        app.include_router(router)
    app.add_middleware(GZipMiddleware, minimum_size=GZIP_BYTES, compresslevel=GZIP_LEVEL)
    add_error_handlers(app)
    complete_openapi(app)
    observe_requests(app)
    return app
