"""What the trainer feeds is what the served models see."""

from __future__ import annotations

import numpy as np
from transformers import Qwen2VLImageProcessor

from engines.demo.models import MERGE, MLLM_IMAGE, PATCH
from engines.demo.scenes import COLOURS, KINDS, render_scene
from engines.demo.training.samples import CELLS, CLASSES, CLIP_MEAN, CLIP_STD, make_sample, patchify


def test_patches_equal_those_of_transformers() -> None:
    image = np.random.default_rng(0).integers(0, 256, (308, 364, 3), dtype=np.uint8)
    processor = Qwen2VLImageProcessor(
        patch_size=PATCH,
        merge_size=MERGE,
        size={"shortest_edge": MLLM_IMAGE.min_pixels, "longest_edge": MLLM_IMAGE.max_pixels},
        image_mean=CLIP_MEAN.tolist(),
        image_std=CLIP_STD.tolist(),
    )
    theirs = processor(image, return_tensors="np")
    assert theirs["image_grid_thw"].tolist() == [[1, 22, 26]]
    np.testing.assert_allclose(patchify(image), theirs["pixel_values"], atol=1e-5)


def test_mask_targets_keep_the_areas() -> None:
    scene = render_scene(5, longest=300)
    sample = make_sample(scene)
    height, width = scene.image.shape[:2]
    scale = (sample.size[0] / height) * (sample.size[1] / width) / 4
    for index, item in enumerate(scene.objects):
        assert (
            abs(sample.amodal[index].sum() / 255 - item.amodal.sum() * scale)
            < 0.02 * item.amodal.sum() * scale
        )
        assert (sample.modal[index] <= sample.amodal[index]).all()


def test_dense_labels_are_shares_of_each_group() -> None:
    scene = render_scene(5, longest=300)
    sample = make_sample(scene)
    assert sample.cells.shape == (CELLS * CELLS, 2 * CLASSES)
    ends = np.cumsum([len(KINDS) + 1, len(COLOURS) + 1, len(KINDS) + 1])
    for labels in (sample.cells, sample.view.tokens):
        for part in np.split(labels, ends, axis=1):
            np.testing.assert_allclose(part.sum(1), 1, atol=1e-4)
    front = scene.objects[-1]
    row, column = np.argwhere(front.modal)[len(np.argwhere(front.modal)) // 2]
    scale = max(sample.size) / max(scene.image.shape[:2])
    cell = int(row * scale) // 8 * CELLS + int(column * scale) // 8
    assert sample.cells[cell, KINDS.index(front.kind)] > 0.5
