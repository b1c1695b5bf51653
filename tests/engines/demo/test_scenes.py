"""Scenes are reproducible, and their masks are exact."""

from __future__ import annotations

import numpy as np
import pytest

from engines.demo.scenes import COLOURS, KINDS, Scene, render_scene
from engines.demo.scenes.render import MIN_VISIBLE_SHARE, PALETTE

SEEDS = range(2_000_000, 2_000_030)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(seed, longest=240) for seed in SEEDS]


def test_a_seed_gives_the_same_scene() -> None:
    first, second = render_scene(2_000_007), render_scene(2_000_007)
    assert np.array_equal(first.image, second.image)
    for one, other in zip(first.objects, second.objects, strict=True):
        assert one.name == other.name
        assert np.array_equal(one.amodal, other.amodal)


def test_another_seed_gives_another_scene() -> None:
    assert not np.array_equal(
        render_scene(1, longest=200).image[:90], render_scene(2, longest=200).image[:90]
    )


def test_sizes_and_aspects_stay_in_range() -> None:
    for seed in SEEDS:
        height, width, _ = render_scene(seed).image.shape
        assert max(height, width) <= 1600
        assert min(height, width) >= 80
        assert 0.49 <= width / height <= 2.05


def test_objects_are_three_to_seven_and_of_known_kinds(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert 1 <= len(scene.objects) <= 7
        names = [item.name for item in scene.objects]
        assert len(set(names)) == len(names)
        assert all(item.kind in KINDS and item.colour in COLOURS for item in scene.objects)
    assert np.mean([len(scene.objects) >= 3 for scene in scenes]) > 0.95


def test_modal_masks_are_the_amodal_ones_less_what_lies_in_front(scenes: list[Scene]) -> None:
    for scene in scenes:
        above = np.zeros(scene.image.shape[:2], dtype=np.bool_)
        for item in reversed(scene.objects):
            assert np.array_equal(item.modal, item.amodal & ~above)
            above |= item.amodal


def test_hidden_shares_and_occluders_agree_with_the_masks(scenes: list[Scene]) -> None:
    for scene in scenes:
        for index, item in enumerate(scene.objects):
            assert item.hidden == pytest.approx(1 - item.modal.sum() / item.amodal.sum())
            assert item.hidden <= 1 - MIN_VISIBLE_SHARE + 1e-9
            for other in item.covered_by:
                assert other > index
                assert (item.amodal & scene.objects[other].modal).sum() >= 0.01 * item.amodal.sum()


def test_some_objects_are_occluded_and_some_are_cut_by_the_frame(scenes: list[Scene]) -> None:
    objects = [item for scene in scenes for item in scene.objects]
    edges = [item.amodal[[0, -1]].any() or item.amodal[:, [0, -1]].any() for item in objects]
    assert 0.2 < np.mean([item.hidden > 0.03 for item in objects]) < 0.8
    assert 0.02 < np.mean(edges) < 0.5


def test_an_object_has_its_colour(scenes: list[Scene]) -> None:
    """The median visible pixel of an object is nearest to its own colour in the palette, nearly always."""
    right, total = 0, 0
    for scene in scenes:
        for item in scene.objects:
            if item.kind == "clock":  # most of it is a white face
                continue
            seen = np.median(scene.image[item.modal], axis=0)
            distance = {colour: np.linalg.norm(seen - np.array(rgb)) for colour, rgb in PALETTE.items()}
            right += min(distance, key=lambda colour: distance[colour]) == item.colour
            total += 1
    assert right / total > 0.9
