"""The image tower's attention: what it computes, for whom, and how vLLM finds it."""

from __future__ import annotations

from importlib.metadata import entry_points
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.custom_op import op_registry_oot
from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention

from engines.mllm.worker import attention
from engines.mllm.worker.attention import SHORTEST, TowerAttention, attend, register

HEADS, WIDTH = 4, 40


@pytest.fixture(autouse=True)
def unregistered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(op_registry_oot, MMEncoderAttention.__name__, raising=False)


def made() -> Any:
    with set_current_vllm_config(VllmConfig()):
        return MMEncoderAttention(HEADS, WIDTH)


@pytest.fixture
def tower(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(attention, "pays", lambda: True)
    register()
    return made()


def drawn(tokens: int, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    return [torch.randn(1, tokens, HEADS * WIDTH, generator=generator).to(dtype) for _ in range(3)]


def exact(parts: list[Tensor], bounds: list[int]) -> Tensor:
    """In float32, by torch's own attention, sequence by sequence."""
    q, k, v = (part.float().view(-1, HEADS, WIDTH).transpose(0, 1) for part in parts)
    sequences = [slice(start, end) for start, end in pairwise(bounds)]
    results = [F.scaled_dot_product_attention(q[:, each], k[:, each], v[:, each]) for each in sequences]
    return torch.cat(results, dim=1).transpose(0, 1).reshape(1, -1, HEADS * WIDTH)


@pytest.mark.parametrize("bounds", [[0, 676], [0, 300, 900], [0, 64, 128, 484]])
def test_it_is_attention_within_each_sequence(tower: Any, bounds: list[int]) -> None:
    parts = drawn(bounds[-1])
    found = tower(*parts, torch.tensor(bounds))
    assert found.shape == parts[0].shape
    assert torch.allclose(found.float(), exact(parts, bounds), atol=0.02)


def test_without_bounds_it_is_one_sequence(tower: Any) -> None:
    parts = drawn(300)
    assert torch.allclose(tower(*parts).float(), exact(parts, [0, 300]), atol=0.02)


def test_a_large_picture_is_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = (torch.randn(50, WIDTH) for _ in range(3))
    whole, parts = torch.empty_like(query), torch.empty_like(query)
    attend(query, key, value, 0.2, whole)
    monkeypatch.setattr(attention, "MOST_SCORES", 7 * 50)
    attend(query, key, value, 0.2, parts)
    assert torch.allclose(whole, parts, atol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "dtype"), [(SHORTEST - 1, torch.bfloat16), (SHORTEST, torch.float32)], ids=["short", "float32"]
)
def test_what_it_does_not_do_faster_is_left_to_vllm(
    tower: Any, tokens: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "attend", None)
    parts = drawn(tokens, dtype)
    assert torch.allclose(tower(*parts).float(), exact(parts, [0, tokens]), atol=0.02)


def test_vllm_takes_it_where_it_pays_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    [plugin] = entry_points(group="vllm.general_plugins", name="r2sm_tower_attention")
    assert plugin.load() is register
    for pays in (False, True, True):
        monkeypatch.setattr(attention, "pays", lambda pays=pays: pays)
        register()
        assert isinstance(made(), TowerAttention) == pays
