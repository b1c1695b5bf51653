"""``/v1/models``: what is served."""

from __future__ import annotations

from fastapi import APIRouter

from server.schemas import ModelList
from server.services import CurrentServices

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/models")
async def models(services: CurrentServices) -> ModelList:
    """The served models; there is one."""
    return ModelList(data=[services.model])
