"""The language model's image tower, run here: its features are made once, for all vLLM servers that read the image."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from PIL import Image

from engines.mllm.image import Content
from engines.sight.config import read_tower

__all__ = ["Tower", "knows_tower", "open_tower"]


class Tower(Protocol):
    """What `open_tower` opens."""

    def content(self, image: Image.Image) -> Content:
        """What vLLM gets of an RGB image that has its size already."""
        ...

    def close(self) -> None:
        """Free it; what is under way is finished."""
        ...


def knows_tower(model: Path) -> bool:
    """Whether the image tower of the checkpoint in `model` can be run here: it is of a known kind, OpenVINO is there.

    Raises BundleError if the checkpoint's files cannot be read.
    """
    return find_spec("openvino") is not None and read_tower(model) is not None


def open_tower(model: Path, threads: int | None = None) -> Tower:
    """The image tower of a checkpoint with a known one; `threads` are CPU threads, None leaves it to OpenVINO.

    Raises BundleError and GraphRejected as `ImageTower` does.
    """
    from engines.sight.tower import ImageTower

    return ImageTower.open(model, threads)
