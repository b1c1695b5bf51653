"""``/metrics``: what Prometheus scrapes, of the gateway and of the vLLM servers that it has started."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from server.errors import NO_SUCH_PAGE, ONLY_LOCAL, RequestRejected
from server.services import CurrentServices
from server.telemetry.pages import is_local

router = APIRouter(tags=["metrics"], include_in_schema=False)


@router.get("/metrics")
async def metrics(request: Request, services: CurrentServices) -> Response:
    """The gateway's metrics, in the text format of Prometheus or as OpenMetrics."""
    if services.metrics_local:
        _check_local(request)
    accept = request.headers.get("accept", "")
    page, media_type = await asyncio.to_thread(services.telemetry.metrics.page, accept)
    return Response(page, headers={"Content-Type": media_type})


@router.get("/metrics/vllm/{role}")
async def vllm_metrics(role: str, request: Request, services: CurrentServices) -> Response:
    """vLLM's own, of the ``reason`` or ``concentrate`` server that was started here; for this machine only."""
    _check_local(request)
    if role not in services.vllm_pages:
        detail = "no such vLLM server was started here; those that run elsewhere have a /metrics of their own"
        raise RequestRejected(NO_SUCH_PAGE, detail)
    page, media_type = await services.vllm_pages.fetch(role)
    return Response(page, headers={"Content-Type": media_type})


def _check_local(request: Request) -> None:
    if not is_local(request.client.host if request.client else None, request.headers):
        raise RequestRejected(ONLY_LOCAL, "this page is given to this machine only")
