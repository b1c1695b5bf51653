"""Masks of sentences: OpenVINO, and torch on a device, against torch; several lengths at once; what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.errors import VisionFailed
from engines.vision.model import VisionModel
from engines.vision.preprocess import Prepared, prepare
from engines.vision.runtimes.base import DecodeItem, Sentence
from engines.vision.runtimes.openvino import OpenVinoRuntime
from engines.vision.runtimes.torch_cpu import TorchRuntime
from engines.vision.runtimes.torch_cuda import open_torch_cuda
from engines.vision.visual_prompt import VisualPrompt
from tests.engines.vision.conftest import randomise
from tests.stand_ins import TINY_SAM2, VECTOR_DIM

WORDS = (4, 7, 4, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    model = VisionModel.from_config(TINY_SAM2)
    randomise(model)
    path = tmp_path_factory.mktemp("vision")
    model.save(path)
    return path


@pytest.fixture(scope="module")
def runtime(folder: Path) -> TorchRuntime:
    return TorchRuntime(folder)


@pytest.fixture(scope="module")
def images() -> list[Prepared]:
    random = np.random.default_rng(3)
    pictures = [random.integers(0, 256, shape, dtype=np.uint8) for shape in ((40, 90, 3), (70, 30, 3))]
    return [prepare(picture, TINY_SAM2.image_size, TINY_SAM2.fit) for picture in pictures]


@pytest.fixture(scope="module")
def items(runtime: TorchRuntime, images: list[Prepared]) -> list[DecodeItem]:
    """Four sentences on two images, and a box on one of them."""
    random = np.random.default_rng(4)
    embeddings = runtime.encode(images)
    states = [random.standard_normal((words + 1, VECTOR_DIM)).astype(np.float32) * 3 for words in WORDS]
    made = [
        DecodeItem(embeddings[n % 2], None, images[n % 2].size, sentence=Sentence(rows[1:], rows[0]))
        for n, rows in enumerate(states)
    ]
    box = VisualPrompt(box=(5, 5, 30, 30)).sparse(images[0].original, images[0].size, images[0].corner)
    return [*made, DecodeItem(embeddings[0], None, images[0].size, box)]


def test_each_sentence_gets_its_own_mask(runtime: TorchRuntime, items: list[DecodeItem]) -> None:
    together = runtime.decode(items)
    for item, made in zip(items, together, strict=True):
        [alone] = runtime.decode([item])
        np.testing.assert_allclose(made.mask_logits, alone.mask_logits, atol=1e-3)
        assert made.mask_logits.std() > 0.1
    first, _, third, *_ = together  # two sentences on one image
    assert np.abs(first.mask_logits - third.mask_logits).max() > 0.1


def test_openvino_gives_the_same(
    folder: Path, runtime: TorchRuntime, items: list[DecodeItem], tmp_path: Path
) -> None:
    openvino = OpenVinoRuntime(folder, tmp_path, threads=1, encoder_precision="fp32")
    openvino.warm_up()
    for made, plain in zip(openvino.decode(items), runtime.decode(items), strict=True):
        np.testing.assert_allclose(made.mask_logits, plain.mask_logits, atol=2e-3 * plain.mask_logits.std())
        assert made.iou == pytest.approx(plain.iou, abs=1e-3)
        assert not made.prior_logits.any()


def test_torch_on_a_device_gives_the_same(
    folder: Path, runtime: TorchRuntime, images: list[Prepared], items: list[DecodeItem]
) -> None:
    """Prompts of several lengths in batches that are filled up; embeddings of host and device side by side."""
    device = open_torch_cuda(folder, torch.device("cpu"))
    device.warm_up()
    assert device.info()["encoder_precision"] == "fp32"
    resident = device.encode(images)
    for there, here in zip(resident, runtime.encode(images), strict=True):
        assert there.shapes == here.shapes == TINY_SAM2.feature_shapes
        assert there.nbytes == here.nbytes // 2, "float16"
        for level, expected in zip(there.tensors, here.tensors, strict=True):
            np.testing.assert_allclose(level, expected, atol=1e-3 * np.abs(expected).max())
    own = [replace(item, embedding=resident[n]) for n, item in enumerate(items[:2])]
    made = device.decode([*own, *items[2:], *items, *items])
    for found, plain in zip(made, [*runtime.decode(items)] * 3, strict=True):
        spread = plain.mask_logits.std()
        assert np.abs(found.mask_logits - plain.mask_logits).mean() < 0.01 * spread
        assert found.iou == pytest.approx(plain.iou, abs=1e-2)
        assert not found.prior_logits.any()
    device.close()


def test_faults_are_named(runtime: TorchRuntime, items: list[DecodeItem]) -> None:
    embedding, size = items[0].embedding, items[0].size
    good = np.ones((2, VECTOR_DIM), np.float32)
    cases = {
        "sentence 0 is": Sentence(good[:, 1:], good[0]),
        "the end of sentence 0 is": Sentence(good, good),
        "not finite": Sentence(good * np.inf, good[0]),
        "takes states of": Sentence(good[:0], good[0]),
    }
    for fault, sentence in cases.items():
        with pytest.raises(VisionFailed, match=fault):
            runtime.decode([DecodeItem(embedding, None, size, sentence=sentence)])
    with pytest.raises(VisionFailed, match="a sentence and something else"):
        runtime.decode([DecodeItem(embedding, None, size, items[-1].sparse, Sentence(good, good[0]))])
