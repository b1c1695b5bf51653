"""A packed scene is a faster way to compute what separate sequences would give."""

from __future__ import annotations

import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from engines.demo.language import Account, Query, Survey, ask
from engines.demo.models import MERGE
from engines.demo.scenes import render_scene
from engines.demo.ship import BUNDLE
from engines.demo.tokenizer import token_ids, train_tokenizer
from engines.demo.train import build_learner
from engines.demo.training.answers import AnswerPacker, PackedScene
from engines.demo.training.attention import SceneAttention
from engines.demo.training.learner import Learner
from engines.demo.training.samples import SceneSample, make_sample, patchify

SURVEY = Survey("What covers what?", "The blue box covers part of the red mug.")


@pytest.fixture(scope="module")
def queries() -> list[list[Query]]:
    rng = random.Random(3)
    return [ask(render_scene(seed, longest=200), rng, 4) for seed in (1, 2)]


@pytest.fixture(scope="module")
def tokenizer(queries: list[list[Query]]) -> Tokenizer:
    return train_tokenizer(
        text for some in queries for query in some for text in (query.prompt, query.reasoning)
    )


@pytest.fixture(scope="module")
def learner(tokenizer: Tokenizer) -> Learner:
    torch.manual_seed(0)
    return build_learner(tokenizer).eval()


def _packed(queries: list[list[Query]], tokenizer: Tokenizer) -> tuple[list[SceneSample], list[PackedScene]]:
    packer, rng = AnswerPacker(tokenizer), random.Random(0)
    samples = [make_sample(render_scene(seed, longest=200)) for seed in (1, 2)]
    packed = [
        packer.pack(some, [], [SURVEY], _grid(sample), rng)
        for some, sample in zip(queries, samples, strict=True)
    ]
    return samples, packed


def _grid(sample: SceneSample) -> tuple[int, int]:
    return sample.view.grid[0] // MERGE, sample.view.grid[1] // MERGE


def test_states_equal_those_of_separate_sequences(
    queries: list[list[Query]], tokenizer: Tokenizer, learner: Learner
) -> None:
    samples, packed = _packed(queries, tokenizer)
    with torch.no_grad():
        towers = learner.look(samples)
        states, _ = learner.read(packed, towers.tokens, [sample.view.grid for sample in samples])
    for number, (some, sample, scene) in enumerate(zip(queries, samples, packed, strict=True)):
        offset = number * len(packed[0].ids)
        for query, family in zip(some, scene.families, strict=False):
            alone = _alone(learner, tokenizer, sample, query)
            start = offset + family.start
            ours = states[start : start + len(alone) - scene.prefix]
            assert torch.allclose(ours, alone[scene.prefix :], atol=2e-4)
            assert torch.allclose(states[offset : offset + scene.prefix], alone[: scene.prefix], atol=2e-4)


def _alone(learner: Learner, tokenizer: Tokenizer, sample: SceneSample, query: Query) -> torch.Tensor:
    """transformers' own last hidden states of one prompt with its answer, written out as text."""
    image = "<|image_pad|>" * (sample.view.grid[0] * sample.view.grid[1] // MERGE**2)
    decision = f"<{query.mask_type.upper()}>"
    objects = "<REF_POS>" * len(query.targets) or "<NO_OBJECT>"
    text = (
        f"<|im_start|>user\n<|vision_start|>{image}<|vision_end|>{query.prompt}<|im_end|>\n"
        f"<|im_start|>assistant\n<think>{query.reasoning}</think>{decision}{objects}<|im_end|>"
    )
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])
    with torch.no_grad():
        output = learner.mllm(
            input_ids=ids,
            mm_token_type_ids=torch.eq(ids, token_ids(tokenizer)["<|image_pad|>"]).long(),
            pixel_values=torch.from_numpy(patchify(sample.view.pixels)),
            image_grid_thw=torch.tensor([[1, *sample.view.grid]]),
            output_hidden_states=True,
        )
    states: torch.Tensor = output.hidden_states[-1][0]
    return states


