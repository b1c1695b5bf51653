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
from engines.vision.runtimes.device import DeviceRuntime, Networks, feature_names
from engines.vision.runtimes.networks import Launch

RECIPE = ExportRecipe(block_precision="bf16")
Method = Callable[..., Tensor | tuple[Tensor, ...]]


class TorchNetwork:
    """A `Network` that is a method of the model; its inputs bear the names of the arguments."""

    def __init__(self, method: Method) -> None:
        self._method: Method | None = method

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
    lowered = apply(RECIPE, model)
    try:
        model.to(device)
    except torch.OutOfMemoryError as error:
        raise BackendUnavailable(f"{device} has no room for the vision model beside what is there") from error
    torch.backends.cudnn.allow_tf32 = False  # on by default, for convolutions; the decoder is to be float32
    levels = len(model.config.feature_shapes)
    networks = Networks(
        encoder=TorchNetwork(model.features),
        decoder=TorchNetwork(model.decode) if model.config.heatmap is not None else None,
        prompted=TorchNetwork(_flat(model.decode_prompted, levels)),
        sentences=TorchNetwork(_flat(model.decode_sentences, levels)) if model.config.adapter else None,
    )
    about: dict[str, str | int] = {
        "runtime": "torch",
        "version": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "encoder_precision": "bf16 blocks, fp32 norms" if lowered else "fp32",
        "decoder_precision": "fp32",
    }
    return DeviceRuntime(model.config, device, networks, about)


def _flat(method: Method, levels: int) -> Method:
    """`method` with its finer features, one less than `levels`, as arguments of their own."""
    _, *names = feature_names(levels)

    def run(**inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        fine = tuple(inputs.pop(name) for name in names)
        return method(**inputs, fine=fine)

    return run
