"""In which precision a training step computes: bfloat16 where that is faster, float32 where it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

LONG = 256
"""Tokens from which on attention pays as matrix products."""


class _AttentionOnCpu(TorchFunctionMode):
    """Attention that gives what it was given, computed as is fastest without bfloat16 matrix units.

    There torch's fused attention is slower in bfloat16 than in float32, so it computes in float32; long sequences
    of which all is seen, the image tower's, take a third of that time as matrix products in bfloat16.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            if _pays(*args, **(kwargs or {})):
                return _by_products(*args, **(kwargs or {}))
            named = {name: _float32(value) for name, value in (kwargs or {}).items()}
            return func(*map(_float32, args), **named).to(args[0].dtype)


def _pays(query: Tensor, key: Tensor, _: Tensor, *rest: Any, **named: Any) -> bool:
    plain = not rest and named.get("attn_mask") is None
    plain = plain and not any(named.get(name) for name in ("dropout_p", "is_causal", "enable_gqa"))
    return plain and query.dtype == torch.bfloat16 and query.shape == key.shape and query.shape[-2] >= LONG


def _by_products(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None, **_: Any
) -> Tensor:
    """softmax(query keyᵀ scale) value, head by head, so that each one's scores stay in the processor's cache."""
    shape = query.shape
    scaled = query * (shape[-1] ** -0.5 if scale is None else scale)
    heads = zip(*(tensor.reshape(-1, *shape[-2:]) for tensor in (scaled, key, value)), strict=True)
    return torch.stack([(q @ k.T).softmax(-1) @ v for q, k, v in heads]).view(shape)


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


@contextmanager
def mixed_precision() -> Iterator[None]:
    """bfloat16 by torch's autocast; on a CPU all but the attention."""
    device = torch.get_default_device().type
    with torch.autocast(device, dtype=torch.bfloat16):
        if device != "cpu":
            yield
            return
        with _AttentionOnCpu():
            yield
