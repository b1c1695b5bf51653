"""Exported graphs on disk, one directory for each set of weights, so that a model is exported once."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

from engines.errors import BundleError
from engines.vision.config import CONFIG_FILE, WEIGHTS_FILE, VisionConfig

logger = logging.getLogger(__name__)

ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder.onnx"
PROMPTED_DECODER_FILE = "prompted_decoder.onnx"  # with points and boxes
SENTENCE_DECODER_FILE = "sentence_decoder.onnx"  # with the states of a prompt's tokens


def feature_names(config: VisionConfig) -> list[str]:
    """What the graphs call an image's features: the embedding, and finer ones if its encoder makes any."""
    return ["embeddings", *(f"fine_{level}" for level in range(len(config.feature_shapes) - 1))]


def exported(vision_dir: Path, cache_dir: Path) -> Path:
    """The directory below `cache_dir` with the ONNX graphs of the model in `vision_dir`, exported if need be.

    Several processes may ask at once: each directory appears whole, by one rename, or not at all.

    Raises:
        BundleError: the model is missing, damaged, or does not fit its config.
    """
    directory = cache_dir / _key(vision_dir)
    if directory.is_dir():
        return directory
    from engines.vision.export import export  # torch takes seconds to import and is needed only here
    from engines.vision.model import VisionModel

    logger.info("exporting the vision model to ONNX, once: %s", directory)
    model = VisionModel.load(vision_dir)
    cache_dir.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=cache_dir))
    try:
        export(model, unfinished)
        publish(unfinished, directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return directory


def publish(unfinished: Path, directory: Path) -> None:
    """Rename `unfinished` to `directory`, unless another process was first; then its graphs are as good."""
    try:
        os.rename(unfinished, directory)
    except OSError:
        if not directory.is_dir():
            raise


def _key(vision_dir: Path) -> str:
    """A digest of the config, the weights and the code that turns them into graphs."""
    digest = hashlib.sha256()
    sources = sorted(Path(__file__).parent.glob("*.py"))
    try:
        for path in (vision_dir / CONFIG_FILE, vision_dir / WEIGHTS_FILE, *sources):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise BundleError(f"cannot read the vision model: {error}") from error
    return digest.hexdigest()[:32]
