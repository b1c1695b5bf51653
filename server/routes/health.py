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


@router.get("/readyz", response_model=Ready, responses=problems(503))
async def readyz(services: CurrentServices) -> Ready | Response:
    """The language model, the vision engine and a warm-up request through both are well."""
    if services.admission.draining:
        return as_response(problem(DRAINING, "this server is stopping"), RETRY_SECONDS)
    missing = [check for check in await services.readiness.checks() if not check.ready]
    if not missing:
        return Ready()
    faults = [FieldFault(field=check.name, message=check.detail) for check in missing]
    names = ", ".join(check.name for check in missing)
    return as_response(problem(NOT_READY, f"not ready: {names}", faults), RETRY_SECONDS)
