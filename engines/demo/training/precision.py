"""In which precision a training step computes: bfloat16 where that is faster, float32 where it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _AttentionInFloat32(TorchFunctionMode):
    """Attention computes in float32 and gives what it was given.

    On processors without bfloat16 matrix units torch's attention is slower in bfloat16 than in float32.
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
            named = {name: _float32(value) for name, value in (kwargs or {}).items()}
            return func(*map(_float32, args), **named).to(args[0].dtype)


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
        with _AttentionInFloat32():
            yield
