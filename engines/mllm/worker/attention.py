"""The image tower's attention on a CPU with bfloat16 instructions, by its matrix products: a plugin of vLLM.

There torch's fused attention is no faster in bfloat16 than in float32, while matrix products are four times as fast:
the Qwen2.5-VL tower's attention takes half the time or less head by head, as the plain formula of Vaswani et al.
2017 ("Attention Is All You Need", equation 1). Processors with matrix units (AMX) have a fast fused one.

vLLM loads it wherever this package is installed; ``VLLM_PLUGINS=`` leaves it out, as any of vLLM's plugins.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.custom_op import op_registry_oot
from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention
from vllm.platforms import current_platform

SHORTEST = 256
"""Tokens: shorter sequences, such as the tower's windows, stay with the fused attention."""
MOST_SCORES = 2**20
"""Scores computed at a time, 2 MiB, so that they stay in the processor's cache whatever the picture's size."""


def register() -> None:
    """Called by vLLM in each of its processes, maybe more than once."""
    name = MMEncoderAttention.__name__
    if current_platform.is_cpu() and pays() and name not in op_registry_oot:
        MMEncoderAttention.register_oot(TowerAttention, name=name)


def pays() -> bool:
    """Whether this processor multiplies bfloat16 matrices fast, but has no fused attention that does."""
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


class TowerAttention(MMEncoderAttention):  # type: ignore[misc]  # vLLM's classes are untyped here
    """vLLM's attention of image towers; what it does not do faster is left to vLLM."""

    def forward_cpu(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seqlens: Tensor | None = None,
        *rest: Any,
        **named: Any,
    ) -> Tensor:
        """Attention within each sequence; all three are [1, tokens, heads * width] or [1, tokens, heads, width].

        `cu_seqlens` [sequences + 1] are the sequences' bounds, in tokens; None: it is one.
        """
        bounds = [0, query.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
        shortest = min((end - start for start, end in pairwise(bounds)), default=0)
        plain = query.dtype == torch.bfloat16 and len(query) == 1 and self.num_heads == self.num_kv_heads
        if not plain or shortest < SHORTEST:
            left: Tensor = super().forward_cpu(query, key, value, cu_seqlens, *rest, **named)
            return left
        shape = (-1, self.num_heads, self.head_size)
        heads = [tensor.reshape(shape).transpose(0, 1) for tensor in (query, key, value)]
        result = torch.empty_like(heads[0], memory_format=torch.contiguous_format)
        for start, end in pairwise(bounds):
            for q, k, v, out in zip(*(tensor[:, start:end] for tensor in (*heads, result)), strict=True):
                attend(q, k, v, self.scale, out)
        return result.transpose(0, 1).reshape(query.shape)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, out: Tensor) -> None:
    """softmax(query keyᵀ scale) value into `out`, all [tokens, width]."""
    scaled, turned = query * scale, key.T
    rows = max(1, MOST_SCORES // len(key))
    for start in range(0, len(query), rows):
        part = slice(start, start + rows)
        torch.mm((scaled[part] @ turned).softmax(-1), value, out=out[part])
