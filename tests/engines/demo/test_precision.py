"""A training step computes in bfloat16 but for its attention on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from engines.demo.training.precision import mixed_precision


def test_matrices_are_multiplied_in_bfloat16() -> None:
    with mixed_precision():
        product = torch.ones(2, 3) @ torch.ones(3, 2)
    assert product.dtype == torch.bfloat16


def test_attention_on_a_cpu_is_computed_in_float32_and_keeps_its_dtype() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 40, 16).bfloat16() for _ in range(3))
    bias = torch.randn(1, 1, 40, 40).bfloat16()
    exact = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=bias.float())
    with mixed_precision():
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    assert attended.dtype == torch.bfloat16
    assert torch.equal(attended, exact.bfloat16())


def test_gradients_pass_through_the_attention() -> None:
    query = torch.randn(1, 1, 4, 8, requires_grad=True)
    with mixed_precision():
        F.scaled_dot_product_attention(query, query, query).sum().backward()
    assert query.grad is not None
    assert query.grad.abs().sum() > 0
