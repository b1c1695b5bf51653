"""Attention over packed scenes: linear layers run on all tokens at once, attention by prefix and family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engines.demo.training.answers import PackedScene

BUCKET = 16
"""Families padded to one length and attended in one call; they are sorted by length before."""


@dataclass(frozen=True, slots=True)
class _Bucket:
    """`queries` [F, L] and `keys` [F, K] are rows of the concatenated scenes; `allowed` bool [F, 1, L, K]."""

    queries: Tensor
    keys: Tensor
    allowed: Tensor


class SceneAttention:
    """Qwen2's attention for one batch of packed scenes; `cos` and `sin` are [T, d]."""

    def __init__(self, scenes: Sequence[PackedScene], cos: Tensor, sin: Tensor) -> None:
        self._cos, self._sin = cos[:, None], sin[:, None]
        parts = _parts(scenes)
        parts.sort(key=lambda part: part[0].size)
        self._buckets = [_pad(parts[i : i + BUCKET]) for i in range(0, len(parts), BUCKET)]
        self._back = _inverse(self._buckets, [part[0] for part in parts])

    def __call__(self, block: Any, states: Tensor) -> Tensor:
        """`block` is a Qwen2_5_VLAttention; `states` [T, D]."""
        split = (len(states), -1, block.head_dim)
        query = self._turn(block.q_proj(states).view(split))
        key = self._turn(block.k_proj(states).view(split))
        value = block.v_proj(states).view(split)
        mixed = torch.cat([_attend(query, key, value, bucket) for bucket in self._buckets])
        result: Tensor = block.o_proj(mixed[self._back])
        return result

    def _turn(self, heads: Tensor) -> Tensor:
        """Rotary embedding of [T, heads, d]."""
        first, second = heads.chunk(2, dim=-1)
        return (heads * self._cos + torch.cat([-second, first], dim=-1) * self._sin).to(heads.dtype)


_Part = tuple[np.ndarray, np.ndarray, np.ndarray]  # query rows, key rows, allowed


def _parts(scenes: Sequence[PackedScene]) -> list[_Part]:
    parts: list[_Part] = []
    offset = 0
    for scene in scenes:
        prefix = np.arange(offset, offset + scene.prefix)
        parts.append((prefix, prefix, np.tril(np.ones((scene.prefix, scene.prefix), dtype=np.bool_))))
        for family in scene.families:
            rows = np.arange(offset + family.start, offset + family.start + len(family.allowed))
            parts.append((rows, np.concatenate([prefix, rows]), family.allowed))
        offset += len(scene.ids)
    return parts


def _pad(parts: list[_Part]) -> _Bucket:
    longest, widest = max(part[0].size for part in parts), max(part[1].size for part in parts)
    queries = np.zeros((len(parts), longest), dtype=np.int64)
    keys = np.zeros((len(parts), widest), dtype=np.int64)
    allowed = np.zeros((len(parts), 1, longest, widest), dtype=np.bool_)
    allowed[..., 0] = True  # padded queries must see something; what they see is dropped
    for i, (rows, seen, mask) in enumerate(parts):
        queries[i, : rows.size], keys[i, : seen.size] = rows, seen
        allowed[i, 0, : rows.size, : seen.size] = mask
    return _Bucket(torch.as_tensor(queries), torch.as_tensor(keys), torch.as_tensor(allowed))


def _inverse(buckets: list[_Bucket], rows: list[np.ndarray]) -> Tensor:
    """For each row of the concatenated scenes, where its result stands in the concatenated buckets."""
    back = np.zeros(sum(row.size for row in rows), dtype=np.int64)
    offset = 0
    for index, bucket in enumerate(buckets):
        length = bucket.queries.shape[1]
        for own in rows[index * BUCKET : (index + 1) * BUCKET]:
            back[own] = offset + np.arange(own.size)
            offset += length
    return torch.as_tensor(back)


def _attend(query: Tensor, key: Tensor, value: Tensor, bucket: _Bucket) -> Tensor:
    """`query`, `key`, `value` [T, heads, d]; the bucket's results [F * L, heads * d]."""
    groups = query.shape[1] // key.shape[1]
    q = query[bucket.queries].transpose(1, 2)
    k, v = (tensor[bucket.keys].transpose(1, 2).repeat_interleave(groups, dim=1) for tensor in (key, value))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bucket.allowed)
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)
