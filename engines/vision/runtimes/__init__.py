"""Vision runtimes: one interface, several engines, chosen by name and never silently replaced."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from engines.errors import BackendUnavailable
from engines.vision.runtimes.base import Decoded, DecodeItem, Embedding, VisionRuntime

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
    """Load the model in `vision_dir` into the runtime `name`.

    Args:
        name: ``auto`` is OpenVINO where it is installed, else torch; `VisionRuntime.info` says which.
        vision_dir: a bundle's ``vision`` directory.
        threads: CPU threads for each call; None leaves it to the runtime.
        cache_dir: where exported graphs are kept; by default ``.cache/r2sm-server/vision`` in the home directory.

    Raises:
        BackendUnavailable: the runtime is not installed; the message says what to install.
        BundleError: the model is missing, damaged, or does not fit its config.
    """
    match _chosen(name):
        case "openvino":
            _require("openvino")
            from engines.vision.runtimes.openvino import OpenVinoRuntime

            return OpenVinoRuntime(vision_dir, cache_dir or default_cache_dir(), threads)
        case "torch":
            _require("torch")
            from engines.vision.runtimes.torch_cpu import TorchRuntime

            return TorchRuntime(vision_dir, threads)
        case "tensorrt":
            raise BackendUnavailable(
                "this version has no TensorRT runtime; choose openvino (pip install '.[cpu]') or torch"
            )


def default_cache_dir() -> Path:
    """Where exported graphs are kept unless the caller says otherwise."""
    return Path.home() / ".cache" / "r2sm-server" / "vision"


def _chosen(name: RuntimeName) -> Literal["openvino", "torch", "tensorrt"]:
    if name != "auto":
        return name
    if find_spec("openvino"):
        return "openvino"
    logger.warning("OpenVINO is not installed: the vision runtime is torch, which is several times slower")
    return "torch"


def _require(package: str) -> None:
    if find_spec(package) is None:
        raise BackendUnavailable(f"the vision runtime needs the package {package}: pip install '.[cpu]'")
