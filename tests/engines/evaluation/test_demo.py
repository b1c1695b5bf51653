"""The demo data set: reproducible, apart from training, and true to its scenes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from engines.demo.scenes import render_scene
from engines.errors import InvalidInput
from engines.evaluation.datasets.demo import DemoSet

SEED = 20260001


def test_the_same_seed_gives_the_same_questions() -> None:
    first, again = (list(DemoSet(SEED, 1, queries_per_scene=3).questions(SEED)) for _ in range(2))
    assert len(first) == 3
    for a, b in zip(first, again, strict=True):
        assert (a.label, a.image, a.prompt, a.mask_type, a.names) == (
            b.label,
            b.image,
            b.prompt,
            b.mask_type,
            b.names,
        )
        assert all(np.array_equal(x, y) for x, y in zip(a.truths, b.truths, strict=True))


def test_the_set_is_as_large_as_asked() -> None:
    chosen = DemoSet(SEED, 500)
    assert (len(chosen), chosen.scenes()) == (500, range(20260001, 20260501))
    assert len(DemoSet(SEED, 7, queries_per_scene=4)) == 28


def test_the_truth_is_of_the_type_that_the_prompt_asks_for() -> None:
    seen = set()
    for seed in range(SEED, SEED + 12):
        scene = render_scene(seed)
        by_name = {f"the {each.name}": each for each in scene.objects}
        for question in DemoSet(seed, 1, queries_per_scene=4).questions(seed):
            picture = np.asarray(Image.open(io.BytesIO(question.image)))
            assert np.array_equal(picture, scene.image)
            assert question.shape == picture.shape[:2]
            seen.add(question.mask_type if question.truths else "none")
            for name, truth in zip(question.names, question.truths, strict=True):
                target = by_name[name]
                assert np.array_equal(truth, target.modal if question.mask_type == "modal" else target.amodal)
    assert seen == {"modal", "amodal", "none"}


@pytest.mark.parametrize(("seed", "limit", "each"), [(999_999, 1, 1), (0, 10, 1), (SEED, 0, 1), (SEED, 1, 0)])
def test_seeds_of_training_and_empty_sets_are_refused(seed: int, limit: int, each: int) -> None:
    with pytest.raises(InvalidInput):
        DemoSet(seed, limit, queries_per_scene=each)
