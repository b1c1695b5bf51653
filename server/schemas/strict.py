"""The base of every request's model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class RequestModel(BaseModel):
    """Nothing unknown, nothing converted: what is not as it must be is refused by name."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
