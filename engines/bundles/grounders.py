"""Grounders: how a bundle's reasoning becomes a mask prompt, and which vLLM servers that takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from engines.mllm.vllm_config import Role

Grounder = Literal["coprs", "egm", "converseg"]

ROLES: Mapping[Grounder, tuple[Role, ...]] = {
    "coprs": ("reason", "concentrate"),  # a vector becomes a heatmap
    "egm": ("reason",),  # a box in the answer
    "converseg": ("concentrate",),  # the states of the prompt's tokens
}
