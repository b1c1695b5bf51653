"""Writes a vision model as ONNX graphs, encoder and two decoders, for runtimes that take no torch modules."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engines.vision.config import VisionConfig
from engines.vision.lowering import apply
from engines.vision.model import VisionModel
from engines.vision.onnx_cache import (
    DECODER_FILE,
    ENCODER_FILE,
    PROMPTED_DECODER_FILE,
    SENTENCE_DECODER_FILE,
    feature_names,
)
from engines.vision.recipe import DEFAULT_RECIPE, ExportRecipe

OPSET = 20
SAME = torch.export.Dim.DYNAMIC  # an axis as long as one that is named; the exporter finds out which
INLINE_BYTES = 1_500_000_000  # a protobuf file ends at 2 GB; larger weights go into a file of their own


class _Encoder(nn.Module):
    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        return self.model.features(pixels, sizes)


class _Decoder(nn.Module):
    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, embeddings: Tensor, vectors: Tensor, sizes: Tensor, owners: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.model.decode(embeddings, vectors, sizes, owners)


class _PromptedDecoder(nn.Module):
    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        embeddings: Tensor,
        vectors: Tensor,
        sizes: Tensor,
        owners: Tensor,
        guided: Tensor,
        points: Tensor,
        labels: Tensor,
        fine: tuple[Tensor, ...] = (),
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.model.decode_prompted(embeddings, vectors, sizes, owners, guided, points, labels, fine)


class _SentenceDecoder(nn.Module):
    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        embeddings: Tensor,
        states: Tensor,
        ends: Tensor,
        owners: Tensor,
        fine: tuple[Tensor, ...] = (),
    ) -> tuple[Tensor, Tensor]:
        return self.model.decode_sentences(embeddings, states, ends, owners, fine)


def export(model: VisionModel, directory: Path, recipe: ExportRecipe = DEFAULT_RECIPE) -> None:
    """Write `ENCODER_FILE`, `DECODER_FILE`, `PROMPTED_DECODER_FILE` and `SENTENCE_DECODER_FILE` into `directory`.

    A model without a heatmap head has no plain decoder, one without an adapter none of sentences. `model` is changed
    as `recipe` says. Weights of more than `INLINE_BYTES` go into a file beside the graph, its name with ``.data``
    behind it.

    Encoder: pixels uint8 [B, S, S, 3], sizes int64 [B, 2] to embeddings [B, C, g, g] and finer features. Decoder:
    embeddings [N, C, g, g], vectors [B, D], sizes int64 [B, 2], owners int64 [B] to prior_logits and mask_logits
    [B, 1, 4g, 4g] and iou [B, 1]. The prompted decoder takes guided bool [B], points [B, P, 2] and labels
    int64 [B, P] besides, and finer features, where the encoder makes any; it is a graph of its own so that those
    who do not point at anything pay nothing for it. The decoder of sentences takes states [B, T, D], ends [B, D] and
    owners, and gives no prior. N, B, P and T are dynamic; see `VisionModel` for the meaning of each.
    """
    apply(recipe, model)
    config = model.config
    side, grid, channels = config.image_size, config.grid, config.decoder.transformer_dim
    _export(
        _Encoder(model),
        {
            "pixels": torch.zeros(2, side, side, 3, dtype=torch.uint8),
            "sizes": torch.full((2, 2), side),
        },
        {"pixels": {0: "images"}, "sizes": {0: SAME}},
        feature_names(config),
        directory / ENCODER_FILE,
    )
    prompts: dict[str, Tensor] = {
        "embeddings": torch.zeros(2, channels, grid, grid),
        "vectors": torch.zeros(3, config.vector_dim),
        "sizes": torch.full((3, 2), side),
        "owners": torch.tensor([0, 1, 1]),
    }
    axes: dict[str, dict[int, Any]] = {
        "embeddings": {0: "images"},
        "vectors": {0: "prompts"},
        "sizes": {0: SAME},
        "owners": {0: SAME},
    }
    outputs = ["prior_logits", "mask_logits", "iou"]
    if config.heatmap is not None:
        _export(_Decoder(model), prompts, axes, outputs, directory / DECODER_FILE)
    visual = {
        "guided": torch.tensor([True, False, True]),
        "points": torch.zeros(3, 2, 2),
        "labels": torch.ones(3, 2, dtype=torch.int64),
    }
    visual_axes = {"guided": {0: SAME}, "points": {0: SAME, 1: "points"}, "labels": {0: SAME, 1: SAME}}
    fine = _fine(config)
    fine_axes = {name: tuple({0: SAME} for _ in levels) for name, levels in fine.items()}
    _export(
        _PromptedDecoder(model),
        {**prompts, **visual, **fine},
        axes | visual_axes | fine_axes,
        outputs,
        directory / PROMPTED_DECODER_FILE,
        [*prompts, *visual, *feature_names(config)[1:]],
    )
    if config.adapter is not None:
        width = config.adapter.state_dim
        sentences = {
            "embeddings": prompts["embeddings"],
            "states": torch.zeros(3, 5, width),
            "ends": torch.zeros(3, width),
            "owners": prompts["owners"],
        }
        _export(
            _SentenceDecoder(model),
            {**sentences, **fine},
            {
                "embeddings": {0: "images"},
                "states": {0: "prompts", 1: "tokens"},
                "ends": {0: SAME},
                "owners": {0: SAME},
            }
            | fine_axes,
            outputs[1:],
            directory / SENTENCE_DECODER_FILE,
            [*sentences, *feature_names(config)[1:]],
        )


def _fine(config: VisionConfig) -> dict[str, tuple[Tensor, ...]]:
    """The finer features of two images, as an argument, if there are any."""
    _, *shapes = config.feature_shapes
    return {"fine": tuple(torch.zeros(2, *shape) for shape in shapes)} if shapes else {}


@torch.no_grad()
def _export(
    module: nn.Module,
    inputs: Mapping[str, Tensor | tuple[Tensor, ...]],
    dynamic: Mapping[str, Any],
    outputs: list[str],
    path: Path,
    names: list[str] | None = None,
) -> None:
    """`names` are the graph's for the inputs, where they are not the arguments'."""
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    with warnings.catch_warnings():
        # torch warns of a deprecated class that its own exporter uses.
        warnings.filterwarnings("ignore", "`isinstance.treespec", FutureWarning)
        torch.onnx.export(
            module.eval(),
            (),
            path,
            kwargs=dict(inputs),
            input_names=names or list(inputs),
            output_names=outputs,
            dynamic_shapes=dict(dynamic),
            opset_version=OPSET,
            dynamo=True,
            external_data=weights > INLINE_BYTES,
            verbose=False,
        )
