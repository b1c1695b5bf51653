"""The vision model: image encoder, heatmap head, prompt encoder and mask decoder under one roof."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engines.errors import BundleError
from engines.vision.config import CONFIG_FILE, WEIGHTS_FILE, VisionConfig, load_config
from engines.vision.heatmap_head import HeatmapHead
from engines.vision.image_encoder import PixelNormaliser, build_image_encoder, run_image_encoder, valid_area
from engines.vision.initialise import initialise
from engines.vision.mask_decoder import MaskDecoder, likeliest
from engines.vision.prompt_encoder import PromptEncoder
from engines.vision.state_adapter import StateAdapter

OUTSIDE_LOGIT = -50.0  # CoPRS: the prior's value in the padding, before it becomes a mask prompt


class VisionModel(nn.Module):
    """A SAM with CoPRS's heatmap head or ConverSeg-Net's adapter; without both, `decode_prompted` is its only decoder.

    S, g, C and D are the config's image size, grid, channels and vector width.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.decoder.transformer_dim
        self.pixels = PixelNormaliser(config.encoder)
        self.image_encoder = build_image_encoder(config.encoder)
        heatmap = config.heatmap
        self.heatmap_head = HeatmapHead(heatmap.vector_dim, dim, heatmap.num_heads) if heatmap else None
        adapter = config.adapter
        self.state_adapter = StateAdapter(adapter.state_dim, dim) if adapter else None
        self.prompt_encoder = PromptEncoder(dim, config.image_size, config.decoder.mask_in_chans)
        self.mask_decoder = MaskDecoder(config.decoder)
        initialise(self)

    @classmethod
    def from_config(cls, config: VisionConfig) -> Self:
        """A model to be trained: initialised as `initialise` states, from torch's global generator."""
        return cls(config)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The model stored in the directory `path`, in float32 whatever it was stored in.

        Raises:
            BundleError: a file is missing or damaged, or the weights do not fit the config.
        """
        model = cls(load_config(path))
        try:
            model.load_state_dict(load_file(path / WEIGHTS_FILE))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise BundleError(f"{path / WEIGHTS_FILE}: {error}") from error
        return model.eval()

    def save(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the config and the weights, as `dtype`, into the directory `path`."""
        path.mkdir(parents=True, exist_ok=True)
        (path / CONFIG_FILE).write_text(self.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        weights = {name: value.to("cpu", dtype).contiguous() for name, value in self.state_dict().items()}
        save_file(weights, path / WEIGHTS_FILE, metadata={"format": "pt"})

    def encode(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        """`pixels` uint8 (B, S, S, 3), valid `sizes` int64 (B, 2) as (h, w), to embeddings (B, C, g, g)."""
        return self.features(pixels, sizes)[0]

    def features(self, pixels: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """What is kept of images, each (B, C', h, w) as `VisionConfig.feature_shapes` says; the embeddings first."""
        return run_image_encoder(self.image_encoder, self.pixels(pixels, sizes))

    def decode(
        self, embeddings: Tensor, vectors: Tensor, sizes: Tensor, owners: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Turn B concentration vectors into priors and masks.

        Args:
            embeddings: (B, C, g, g), or (N, C, g, g) with `owners`.
            vectors: (B, D).
            sizes: int64 (B, 2), the valid (h, w) in pixels of the padded square.
            owners: int64 (B,), which of the N embeddings each vector belongs to.

        Returns:
            Prior logits (B, 1, 4g, 4g), as predicted, padding included; mask logits (B, 1, 4g, 4g); predicted
            IoU (B, 1).
        """
        if owners is not None:
            embeddings = embeddings.index_select(0, owners)
        prior, dense = self._prior(embeddings, vectors, sizes)
        masks, iou = self._masks(embeddings, None, dense)
        return prior, masks, iou

    def decode_prompted(
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
        """`decode` with points and box corners beside the priors, or in their place.

        Args:
            guided: bool (B,), False where there is no vector: SAM's "no mask prompt" takes the prior's place,
                and the prior that is returned means nothing.
            points: (B, P, 2) as (x, y) in pixels of the padded square.
            labels: int64 (B, P), see `PromptEncoder.embed_points`.
            fine: the finer features of the N images, where the model has any.
        """
        embeddings = embeddings.index_select(0, owners)
        blank = self.prompt_encoder.no_mask()
        if self.heatmap_head is None:
            prior, dense = embeddings.new_zeros(owners.shape[0], 1, *[self.config.mask_size] * 2), blank
        else:
            prior, dense = self._prior(embeddings, vectors, sizes)
            dense = torch.where(guided[:, None, None, None], dense, blank)
        fine = tuple(level[owners] for level in fine)
        masks, iou = self._masks(embeddings, self.prompt_encoder.embed_points(points, labels), dense, fine)
        return prior, masks, iou

    def decode_sentences(
        self,
        embeddings: Tensor,
        states: Tensor,
        ends: Tensor,
        owners: Tensor,
        fine: tuple[Tensor, ...] = (),
    ) -> tuple[Tensor, Tensor]:
        """The likeliest of the masks that B sentences may mean (ConverSeg-Net).

        Args:
            embeddings: (N, C, g, g).
            states: (B, T, D), of each token of the text.
            ends: (B, D), of the token that ends the turn.
            owners: int64 (B,), which of the N images each sentence is about.
            fine: the finer features of the N images.

        Returns:
            Mask logits (B, 1, 4g, 4g) and predicted IoU (B, 1).
        """
        if self.state_adapter is None:
            raise ValueError("this model has no adapter for sentences")
        sparse, dense = self.state_adapter(states, ends)
        image_pe = self.prompt_encoder.pe_layer.grid(self.config.grid)
        fine = tuple(level[owners] for level in fine)
        masks, iou = self.mask_decoder(embeddings[owners], image_pe, sparse, dense, multimask=True, fine=fine)
        return likeliest(masks, iou)

    def _prior(self, embeddings: Tensor, vectors: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """The prior logits and the dense bias that the prompt encoder makes of them."""
        if self.heatmap_head is None:
            raise ValueError("this model has no heatmap head: it takes points and boxes only")
        prior = self.heatmap_head(embeddings, vectors)
        return prior, self.prompt_encoder.embed_masks(self._inside(prior, sizes))

    def _masks(
        self, embeddings: Tensor, sparse: Tensor | None, dense: Tensor, fine: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """Mask logits (B, 1, 4g, 4g) and predicted IoU (B, 1)."""
        image_pe = self.prompt_encoder.pe_layer.grid(self.config.grid)
        masks, iou = self.mask_decoder(embeddings, image_pe, sparse, dense, fine=fine)
        return masks, iou

    def _inside(self, prior: Tensor, sizes: Tensor) -> Tensor:
        """The prior with `OUTSIDE_LOGIT` in the padding; a cell that is partly inside counts as inside."""
        stride = self.config.image_size // self.config.mask_size
        inside = valid_area((sizes + stride - 1) // stride, self.config.mask_size)
        return prior.masked_fill(~inside.unsqueeze(1), OUTSIDE_LOGIT)
