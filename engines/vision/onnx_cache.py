"""Exported graphs on disk, one directory for each set of weights and recipe, so that a model is exported once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.errors import BundleError, CacheFailed
from engines.vision.config import CONFIG_FILE, WEIGHTS_FILE, VisionConfig
from engines.vision.recipe import DEFAULT_RECIPE, ExportRecipe

logger = logging.getLogger(__name__)

ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder.onnx"
PROMPTED_DECODER_FILE = "prompted_decoder.onnx"  # with points and boxes
SENTENCE_DECODER_FILE = "sentence_decoder.onnx"  # with the states of a prompt's tokens
GRAPH_FILES = (ENCODER_FILE, DECODER_FILE, PROMPTED_DECODER_FILE)
"""Of a model whose vectors become masks by way of a heatmap."""


def feature_names(config: VisionConfig) -> list[str]:
    """What the graphs call an image's features: the embedding, and finer ones if its encoder makes any."""
    return ["embeddings", *(f"fine_{level}" for level in range(len(config.feature_shapes) - 1))]


def exported(vision_dir: Path, cache_dir: Path, recipe: ExportRecipe = DEFAULT_RECIPE) -> Path:
    """The directory below `cache_dir` with the ONNX graphs of the model in `vision_dir`, exported if need be.

    Several processes may ask at once: each directory appears whole, by one rename, or not at all.

    Raises:
        BundleError: the model is missing, damaged, or does not fit its config.
        CacheFailed: the disk is full, or the cache cannot be written.
    """
    directory = cache_dir / _key(vision_dir, recipe)
    if not directory.is_dir():
        logger.info("exporting the vision model to ONNX, once: %s", directory)
        export_to(directory, vision_dir, recipe)
    return directory


def export_to(directory: Path, vision_dir: Path, recipe: ExportRecipe = DEFAULT_RECIPE) -> None:
    """Export the model in `vision_dir` to `directory`, which appears whole or not at all; see `exported`."""
    from engines.vision.export import export  # torch takes seconds to import and is needed only here
    from engines.vision.model import VisionModel

    model = VisionModel.load(vision_dir)
    with unfinished(directory) as folder:
        export(model, folder, recipe)


@contextmanager
def unfinished(directory: Path) -> Iterator[Path]:
    """A folder beside `directory` to work in; it becomes `directory` when the block succeeds, else it is gone.

    Raises:
        CacheFailed: the disk is full, or the folder cannot be written.
    """
    with storing(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=directory.parent))
        try:
            yield folder
            publish(folder, directory)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Name what the file system refuses while `path` is written: `CacheFailed`."""
    try:
        yield
    except OSError as error:
        raise CacheFailed(f"{path}: cannot be written: {error.strerror or error}") from error


def publish(folder: Path, directory: Path) -> None:
    """Rename `folder` to `directory`, unless another process was first; then its graphs are as good."""
    try:
        os.rename(folder, directory)
    except OSError:
        if not directory.is_dir():
            raise


def model_digest(vision_dir: Path) -> str:
    """A digest, in hex, of a model's config and weights. Raises `BundleError` where one cannot be read."""
    digest = hashlib.sha256()
    try:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            with (vision_dir / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise BundleError(f"cannot read the vision model: {error}") from error
    return digest.hexdigest()


def _key(vision_dir: Path, recipe: ExportRecipe) -> str:
    """A digest of the model, the recipe and the code that turns them into graphs."""
    digest = hashlib.sha256(json.dumps([model_digest(vision_dir), recipe.describe()]).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]
