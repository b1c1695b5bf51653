"""``/livez`` and ``/readyz``: is the process there, could it serve."""

from __future__ import annotations

from fastapi import APIRouter, Response

from server.errors import DRAINING, NOT_READY, as_response, problem
from server.openapi import problems
from server.schemas import FieldFault, Live, Ready
from server.services import CurrentServices

RETRY_SECONDS = 5

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> Live:
    """The process answers."""
    return Live()


@router.get("/readyz", response_model=Ready, responses=problems(NOT_READY, DRAINING))
async def readyz(services: CurrentServices) -> Ready | Response:
    """The language model, the vision engine and a warm-up request through both are well.

    `degraded` is ready too: requests are answered, but something that makes them faster is away.
    """
    if services.admission.draining:
        return as_response(problem(DRAINING, "this server is stopping"), RETRY_SECONDS)
    failed = [check for check in await services.readiness.checks() if not check.ready]
    missing = [check for check in failed if check.vital]
    if not missing:
        degraded = [FieldFault(field=check.name, message=check.detail) for check in failed]
        return Ready(status="degraded", reasons=degraded) if degraded else Ready()
    faults = [FieldFault(field=check.name, message=check.detail) for check in missing]
    names = ", ".join(check.name for check in missing)
    return as_response(problem(NOT_READY, f"not ready: {names}", faults), RETRY_SECONDS)
