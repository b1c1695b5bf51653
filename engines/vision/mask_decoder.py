"""SAM's mask decoder, and SAM 2's, batched across images: one embedding for each prompt, no loop and no repeat."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.vision.config import DecoderConfig
from engines.vision.layers import Attention, LayerNorm2d, Mlp

STABLE, DELTA = 0.98, 0.05  # SAM 2: the least stability of a single mask, and how far its threshold is moved


class _TokenMlp(nn.Module):
    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden_dim)
        self.lin2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lin2(F.relu(self.lin1(x)))
        return out


class TwoWayBlock(nn.Module):
    """One round: tokens among themselves, tokens to image, a token MLP, image to tokens (SAM, appendix A)."""

    def __init__(self, config: DecoderConfig, *, first: bool) -> None:
        super().__init__()
        dim, heads, rate = config.transformer_dim, config.num_heads, config.attention_downsample_rate
        self.first = first
        self.self_attn = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads, rate)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _TokenMlp(dim, config.mlp_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads, rate)

    def forward(
        self, tokens: Tensor, cells: Tensor, token_pe: Tensor, cell_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        """New `tokens` (B, T, C) and `cells` (B, g·g, C); `token_pe` (B, T, C), `cell_pe` (1, g·g, C)."""
        if self.first:  # the first block's tokens are their own positions: no residual
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            placed = tokens + token_pe
            tokens = tokens + self.self_attn(placed, placed, tokens)
        tokens = self.norm1(tokens)
        placed_cells = cells + cell_pe
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, placed_cells, cells))
        tokens = self.norm3(tokens + self.mlp(tokens))
        cells = self.norm4(cells + self.cross_attn_image_to_token(placed_cells, tokens + token_pe, tokens))
        return tokens, cells


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks and a last look of the tokens at the image."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        dim = config.transformer_dim
        self.layers = nn.ModuleList(TwoWayBlock(config, first=i == 0) for i in range(config.depth))
        self.final_attn_token_to_image = Attention(dim, config.num_heads, config.attention_downsample_rate)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, cells: Tensor, cell_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`tokens` (B, T, C) and `cells` (B, g·g, C) after all blocks; `cell_pe` (1, g·g, C)."""
        token_pe = tokens
        for layer in self.layers:
            tokens, cells = layer(tokens, cells, token_pe, cell_pe)
        look = self.final_attn_token_to_image(tokens + token_pe, cells + cell_pe, cells)
        return self.norm_final_attn(tokens + look), cells


class MaskDecoder(nn.Module):
    """Predicts masks from image embeddings and prompts; state names are segment-anything's."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        dim, masks = config.transformer_dim, config.num_multimask_outputs + 1
        self.transformer = TwoWayTransformer(config)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(masks, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Mlp(dim, dim, dim // 8, 3) for _ in range(masks))
        self.iou_prediction_head = Mlp(dim, config.iou_head_hidden_dim, masks, config.iou_head_depth)
        self.obj_score_token = nn.Embedding(1, dim) if config.kind == "sam2" else None

    def forward(
        self,
        embeddings: Tensor,
        image_pe: Tensor,
        sparse: Tensor | None,
        dense: Tensor,
        *,
        multimask: bool = False,
        fine: tuple[Tensor, ...] = (),
    ) -> tuple[Tensor, Tensor]:
        """Decode one prompt on each of B embeddings.

        Args:
            embeddings: (B, C, g, g).
            image_pe: (1, C, g, g), from `FourierPositions.grid`.
            sparse: (B, P, C) prompt tokens, or None for none.
            dense: (B, C, g, g) or (1, C, 1, 1), added to the embeddings.
            multimask: the M alternative masks of an ambiguous prompt in place of the single one.
            fine: for SAM 2, (B, C / 4, 2g, 2g) and (B, C / 8, 4g, 4g).

        Returns:
            Mask logits (B, 1 or M, 4g, 4g) and predicted IoU (B, 1 or M).
        """
        batch, _, height, width = embeddings.shape
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        first = 0  # where the IoU's token stands
        if self.obj_score_token is not None:
            own, first = torch.cat([self.obj_score_token.weight, own]), 1
        tokens = own.unsqueeze(0).expand(batch, -1, -1)
        if sparse is not None:
            tokens = torch.cat([tokens, sparse.to(own.dtype)], dim=1)
        cells = (embeddings + dense).flatten(2).transpose(1, 2)
        tokens, cells = self.transformer(cells, image_pe.flatten(2).transpose(1, 2), tokens)

        features = self._upscaled(cells.transpose(1, 2).unflatten(-1, (height, width)), fine)
        every = range(self.mask_tokens.num_embeddings)
        wanted = every[1:] if multimask else every if self.obj_score_token is not None else every[:1]
        kernels = [self.output_hypernetworks_mlps[i](tokens[:, first + 1 + i]) for i in wanted]
        masks = (torch.stack(kernels, dim=1) @ features.flatten(2)).unflatten(-1, features.shape[-2:])
        iou = self.iou_prediction_head(tokens[:, first])[:, wanted.start : wanted.stop]
        if self.obj_score_token is None:
            return masks, iou
        return (masks, iou.sigmoid()) if multimask else _stable(masks, iou.sigmoid())

    def _upscaled(self, cells: Tensor, fine: tuple[Tensor, ...]) -> Tensor:
        """`cells` (B, C, g, g) to (B, C / 8, 4g, 4g); finer features are added on the way."""
        if not fine:
            plain: Tensor = self.output_upscaling(cells)
            return plain
        double, norm, act, quadruple, last = self.output_upscaling
        features: Tensor = last(quadruple(act(norm(double(cells) + fine[0]))) + fine[1])
        return features


def likeliest(masks: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
    """The one of `masks` (B, M, 4g, 4g) whose `iou` (B, M) is highest: (B, 1, 4g, 4g) and (B, 1)."""
    best = iou.argmax(dim=1, keepdim=True) == torch.arange(iou.shape[1], device=iou.device)
    return (masks * best[:, :, None, None]).sum(1, keepdim=True), (iou * best).sum(1, keepdim=True)


def _stable(masks: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
    """The first of `masks` where it is stable, that is, changes little with its threshold; else the likeliest other.

    SAM 2 calls it dynamic multimask via stability, and does it unless it is told not to.
    """
    single = masks[:, :1].flatten(2)
    smaller, larger = ((single > delta).sum(dim=-1).float() for delta in (DELTA, -DELTA))
    stable = (larger == 0) | (smaller >= STABLE * larger)  # (B, 1)
    others, scores = likeliest(masks[:, 1:], iou[:, 1:])
    return torch.where(stable[:, :, None, None], masks[:, :1], others), torch.where(
        stable, iou[:, :1], scores
    )
