"""The manifest ``bundle.json``: what it says, how it is read and how it is written."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from engines.bundles.digests import HashProgress, digest_files
from engines.bundles.grounders import Grounder
from engines.errors import BundleError
from engines.mllm.answer import AnswerFormat
from engines.mllm.image import MllmImageConfig

MANIFEST_FILE = "bundle.json"
MLLM, VISION = "mllm", "vision"
REQUIRED_FILES = (
    f"{MLLM}/config.json",
    f"{MLLM}/preprocessor_config.json",
    f"{MLLM}/tokenizer.json",
    f"{VISION}/config.json",
    f"{VISION}/model.safetensors",
)
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def _relative(name: str) -> str:
    """A file name that stays below the bundle's two folders, whatever system reads it."""
    parts = PurePosixPath(name).parts
    plain = "\\" not in name and ":" not in name and name == "/".join(parts)
    if not plain or len(parts) < 2 or parts[0] not in (MLLM, VISION) or ".." in parts:
        raise ValueError(f"{name!r} is not a plain path below {MLLM}/ or {VISION}/")
    if PurePosixPath(name).suffix in PICKLES:
        raise ValueError(f"{name!r} may hold pickled code; weights must be .safetensors")
    return name


def _sha256(digest: str) -> str:
    if not DIGEST.fullmatch(digest):
        raise ValueError(f"{digest!r} is not sha256: and 64 lower-case hex digits")
    return digest


class Manifest(BaseModel):
    """The content of ``bundle.json``.

    `mask_threshold` cuts mask logits. `files` maps the path of every file below ``mllm/`` and ``vision/`` to its
    digest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1]
    name: str = Field(min_length=1)
    grounder: Grounder
    answer: AnswerFormat
    mllm_image: MllmImageConfig
    mask_threshold: float = Field(default=0.0, allow_inf_nan=False)
    files: dict[Annotated[str, AfterValidator(_relative)], Annotated[str, AfterValidator(_sha256)]]

    def digest_of(self, folder: str) -> str:
        """One digest, in hex, of all files below a folder: it changes with any of them."""
        below = sorted((name, digest) for name, digest in self.files.items() if name.startswith(f"{folder}/"))
        return hashlib.sha256(json.dumps(below).encode()).hexdigest()

    @model_validator(mode="after")
    def _grounder_fits(self) -> Self:
        if (self.grounder == "egm") != (self.answer.boxes is not None):
            raise ValueError("answer.boxes goes with the grounder egm, and only with it")
        if (self.grounder == "converseg") != (self.answer.reading is not None):
            raise ValueError("answer.reading goes with the grounder converseg, and only with it")
        return self


def read_manifest(path: Path) -> Manifest:
    """The manifest of the bundle at `path`.

    Raises:
        BundleError: it is missing, or a field of it is not as it must be.
    """
    file = path / MANIFEST_FILE
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except OSError as error:
        raise BundleError(f"{file}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise BundleError(f"{file}: {describe(error)}") from error


def write_manifest(
    path: Path,
    *,
    name: str,
    answer: AnswerFormat,
    mllm_image: MllmImageConfig,
    grounder: Grounder = "coprs",
    mask_threshold: float = 0.0,
    progress: HashProgress | None = None,
) -> Manifest:
    """Digest every file of the bundle at `path` and write its ``bundle.json``, whole or not at all.

    Raises:
        BundleError: a file that a bundle needs is missing, or one that it must not hold is there.
    """
    present = files_below(path)
    require_files(path, present)
    try:
        manifest = Manifest(
            format_version=1,
            name=name,
            grounder=grounder,
            answer=answer,
            mllm_image=mllm_image,
            mask_threshold=mask_threshold,
            files=digest_files(path, present, progress),
        )
    except ValidationError as error:
        raise BundleError(f"{path}: {describe(error)}") from error
    partial = path / f".{MANIFEST_FILE}.{os.getpid()}"
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(manifest.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path / MANIFEST_FILE)
    finally:
        partial.unlink(missing_ok=True)
    return manifest


def renew_manifest(path: Path, progress: HashProgress | None = None) -> Manifest:
    """Write the manifest of the bundle at `path` anew after a change of its files; see `write_manifest`."""
    old = read_manifest(path)
    return write_manifest(
        path,
        name=old.name,
        answer=old.answer,
        mllm_image=old.mllm_image,
        grounder=old.grounder,
        mask_threshold=old.mask_threshold,
        progress=progress,
    )


def files_below(path: Path) -> list[str]:
    """The files below ``mllm/`` and ``vision/``, by name and in order; names that start with a dot are left out."""
    found = (file for folder in (MLLM, VISION) for file in (path / folder).rglob("*") if file.is_file())
    names = (file.relative_to(path).as_posix() for file in found)
    return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))


def require_files(path: Path, names: list[str] | dict[str, str]) -> None:
    """Refuse a list of files in which one that every bundle has is missing."""
    for name in REQUIRED_FILES:
        if name not in names:
            raise BundleError(f"{path / name}: the bundle has no such file")
    if not any(name.startswith(f"{MLLM}/") and name.endswith(".safetensors") for name in names):
        raise BundleError(f"{path / MLLM}: the language model has no .safetensors weights")


def describe(error: ValidationError) -> str:
    """What pydantic found wrong, as one line: each field and its fault."""
    faults = error.errors(include_url=False)
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'content'}: {fault['msg']}" for fault in faults)