def test_a_recital_asks_for_all_but_the_list(queries: list[list[Query]], tokenizer: Tokenizer) -> None:
    packer = AnswerPacker(tokenizer)
    for query in (query for some in queries for query in some):
        scene = packer.recite([query])
        assert "<|image_pad|>" not in tokenizer.decode(scene.ids.tolist(), skip_special_tokens=False)
        assert (scene.ids[scene.rows + 1] == scene.targets).all()
        asked = tokenizer.decode(scene.targets.tolist(), skip_special_tokens=False)
        account = query.account
        marks = re.findall("wanted|possible|found|,", account.overview)
        assert asked.startswith(account.wanted)
        before = asked.removeprefix(account.wanted).partition(account.finding)[0]
        assert re.findall("wanted|possible|found|,|[.]", before) == marks
        assert account.finding in asked
        assert not account.covering or account.covering not in asked


def test_a_fork_sees_its_prompt_up_to_where_it_leaves_and_no_other(
    queries: list[list[Query]], tokenizer: Tokenizer
) -> None:
    _, packed = _packed(queries, tokenizer)
    scene = packed[0]
    close = tokenizer.token_to_id("</think>")
    forks = 0
    for family in scene.families:
        ids = scene.ids[family.start : family.start + len(family.allowed)]
        closes = np.flatnonzero(ids == close)
        for closed in closes[1:]:
            seen = family.allowed[closed]
            assert seen[: scene.prefix].all()
            own = np.flatnonzero(seen[scene.prefix :])
            left = own[own < closes[0]].max()
            assert (own[: left + 1] == np.arange(left + 1)).all()
            assert len(own) == left + 2
            forks += 1
    assert forks > 0


def test_vectors_stand_at_reference_tokens(queries: list[list[Query]], tokenizer: Tokenizer) -> None:
    _, packed = _packed(queries, tokenizer)
    reference = tokenizer.token_to_id("<REF_POS>")
    for scene in packed:
        assert all(scene.ids[vector.row] == reference for vector in scene.vectors)
        assert len(scene.vectors) == int((scene.ids == reference).sum())


def test_a_drill_trains_its_words_and_asks_for_no_mask(
    queries: list[list[Query]], tokenizer: Tokenizer
) -> None:
    packer, grid = AnswerPacker(tokenizer), _grid(make_sample(render_scene(1, longest=200)))
    for query in queries[0]:
        scene = packer.pack([], [query], [], grid, random.Random(0))
        asked = tokenizer.decode(scene.targets.tolist(), skip_special_tokens=False)
        assert asked.startswith(f"{query.reasoning}</think><{query.mask_type.upper()}>")
        assert scene.vectors == ()


def test_whom_the_account_picks_counts_most() -> None:
    tokenizer = Tokenizer.from_file(str(BUNDLE / "mllm" / "tokenizer.json"))
    account = Account(
        wanted="The visible part of a red thing is wanted.",
        overview="In view: b4 blue vase, c6 red mug wanted.",
        finding="The red mug is at the left.",
        covering="The blue vase covers part of it.",
    )
    drill = Query("the red one", "modal", (0,), account, "attribute")
    packed = AnswerPacker(tokenizer).pack([], [drill], [], (2, 2), random.Random(0))
    told = zip((tokenizer.decode([token]) for token in packed.targets), packed.weights, strict=True)
    colours = [(word.strip(), weight) for word, weight in told if word in (" red", " blue")]
    assert colours == [("red", 1.0), ("blue", 2.0), ("red", 2.0), ("red", 4.0), ("blue", 0.5)]


def test_a_survey_trains_its_account_and_asks_for_no_mask(
    queries: list[list[Query]], tokenizer: Tokenizer
) -> None:
    _, packed = _packed(queries, tokenizer)
    scene = packed[0]
    scored = scene.targets[scene.rows >= scene.families[-1].start]
    assert tokenizer.decode(scored.tolist()) == SURVEY.account
    assert all(vector.row < scene.families[-1].start for vector in scene.vectors)


def test_all_of_the_attention_is_where_the_models_are(
    queries: list[list[Query]], tokenizer: Tokenizer
) -> None:
    """On the `meta` device, which like a GPU computes nothing with what lies elsewhere."""
    _, packed = _packed(queries, tokenizer)
    tokens = sum(len(scene.ids) for scene in packed)
    with torch.device("meta"):
        linear = torch.nn.Linear(16, 16)
        block = SimpleNamespace(head_dim=8, q_proj=linear, k_proj=linear, v_proj=linear, o_proj=linear)
        attention = SceneAttention(packed, torch.ones(tokens, 8), torch.zeros(tokens, 8))
        assert attention(block, torch.ones(tokens, 16)).shape == (tokens, 16)
