"""``/v1/models``: what is served."""

from __future__ import annotations

from fastapi import APIRouter

from server.openapi import problems
from server.schemas import ModelList
from server.services import KEYED, CurrentServices

router = APIRouter(prefix="/v1", tags=["models"], dependencies=[KEYED])


@router.get("/models", responses=problems(401, 422))
async def models(services: CurrentServices) -> ModelList:
    """The served models; there is one."""
    return ModelList(data=[services.model])
