"""A loaded bundle: what the pipeline, the launcher and the runtimes need to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.bundles.checks import (
    check_image_processor,
    check_tokens,
    check_vector_width,
    check_vision_weights,
    read_shapes,
)
from engines.bundles.digests import HashProgress, digest_files
from engines.bundles.grounders import ROLES, Grounder
from engines.bundles.manifest import MLLM, VISION, Manifest, files_below, read_manifest, require_files
from engines.errors import BundleError
from engines.mllm.answer import AnswerFormat
from engines.mllm.image import MllmImageConfig
from engines.mllm.reading import TextReader
from engines.mllm.vllm_config import Pooled, Role
from engines.vision.config import VisionConfig, load_config


@dataclass(frozen=True, slots=True)
class Bundle:
    """A directory with everything one served model needs, found to be whole.

    `mask_threshold` cuts mask logits; `grounder` says how the reasoning becomes a mask prompt. `vision_digest`
    is one digest of the vision part, weights and config.
    """

    path: Path
    name: str
    grounder: Grounder
    answer: AnswerFormat
    mllm_image: MllmImageConfig
    mask_threshold: float
    vision: VisionConfig
    vision_digest: str

    @property
    def mllm_path(self) -> Path:
        """The Hugging Face directory that vLLM serves."""
        return self.path / MLLM

    @property
    def roles(self) -> tuple[Role, ...]:
        """The vLLM servers that its grounder needs."""
        return ROLES[self.grounder]

    @property
    def pooled(self) -> Pooled:
        """Whose state its concentrate server gives."""
        return "all" if self.answer.reading is not None else "last"

    @property
    def reader(self) -> TextReader | None:
        """What finds the tokens of its prompts, if they are read. Raises BundleError if the tokenizer is gone."""
        if self.answer.reading is None:
            return None
        return TextReader.load(self.mllm_path, self.answer.reading, self.mllm_image.factor)

    @property
    def vision_path(self) -> Path:
        """The directory with the vision model's config and weights."""
        return self.path / VISION

    @classmethod
    def load(cls, path: Path, verify: bool = True, progress: HashProgress | None = None) -> Bundle:
        """The bundle at `path`, after checking that its files are there and fit each other.

        `verify` also compares the digest of every file, which reads all of them; `progress` is called meanwhile.

        Raises:
            BundleError: something is missing or wrong; the message names the file and the fault.
        """
        path = path.resolve()
        manifest = read_manifest(path)
        _check_files(path, manifest)
        if verify:
            _check_digests(path, manifest, progress)
        vision = load_config(path / VISION)
        if manifest.grounder == "coprs" and vision.heatmap is None:
            raise BundleError(f"{path / VISION}: a coprs bundle needs a heatmap head")
        if manifest.grounder == "converseg" and vision.adapter is None:
            raise BundleError(f"{path / VISION}: a converseg bundle needs an adapter")
        check_vision_weights(path / VISION / "model.safetensors", vision)
        for name in manifest.files:
            if name.startswith(f"{MLLM}/") and name.endswith(".safetensors"):
                read_shapes(path / name)
        check_vector_width(path / MLLM / "config.json", vision)
        check_tokens(path / MLLM / "tokenizer.json", manifest.answer)
        if manifest.answer.reading is not None:
            TextReader.load(path / MLLM, manifest.answer.reading, manifest.mllm_image.factor)
        check_image_processor(path / MLLM / "preprocessor_config.json", manifest.mllm_image)
        return cls(
            path=path,
            name=manifest.name,
            grounder=manifest.grounder,
            answer=manifest.answer,
            mllm_image=manifest.mllm_image,
            mask_threshold=manifest.mask_threshold,
            vision=vision,
            vision_digest=manifest.digest_of(VISION),
        )


def _check_files(path: Path, manifest: Manifest) -> None:
    require_files(path, manifest.files)
    present = files_below(path)
    for name in manifest.files:
        if name not in present:
            raise BundleError(f"{path / name}: the file is missing")
    for name in present:
        if name not in manifest.files:
            raise BundleError(f"{path / name}: the file is not in the manifest")


def _check_digests(path: Path, manifest: Manifest, progress: HashProgress | None) -> None:
    found = digest_files(path, manifest.files, progress)
    for name, wanted in manifest.files.items():
        if found[name] != wanted:
            raise BundleError(f"{path / name}: its digest is {found[name]}, not the manifest's {wanted}")
