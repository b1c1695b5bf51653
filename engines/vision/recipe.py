"""How a model becomes graphs: the number formats and the forms of its attention."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

BlockPrecision = Literal["fp32", "bf16"]
PositionForm = Literal["concatenated", "added"]


@dataclass(frozen=True, slots=True)
class ExportRecipe:
    """What may differ between two exports of one model.

    `block_precision` is that of attention and MLP in SAM's encoder; its norms, residuals, patch embedding and neck,
    a TinyViT and the decoders are float32 in any case. `window_positions` and `global_positions` are how the
    relative positions enter each kind of attention: ``concatenated`` to queries and keys, so that nothing of the
    size of the scores is made besides them, or ``added`` to the scores. Both are exact.
    """

    block_precision: BlockPrecision = "fp32"
    window_positions: PositionForm = "concatenated"
    global_positions: PositionForm = "concatenated"

    def describe(self) -> dict[str, str]:
        """Its fields by name, for keys and for logs."""
        return asdict(self)


DEFAULT_RECIPE = ExportRecipe(global_positions="added")
"""What OpenVINO takes; it chooses its own precision when it compiles.

Added, the positions of global attention make an encoder of ViT-B's size a fifth faster there, for 0.3 GiB more.
"""
