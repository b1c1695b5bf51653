"""ImageTower: the language model's image tower on OpenVINO, as a source of what vLLM gets of an image."""

from __future__ import annotations

import asyncio
import base64
import io
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from PIL import Image

from engines.errors import GraphRejected
from engines.mllm.image import Payload
from engines.sight.config import PixelScale, TowerConfig, read_tower
from engines.sight.graph import TowerGraph, read_weights
from engines.vision.runtimes.openvino_core import Inputs, Shared, best_precision, process_core, settings_for

Pixels = NDArray[np.uint8]
Features = NDArray[np.float32]


class ImageTower:
    """Makes an image's features; in a thread of its own, one image after another."""

    def __init__(
        self, model: Path, config: TowerConfig, scale: PixelScale, threads: int | None = None
    ) -> None:
        """Convert and compile the tower of the checkpoint in `model`.

        Args:
            model: the checkpoint's folder.
            config: the tower's, from `read_tower`.
            scale: the pixels', from there, too.
            threads: CPU threads; None leaves it to OpenVINO.

        Raises:
            BundleError: the weights cannot be read.
            GraphRejected: OpenVINO cannot compile it.
        """
        self._config = config
        core = process_core()
        try:
            graph = _converted(config, TowerGraph(config, scale, read_weights(model)))
            compiled = core.compile_model(graph, "CPU", settings_for(best_precision(core), threads))
        except (KeyError, RuntimeError) as error:
            raise GraphRejected(f"{model}: its image tower cannot be compiled: {error}") from error
        self._run = Shared(compiled)
        self._thread = ThreadPoolExecutor(1, "see")

    @classmethod
    def open(cls, model: Path, threads: int | None = None) -> ImageTower:
        """The checkpoint's tower. Raises as the constructor does, and GraphRejected for one that is not known."""
        if (found := read_tower(model)) is None:
            raise GraphRejected(f"{model}: its image tower is of a kind that is not known here")
        return cls(model, *found, threads)

    def see(self, pixels: Pixels) -> Features:
        """The features (tokens, D) of an image (H, W, 3) whose sides are multiples of a token's.

        Raises:
            VisionFailed: OpenVINO could not run it.
        """
        rows, columns = (side // self._config.patch_size for side in pixels.shape[:2])
        cos, sin = _angles(self._config, rows, columns)
        inputs: Inputs = {"patches": patches_of(pixels, self._config), "cos": cos, "sin": sin}
        [features] = self._run(inputs, ["features"])
        return np.array(features)  # what OpenVINO gives is its own, and is written over by the next run

    def content(self, image: Image.Image) -> Seen:
        """What vLLM gets of an RGB image that has its size already."""
        return Seen(np.asarray(image), self)

    def begin(self, pixels: Pixels) -> Future[Payload]:
        """Have the part of a message made that brings an image's features: numpy's files in base64."""
        return self._thread.submit(self._payload, pixels)

    def _payload(self, pixels: Pixels) -> Payload:
        grid = [1, *(side // self._config.patch_size for side in pixels.shape[:2])]
        return {"image_embeds": as_text(halved(self.see(pixels))), "image_grid_thw": as_text(np.array(grid))}

    def features_bytes(self, pixels: Pixels) -> int:
        """How long a payload is, roughly."""
        side = self._config.patch_size * self._config.spatial_merge_size
        tokens: int = pixels.size // 3 // side**2
        return tokens * self._config.out_hidden_size * 2 * 4 // 3

    def close(self) -> None:
        """Free the graph; what is under way is finished."""
        self._thread.shutdown(cancel_futures=True)
        del self._run


class Seen:
    """An image's features, made when the first server wants them; as long as this is remembered they are made once.

    vLLM 0.32's front end keeps none: they go with each call, and only its engine knows them by the image's name.
    """

    kind: Literal["image_embeds"] = "image_embeds"
    kept: Literal[False] = False

    def __init__(self, pixels: Pixels, tower: ImageTower) -> None:
        self._pixels = pixels
        self._tower = tower
        self._making: Future[Payload] | None = None
        self._waiting = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels, and of the features when they will have been made."""
        return self._pixels.nbytes + self._tower.features_bytes(self._pixels)

    async def payload(self) -> Payload:
        """The features, as vLLM takes them.

        Whoever leaves does not stop what others wait for, too; what nobody waits for is not begun.
        """
        if self._making is None or _failed(self._making):
            self._making = self._tower.begin(self._pixels)
        self._waiting += 1
        try:
            return await asyncio.shield(asyncio.wrap_future(self._making))
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._making.cancel()  # which leaves alone what has begun


def _failed(making: Future[Payload]) -> bool:
    return making.done() and (making.cancelled() or making.exception() is not None)


def patches_of(pixels: Pixels, config: TowerConfig) -> Pixels:
    """An image (H, W, 3) as patches (N, 3·P²), those of a token together: the order of Qwen2.5-VL's processor."""
    merge, patch = config.spatial_merge_size, config.patch_size
    rows, columns = (side // (merge * patch) for side in pixels.shape[:2])
    split = pixels.reshape(rows, merge, patch, columns, merge, patch, 3)
    return split.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3 * patch**2)


@lru_cache(maxsize=64)
def _angles(config: TowerConfig, rows: int, columns: int) -> tuple[Features, Features]:
    """Cosine and sine (N, head_dim ÷ 2) of each patch's row, then of its column, in the order of `patches_of`."""
    half, merge = config.head_dim // 2, config.spatial_merge_size
    frequencies = config.rope_theta ** -(np.arange(0, half, 2) / half)
    places = np.indices((rows, columns)).reshape(2, rows // merge, merge, columns // merge, merge)
    row, column = places.transpose(0, 1, 3, 2, 4).reshape(2, -1, 1)
    angles = np.concatenate([row * frequencies, column * frequencies], axis=1).astype(np.float32)
    return np.cos(angles), np.sin(angles)


def _converted(config: TowerConfig, graph: TowerGraph) -> ov.Model:
    merge = config.spatial_merge_size
    sides = (2 * merge, 3 * merge)
    cos, sin = (torch.from_numpy(one) for one in _angles(config, *sides))
    patches = torch.zeros(len(cos), 3 * config.patch_size**2, dtype=torch.uint8)
    model = ov.convert_model(graph, example_input=(patches, cos, sin))
    for place, name in enumerate(("patches", "cos", "sin")):
        model.inputs[place].tensor.set_names({name})
    model.outputs[0].tensor.set_names({"features"})
    model.reshape({name: [-1, *model.input(name).partial_shape[1:]] for name in ("patches", "cos", "sin")})
    return model


def halved(features: Features) -> NDArray[np.float16] | Features:
    """The same in half the bytes, more exactly than bfloat16 would have them, unless one of them is too large."""
    if np.abs(features).max() > np.finfo(np.float16).max:
        return features
    return features.astype(np.float16)


def as_text(array: NDArray[np.generic]) -> str:
    """A numpy file in base64, as vLLM reads embeddings."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return base64.b64encode(buffer.getbuffer()).decode("ascii")
