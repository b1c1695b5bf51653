"""A real vLLM server that guesses writes what one that does not writes, in fewer steps, and tells the same of it."""

from __future__ import annotations

import asyncio
import random

import pytest
from PIL import Image

from engines.demo.language import ask
from engines.demo.scenes import render_scene
from engines.mllm.client import MllmClient
from engines.mllm.image import MllmImage, prepare_image
from engines.mllm.results import ReasoningEnd
from tests.engines.mllm.asking_vllm import SAME, SECONDS, cosine, metric, reason
from tests.vllm_fixture import ServedModel

pytestmark = pytest.mark.vllm

FIRST_SCENE, SCENES, EACH, BUDGET = 21_000_000, 3, 3, 160
COUNTED = ("iteration_tokens_total_count{", "spec_decode_num_accepted_tokens_total{")
"""vLLM's steps, and the tokens that were guessed right."""
Question = tuple[MllmImage, str]


@pytest.fixture(scope="module")
def questions(served_model: ServedModel) -> list[Question]:
    """Several about each image, one image after another."""
    if served_model.bundle is None:
        pytest.skip("no demo bundle: a random model writes nothing twice")
    found = []
    for seed in range(FIRST_SCENE, FIRST_SCENE + SCENES):
        scene = render_scene(seed, longest=320)
        image = prepare_image(Image.fromarray(scene.image), f"sha256:guess-{seed}", served_model.image)
        found += [(image, query.prompt) for query in ask(scene, random.Random(seed), EACH)]
    return found


async def answers(client: MllmClient, questions: list[Question]) -> list[ReasoningEnd]:
    return [(await reason(client, image, BUDGET, prompt))[1] for image, prompt in questions]


async def test_guesses_change_nothing_but_the_number_of_steps(
    served_model: ServedModel, tapped_model: ServedModel, questions: list[Question]
) -> None:
    async with served_model.client() as stock, tapped_model.client() as guessing:
        expected = await answers(stock, questions)
        steps, accepted = [await metric(tapped_model.reason_url, name) for name in COUNTED]
        found = await answers(guessing, questions)
        steps, accepted = (
            await metric(tapped_model.reason_url, COUNTED[0]) - steps,
            await metric(tapped_model.reason_url, COUNTED[1]) - accepted,
        )
        assert [end.text for end in found] == [end.text for end in expected]
        written = sum(end.reasoning_tokens for end in found)
        assert accepted > 0.2 * written
        assert steps < 0.9 * written
        for (image, prompt), end in zip(questions, found, strict=True):
            await tells_the_same(guessing, image, prompt, end)


async def tells_the_same(client: MllmClient, image: MllmImage, prompt: str, end: ReasoningEnd) -> None:
    """The states of what was guessed are those of the same text read."""
    assert end.written is not None
    kind, objects = end.written.mask_type, end.written.objects
    told = await client.conclude(image, prompt, end.text, end.written, [kind], objects, timeout=SECONDS)
    assert told is not None
    read = await client.concentrate(image, prompt, end.text, [kind], max(objects, 1), timeout=SECONDS)
    pairs = zip(told[1].get(kind, []), read[kind], strict=False)
    assert all(cosine(one, other) >= SAME for one, other in pairs)


async def test_decisions_are_asked_for_while_others_guess(
    tapped_model: ServedModel, questions: list[Question]
) -> None:
    """vLLM's own check of guesses fails where another request wants the probabilities of chosen tokens."""
    async with tapped_model.client() as client:
        (image, prompt), *_ = questions
        alone = await client.decide(image, prompt, "", timeout=SECONDS)
        writing = asyncio.gather(*(reason(client, one, BUDGET, text) for one, text in questions * 2))
        decisions = []
        while not writing.done():
            decisions.append(await client.decide(image, prompt, "", timeout=SECONDS))
        ends = [end for _, end in await writing]
    assert len(decisions) > 2
    assert {one.mask_type for one in decisions} == {alone.mask_type}
    assert [one.p_modal for one in decisions] == pytest.approx([alone.p_modal] * len(decisions), abs=0.05)
    assert [one.text for one in ends[: len(questions)]] == [one.text for one in ends[len(questions) :]]


async def test_whoever_leaves_is_guessed_for_no_longer(
    tapped_model: ServedModel, questions: list[Question]
) -> None:
    async with tapped_model.client() as client:
        for image, prompt in questions:
            async for _ in client.reason(image, prompt, BUDGET, timeout=SECONDS):
                break
        async with asyncio.timeout(SECONDS):
            while await metric(tapped_model.reason_url, "num_requests_running{") > 0:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        image, prompt = questions[0]
        _, end = await reason(client, image, BUDGET, prompt)
        assert end.closed


async def test_near_the_longest_sequence_all_is_as_ever(
    served_model: ServedModel, tapped_model: ServedModel, questions: list[Question]
) -> None:
    """A proposer that vLLM thinks of as a model would not be asked any more there."""
    image, prompt = questions[0]
    async with served_model.client() as stock, tapped_model.client() as guessing:
        long, budget = await as_long_as_can_be(stock, image), 6
        _, expected = await reason(stock, image, budget, long)
        asked = await stock.decide(image, prompt, "", timeout=SECONDS)
        writing = asyncio.gather(*(reason(guessing, image, budget, long) for _ in range(8)))
        decisions = []
        while not writing.done():
            decisions.append(await guessing.decide(image, prompt, "", timeout=SECONDS))
        assert {end.text for _, end in await writing} == {expected.text}
        assert {(one.mask_type, one.objects) for one in decisions} == {(asked.mask_type, asked.objects)}


async def as_long_as_can_be(client: MllmClient, image: MllmImage) -> str:
    """A prompt that leaves the model ten tokens or so."""
    one, two = [(await reason(client, image, 1, "mug " * count))[1].prompt_tokens for count in (10, 20)]
    each = (two - one) / 10
    return "mug " * int(10 + (2048 - 10 - one) / each)
