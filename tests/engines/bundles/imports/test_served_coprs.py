"""An imported CoPRS on real vLLM: its masks are those of its paper's arithmetic on the published tensors."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from engines.bundles.imports.coprs import import_coprs
from engines.events import DecisionMade, MaskReady
from engines.mllm.grammar import SpecialTokens
from engines.pipeline import NO_AMODAL
from engines.request import SegmentRequest
from engines.vision.masks import decode, finish
from engines.vision.runtimes.base import DecodeItem
from tests.engines.bundles.imports.plain import PlainMllm, PlainSam, scene
from tests.engines.bundles.imports.served import SECONDS, Served, serve

pytestmark = pytest.mark.vllm

PROMPTS = ("the red mug", "the complete shape of the blue bottle, the covered part included")
REASONING = "The red mug stands behind the box; the box covers its handle."
CLOSE = 0.05
"""Of the logits' standard deviation: bfloat16 in the language model, on both sides, is all that may differ."""
NEAR = 0.05
"""Of a difference of logits, for the same reason."""


@pytest.fixture(scope="module")
async def served(
    shards: Path, base: Path, sam_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    bundle = import_coprs(shards, str(base), str(sam_file), folder / "coprs", progress=lambda _: None)
    async with serve(bundle, folder, "torch") as running:
        yield running


@pytest.fixture(scope="module")
def mllm(served: Served, trained: dict[str, Tensor], base: Path) -> PlainMllm:
    """The trained language model, from the state that was published, not from the bundle."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(model.get_input_embeddings().num_embeddings + 1, mean_resizing=False)
    model.load_state_dict({n.removeprefix("llm."): v for n, v in trained.items() if n.startswith("llm.")})
    return PlainMllm(model.to(torch.bfloat16), served.bundle.mllm_path)


@pytest.fixture(scope="module")
def sam(base: Path) -> PlainSam:
    return PlainSam(128)


def user_text(prompt: str) -> str:
    """The prompt of CoPRS's data set, line by line."""
    return "\n".join(
        (
            f" Please find '{prompt}' in the image.",
            "Compare the difference between objects and find the most closely matched one.",
            "Output the thinking process in <think> </think>.",
            "Then generate one reference position token: <REF_POS>",
            "This special token will be used to predict a segmentation mask.",
            "Format:",
            "<think> your reasoning here </think>",
            "Here is the reference position: <REF_POS>",
        )
    )


def plain_logits(served: Served, mllm: PlainMllm, sam: PlainSam, number: int, prompt: str) -> Tensor:
    """Everything by transformers and torch: the state at the last <REF_POS>, the heatmap, the mask."""
    image = served.prepare(scene(number), "plain")
    size = (image.mllm.width, image.mllm.height)
    assistant = f"<think>{REASONING}</think>\nHere is the reference position: <REF_POS>"
    inputs = mllm.inputs(scene(number), size, user_text(prompt), assistant)
    token = SpecialTokens.load(served.bundle.mllm_path).id("<REF_POS>")
    [*_, last] = (inputs["input_ids"][0] == token).nonzero().flatten().tolist()
    return sam.coprs(scene(number), mllm.states(inputs)[last])


async def served_logits(served: Served, number: int, prompt: str) -> NDArray[np.float32]:
    image = served.prepare(scene(number), f"sha256:scene-{number}")
    vectors = await served.mllm.concentrate(image.mllm, prompt, REASONING, ["modal"], 1, timeout=SECONDS)
    [embedding] = served.vision.encode([image.vision])
    [decoded] = served.vision.decode([DecodeItem(embedding, vectors["modal"][0], image.vision.size)])
    return decoded.mask_logits


async def test_masks_are_those_of_the_papers_arithmetic(
    served: Served, mllm: PlainMllm, sam: PlainSam
) -> None:
    cases = [(number, prompt) for number in range(2) for prompt in PROMPTS]
    plain = [plain_logits(served, mllm, sam, *case).numpy() for case in cases]
    ours = [await served_logits(served, *case) for case in cases]
    for expected, logits in zip(plain, ours, strict=True):
        assert expected.min() < 0 < expected.max()
        assert np.abs(logits - expected).max() <= CLOSE * expected.std()
    apart = [np.abs(plain[i] - plain[j]).max() / plain[i].std() for i, j in ((0, 1), (2, 3))]
    assert min(apart) > 3 * CLOSE, "what the prompt says makes no difference: nothing was shown"


async def test_the_decision_is_the_language_models_choice_of_a_word(served: Served, mllm: PlainMllm) -> None:
    question = served.bundle.answer.question
    assert question is not None
    tokens = SpecialTokens.load(served.bundle.mllm_path, question.words())
    gaps = []
    for number, prompt in ((0, PROMPTS[0]), (1, PROMPTS[1]), (1, "what somebody could drink from")):
        image = served.prepare(scene(number), f"sha256:scene-{number}")
        decision = await served.mllm.decide(image.mllm, prompt, REASONING, objects=1, timeout=SECONDS)
        assert decision.source == "question"
        size = (image.mllm.width, image.mllm.height)
        inputs = mllm.inputs(scene(number), size, question.user.replace("{prompt}", prompt), question.lead)
        logits = mllm.logits(inputs)[-1]
        gaps.append(float(logits[tokens.id(question.modal)] - logits[tokens.id(question.amodal)]))
        assert math.log(decision.p_modal / decision.p_amodal) == pytest.approx(gaps[-1], abs=NEAR)
    assert max(gaps) - min(gaps) > 3 * NEAR, "what the prompt says makes no difference: nothing was shown"


async def test_a_whole_request_gives_that_mask(served: Served, mllm: PlainMllm, sam: PlainSam) -> None:
    image = served.prepare(scene(1), "sha256:scene-1")
    request = SegmentRequest(PROMPTS[0], objects=1, reasoning="none")
    events = await served.segment(request, image)
    [decision] = [event for event in events if isinstance(event, DecisionMade)]
    assert decision.source == "question"
    assert decision.warnings == ((NO_AMODAL,) if decision.mask_type == "amodal" else ())
    [mask] = [event for event in events if isinstance(event, MaskReady)]
    size = (image.mllm.width, image.mllm.height)
    assistant = "<think></think>\nHere is the reference position: <REF_POS>"
    states = mllm.states(mllm.inputs(scene(1), size, user_text(PROMPTS[0]), assistant))
    logits = sam.coprs(scene(1), states[-1]).numpy()
    expected = decode(finish(logits, image.vision.size, image.vision.original).rle)
    both, either = decode(mask.rle) & expected, decode(mask.rle) | expected
    assert 0.02 < expected.mean() < 0.98
    assert both.sum() / either.sum() > 0.98
