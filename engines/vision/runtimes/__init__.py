"""Vision runtimes: one interface, several engines, chosen by name and never silently replaced."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from engines.errors import BackendUnavailable
from engines.vision.config import load_config
from engines.vision.runtimes.base import Decoded, DecodeItem, Embedding, VisionRuntime
from engines.vision.runtimes.cuda_driver import usable_gpus

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
"""OpenVINO forks processes that report its use over the network, and goes without where this import fails."""

__all__ = [
    "DecodeItem",
    "Decoded",
    "Embedding",
    "RuntimeName",
    "VisionRuntime",
    "default_cache_dir",
    "open_runtime",
]

logger = logging.getLogger(__name__)

RuntimeName = Literal["auto", "openvino", "torch", "tensorrt"]


def open_runtime(
    name: RuntimeName, vision_dir: Path, threads: int | None = None, cache_dir: Path | None = None
) -> VisionRuntime:
    """Load the model in `vision_dir` into the runtime `name`; the log says which one it is, and why.

    Args:
        name: ``auto`` is TensorRT on a machine with a GPU where it is installed, else torch on the GPU; without
            a GPU OpenVINO where it is installed, else torch. ``torch`` is on the GPU where there is one. TensorRT
            takes neither SAM 2 nor ConverSeg-Net.
        vision_dir: a bundle's ``vision`` directory.
        threads: CPU threads for each call; None leaves it to the runtime.
        cache_dir: where exported graphs and compiled engines are kept; by default ``.cache/r2sm-server/vision``
            in the home directory.

    Raises:
        BackendUnavailable: the runtime is not installed; the message says what to install.
        BundleError: the model is missing, damaged, or does not fit its config.
        GraphRejected, EngineRefused, CacheFailed: see `engines.errors`.
        VisionFailed: a GPU's memory is full.
    """
    plain = _is_plain(vision_dir)
    gpus = usable_gpus()
    chosen, why = (name, "as asked for") if name != "auto" else _default(gpus, plain)
    if chosen == "tensorrt" and not plain:
        raise BackendUnavailable(
            "TensorRT serves neither SAM 2 nor ConverSeg-Net here yet: --vision torch does"
        )
    device = "a GPU" if chosen == "tensorrt" or (chosen == "torch" and gpus) else "the CPU"
    logger.info("the vision runtime is %s on %s: %s", chosen, device, why)
    cache_dir = cache_dir or default_cache_dir()
    match chosen:
        case "tensorrt":
            _require("tensorrt", "gpu")
            try:
                from engines.vision.runtimes.tensorrt import open_tensorrt
            except ImportError as error:  # the package without its libraries
                raise BackendUnavailable(f"TensorRT does not load: {error}; pip install '.[gpu]'") from error
            return _warmed(open_tensorrt(vision_dir, cache_dir))
        case "openvino":
            _require("openvino", "cpu")
            from engines.vision.runtimes.openvino import OpenVinoRuntime

            return OpenVinoRuntime(vision_dir, cache_dir, threads)
        case "torch" if gpus:
            from engines.vision.runtimes.torch_cuda import open_torch_cuda

            return _warmed(open_torch_cuda(vision_dir))
        case _:
            from engines.vision.runtimes.torch_cpu import TorchRuntime

            return TorchRuntime(vision_dir, threads)


def _is_plain(vision_dir: Path) -> bool:
    """Whether an embedding is one tensor and no sentence becomes a mask: all that TensorRT's engines know yet."""
    config = load_config(vision_dir)
    return len(config.feature_shapes) == 1 and config.adapter is None


def default_cache_dir() -> Path:
    """Where exported graphs and compiled engines are kept unless the caller says otherwise."""
    return Path.home() / ".cache" / "r2sm-server" / "vision"


def _warmed(runtime: VisionRuntime) -> VisionRuntime:
    """A GPU runtime with every bucket captured, for a capture is long and takes memory that should be there now."""
    try:
        runtime.warm_up()
    except BaseException:
        runtime.close()
        raise
    return runtime


def _default(gpus: int, plain: bool) -> tuple[RuntimeName, str]:
    """The runtime for this machine and a model that is `plain` or not, and why."""
    if gpus and not plain:
        return "torch", "there is a GPU, and TensorRT serves neither SAM 2 nor ConverSeg-Net here yet"
    if gpus and find_spec("tensorrt"):
        return "tensorrt", "there is a GPU, and TensorRT is installed"
    if gpus:
        return "torch", "there is a GPU, and TensorRT is not installed (pip install '.[gpu]')"
    if find_spec("openvino"):
        return "openvino", "there is no GPU that torch can use"
    return "torch", "there is no GPU that torch can use, and OpenVINO, several times faster, is not installed"


def _require(package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise BackendUnavailable(f"the vision runtime needs the package {package}: pip install '.[{extra}]'")
