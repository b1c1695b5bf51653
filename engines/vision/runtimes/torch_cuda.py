"""torch on an NVIDIA GPU: blocks in bfloat16, fused attention, a CUDA graph for each batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from engines.errors import BackendUnavailable
from engines.vision.lowering import apply
from engines.vision.model import VisionModel
from engines.vision.recipe import ExportRecipe
from engines.vision.runtimes.device import DeviceRuntime
from engines.vision.runtimes.networks import Launch

RECIPE = ExportRecipe(block_precision="bf16")


class TorchNetwork:
    """A `Network` that is a method of the model; its inputs bear the names of the arguments."""

    def __init__(self, method: Callable[..., Tensor | tuple[Tensor, ...]]) -> None:
        self._method: Callable[..., Tensor | tuple[Tensor, ...]] | None = method

    def bind(self, inputs: Mapping[str, Tensor]) -> Launch:
        """See `Network`."""
        method = self._method
        assert method is not None, "released"

        def launch() -> Sequence[Tensor]:
            out = method(**inputs)
            return out if isinstance(out, tuple) else (out,)

        return launch

    def release(self) -> None:
        """Let go of the model."""
        self._method = None


def open_torch_cuda(vision_dir: Path, device: torch.device | None = None) -> DeviceRuntime:
    """The runtime on the first GPU, or on `device`; on a CPU there are no streams and no graphs.

    Raises:
        BackendUnavailable: torch sees no GPU, or its memory is full.
        BundleError: the model is missing or damaged.
    """
    if device is None:
        if not torch.cuda.is_available():
            raise BackendUnavailable("torch sees no NVIDIA GPU: pip install '.[gpu]' on a machine with one")
        device = torch.device("cuda", 0)
    model = VisionModel.load(vision_dir)
    apply(RECIPE, model)
    try:
        model.to(device)
    except torch.OutOfMemoryError as error:
        raise BackendUnavailable(f"{device} has no room for the vision model beside what is there") from error
    torch.backends.cudnn.allow_tf32 = False  # on by default, for convolutions; the decoder is to be float32
    decoder = TorchNetwork(model.decode) if model.config.heatmap is not None else None
    about: dict[str, str | int] = {
        "runtime": "torch",
        "version": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "encoder_precision": "bf16 blocks, fp32 norms",
        "decoder_precision": "fp32",
    }
    networks = (TorchNetwork(model.encode), decoder, TorchNetwork(model.decode_prompted))
    return DeviceRuntime(model.config, device, networks, about)
