"""Visual prompts: SAM's tokens, both runtimes, and what they do to a mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import SamImageProcessorPil, SamProcessor

from engines.errors import InvalidInput, VisionFailed
from engines.vision.model import VisionModel
from engines.vision.preprocess import resized_size
from engines.vision.runtimes.base import DecodeItem, Embedding
from engines.vision.runtimes.openvino import OpenVinoRuntime
from engines.vision.runtimes.torch_cpu import TorchRuntime
from engines.vision.visual_prompt import (
    BOX_MAX,
    BOX_MIN,
    NEGATIVE,
    NOT_A_POINT,
    POSITIVE,
    Point,
    SparsePrompt,
    VisualPrompt,
)

POINTS = (Point(100, 50), Point(3.5, 0, positive=False))
BOX = (10.0, 20.0, 150.0, 80.0)
ORIGINAL, SIZE = (80, 160), (32, 64)  # (height, width) before and after


def test_points_are_followed_by_the_box_or_by_no_point() -> None:
    points = VisualPrompt(points=POINTS).sparse(ORIGINAL, SIZE)
    assert points.labels.tolist() == [POSITIVE, NEGATIVE, NOT_A_POINT]
    both = VisualPrompt(BOX, POINTS).sparse(ORIGINAL, SIZE)
    assert both.labels.tolist() == [POSITIVE, NEGATIVE, BOX_MIN, BOX_MAX]
    assert VisualPrompt(BOX).sparse(ORIGINAL, SIZE).labels.tolist() == [BOX_MIN, BOX_MAX]
    np.testing.assert_allclose(
        both.points, np.array([[100, 50], [3.5, 0], [10, 20], [150, 80]]) * 0.4, rtol=1e-6
    )


@pytest.mark.parametrize("original", [(480, 641), (333, 97)])
def test_places_are_scaled_as_transformers_scales_them(original: tuple[int, int]) -> None:
    processor, picture = SamProcessor(SamImageProcessorPil()), np.zeros((*original, 3), np.uint8)
    theirs = processor(images=picture, input_points=[[[60.0, 70.5]]])["input_points"].reshape(1, 2)
    size = resized_size(*original, 1024)
    ours = VisualPrompt(points=(Point(60, 70.5),)).sparse(original, size)
    np.testing.assert_allclose(ours.points[:1], theirs, rtol=1e-6)


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        (
            VisualPrompt(points=(Point(0, 0), Point(160.5, 3))),
            r"points\.1: \(160\.5, 3\) is outside .* 160 × 80",
        ),
        (VisualPrompt(points=(Point(3, -1),)), r"points\.0: \(3, -1\)"),
        (VisualPrompt(points=(Point(float("nan"), 0),)), r"points\.0"),
        (VisualPrompt((0, 0, 160, 81)), r"box: \(160, 81\)"),
    ],
)
def test_a_place_outside_the_picture_is_named(prompt: VisualPrompt, named: str) -> None:
    VisualPrompt((0, 0, 160, 80), (Point(160, 80),)).check(160, 80)
    with pytest.raises(InvalidInput, match=named):
        prompt.check(160, 80)


@pytest.fixture(scope="module")
def reference(vision_dir: Path) -> TorchRuntime:
    return TorchRuntime(vision_dir)


@pytest.fixture(scope="module")
def items() -> list[DecodeItem]:
    """Prompts of every kind on two images: a vector, points, both, a box and points, and so on."""
    random = np.random.default_rng(5)
    embeddings = [Embedding(random.standard_normal((16, 8, 8), dtype=np.float32)) for _ in range(2)]
    vectors = [*random.standard_normal((3, 12), dtype=np.float32), None, None, None]
    visual = [None, VisualPrompt(BOX), VisualPrompt(points=POINTS), VisualPrompt(BOX, POINTS),
              VisualPrompt(points=POINTS), VisualPrompt(BOX)]  # fmt: skip
    return [
        DecodeItem(embeddings[i % 2], vector, SIZE, None if prompt is None else prompt.sparse(ORIGINAL, SIZE))
        for i, (vector, prompt) in enumerate(zip(vectors, visual, strict=True))
    ]


@torch.no_grad()
def by_the_book(model: VisionModel, item: DecodeItem) -> torch.Tensor:
    """segment-anything's own steps, for one item."""
    embedding, encoder = torch.from_numpy(item.embedding.values)[None], model.prompt_encoder
    dense = encoder.no_mask()
    if item.vector is not None:
        prior, _, _ = model.decode(embedding, torch.from_numpy(item.vector)[None], torch.tensor([item.size]))
        cells = -(-item.size[0] // 2)
        prior[..., cells:, :] = -50
        dense = encoder.embed_masks(prior)
    sparse = None
    if item.sparse is not None:
        points, labels = (
            torch.from_numpy(item.sparse.points)[None],
            torch.from_numpy(item.sparse.labels)[None],
        )
        sparse = encoder.embed_points(points, labels)
    logits, _ = model.mask_decoder(embedding, encoder.pe_layer.grid(8), sparse, dense)
    mask: torch.Tensor = logits[0, 0]
    return mask


def test_every_kind_in_one_batch_is_decoded_by_the_book(
    reference: TorchRuntime, vision_model: VisionModel, items: list[DecodeItem]
) -> None:
    results = reference.decode(items)
    assert len(results) == len(items)
    for item, result in zip(items, results, strict=True):
        np.testing.assert_allclose(result.mask_logits, by_the_book(vision_model, item), atol=1e-4)
    without = reference.decode([replace(item, sparse=None) for item in items[1:3]])
    for bare, pointed in zip(without, results[1:3], strict=True):
        assert np.abs(bare.mask_logits - pointed.mask_logits).max() > 0.1, "the prompt matters"
        np.testing.assert_allclose(bare.prior_logits, pointed.prior_logits, atol=1e-5)


def test_openvino_agrees(
    reference: TorchRuntime, vision_dir: Path, items: list[DecodeItem], tmp_path: Path
) -> None:
    openvino = OpenVinoRuntime(vision_dir, tmp_path, threads=1, encoder_precision="fp32")
    for count in (1, 4, 6):
        chosen = items[-count:]
        for expected, result in zip(reference.decode(chosen), openvino.decode(chosen), strict=True):
            np.testing.assert_allclose(result.mask_logits, expected.mask_logits, atol=5e-4)
            assert result.iou == pytest.approx(expected.iou, abs=2e-4)
    openvino.warm_up()


def test_a_prompt_that_says_nothing_is_named(reference: TorchRuntime, items: list[DecodeItem]) -> None:
    empty = replace(items[0], vector=None)
    with pytest.raises(VisionFailed, match="item 1 has neither"):
        reference.decode([items[0], empty])
    point = SparsePrompt(np.zeros((1, 2), np.float32), np.array([POSITIVE]))
    [result] = reference.decode([replace(empty, sparse=point)])
    assert np.isfinite(result.mask_logits).all()
