"""Writes a vision model as two ONNX graphs, encoder and decoder, for runtimes that take no torch modules."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engines.vision.model import VisionModel
from engines.vision.onnx_cache import DECODER_FILE, ENCODER_FILE

OPSET = 20
SAME = torch.export.Dim.DYNAMIC  # an axis as long as one that is named; the exporter finds out which
INLINE_BYTES = 1_500_000_000  # a protobuf file ends at 2 GB; larger weights go into a file of their own


class _Encoder(nn.Module):
    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        return self.model.encode(pixels, sizes)


class _Decoder(nn.Module):
    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, embeddings: Tensor, vectors: Tensor, sizes: Tensor, owners: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.model.decode(embeddings, vectors, sizes, owners)


def export(model: VisionModel, directory: Path) -> None:
    """Write `ENCODER_FILE` and `DECODER_FILE` into `directory`.

    Encoder: pixels uint8 [B, S, S, 3], sizes int64 [B, 2] to embeddings [B, C, g, g]. Decoder: embeddings
    [N, C, g, g], vectors [B, D], sizes int64 [B, 2], owners int64 [B] to prior_logits and mask_logits
    [B, 1, 4g, 4g] and iou [B, 1]. N and B are dynamic; see `VisionModel` for the meaning of each.
    """
    config = model.config
    side, grid, channels = config.image_size, config.grid, config.decoder.transformer_dim
    _export(
        _Encoder(model),
        {
            "pixels": torch.zeros(2, side, side, 3, dtype=torch.uint8),
            "sizes": torch.full((2, 2), side),
        },
        {"pixels": {0: "images"}, "sizes": {0: SAME}},
        ["embeddings"],
        directory / ENCODER_FILE,
    )
    _export(
        _Decoder(model),
        {
            "embeddings": torch.zeros(2, channels, grid, grid),
            "vectors": torch.zeros(3, config.heatmap.vector_dim),
            "sizes": torch.full((3, 2), side),
            "owners": torch.tensor([0, 1, 1]),
        },
        {
            "embeddings": {0: "images"},
            "vectors": {0: "prompts"},
            "sizes": {0: SAME},
            "owners": {0: SAME},
        },
        ["prior_logits", "mask_logits", "iou"],
        directory / DECODER_FILE,
    )


@torch.no_grad()
def _export(
    module: nn.Module,
    inputs: dict[str, Tensor],
    dynamic: dict[str, dict[int, Any]],
    outputs: list[str],
    path: Path,
) -> None:
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    with warnings.catch_warnings():
        # torch warns of a deprecated class that its own exporter uses.
        warnings.filterwarnings("ignore", "`isinstance.treespec", FutureWarning)
        torch.onnx.export(
            module.eval(),
            (),
            path,
            kwargs=inputs,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            dynamo=True,
            external_data=weights > INLINE_BYTES,
            verbose=False,
        )
