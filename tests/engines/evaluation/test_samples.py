"""The demo's samples: their scenes show what their prompts speak of."""

from __future__ import annotations

import pytest

from engines.demo.scenes import TRAINING_SEEDS, render_scene
from engines.evaluation.samples import LONGEST, SAMPLES, Sample


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_the_target_is_there_once_and_partly_hidden(sample: Sample) -> None:
    scene = render_scene(sample.seed, longest=LONGEST)
    targets = [each for each in scene.objects if each.name == sample.target]
    assert len(targets) == 1
    assert targets[0].hidden > 0.1
    assert sample.target in sample.prompt
    named = {each.name for each in scene.objects if each.name in sample.prompt}
    covering = {scene.objects[index].name for index in targets[0].covered_by}
    assert named - {sample.target} <= covering


def test_the_samples_show_each_kind_of_answer_on_scenes_that_training_never_saw() -> None:
    assert [sample.name for sample in SAMPLES] == ["modal", "amodal", "both"]
    assert all(sample.seed not in TRAINING_SEEDS for sample in SAMPLES)
