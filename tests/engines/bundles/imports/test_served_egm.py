"""An imported EGM on real vLLM: one server, boxes as transformers would choose them, SAM's masks of them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import numpy as np
import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration

from engines.bundles.imports.egm import import_egm
from engines.events import DecisionMade, Done, MaskReady, ReasoningDelta
from engines.mllm.boxes import COORDINATE
from engines.request import SegmentRequest
from engines.vision.masks import decode, finish
from engines.vision.runtimes.base import DecodeItem
from engines.vision.visual_prompt import VisualPrompt
from tests.engines.bundles.imports.plain import PlainMllm, PlainSam, scene
from tests.engines.bundles.imports.published import write_sam
from tests.engines.bundles.imports.served import SECONDS, Served, serve
from tests.tiny_qwen3 import build_tiny_qwen3

pytestmark = pytest.mark.vllm

PROMPT = "the red mug"
REASONING = "It stands behind the box.\n"
CLOSE = 0.05  # of the logits' standard deviation: the served encoder may run in bfloat16
NEAR_TIE = 0.15  # logits: bfloat16 may turn the order of two tokens that are this close


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("served-egm")
    build_tiny_qwen3(folder / "EGM-4B")
    sam = write_sam(PlainSam.source(None), folder / "sam_vit_b.pth")
    bundle = import_egm(
        str(folder / "EGM-4B"), str(sam), folder / "egm", max_pixels=256 * 256, progress=lambda _: None
    )
    async with serve(bundle, folder, "openvino") as running:
        yield running


@pytest.fixture(scope="module")
def mllm(served: Served) -> PlainMllm:
    model = Qwen3VLForConditionalGeneration.from_pretrained(served.bundle.mllm_path, dtype=torch.bfloat16)
    return PlainMllm(model, served.bundle.mllm_path)


async def test_the_boxs_digits_are_the_language_models(served: Served, mllm: PlainMllm) -> None:
    """Token by token, the answer's coordinates are what transformers finds likeliest of all that may stand there."""
    form = served.bundle.answer.boxes
    assert form is not None
    image = served.prepare(scene(0), "sha256:scene-0")
    question = form.ask(PROMPT, "modal")
    [box] = await served.mllm.boxes(image.mllm, question, REASONING, 1, timeout=SECONDS)
    numbers = [round(share * form.scale) for share in box]
    orders = [
        numbers,
        [numbers[i] for i in (2, 1, 0, 3)],
        [numbers[i] for i in (0, 3, 2, 1)],
        numbers[2:] + numbers[:2],
    ]
    opened = f"<think>\n{REASONING}</think>\n\n" + '[{"bbox_2d": ['
    size = (image.mllm.width, image.mllm.height)

    def regret(order: list[int]) -> float:
        """How much likelier than the first digit written another one would have been."""
        logits = mllm.logits(mllm.inputs(scene(0), size, question, opened))[-1]
        digits = {digit: mllm.token(digit) for digit in "0123456789"}
        return float(max(logits[token] for token in digits.values()) - logits[digits[str(order[0])[0]]])

    assert COORDINATE.startswith("(0|")
    assert min(regret(order) for order in orders) <= NEAR_TIE


async def test_masks_of_boxes_are_sams(served: Served) -> None:
    sam = PlainSam(None)
    image = served.prepare(scene(1), "sha256:scene-1")
    [embedding] = served.vision.encode([image.vision])
    height, width = image.vision.original
    shares = [(0.1, 0.2, 0.5, 0.9), (0.3, 0.0, 1.0, 0.6)]
    plain = [sam.box(scene(1), box).numpy() for box in shares]
    pixels = [(x0 * width, y0 * height, x1 * width, y1 * height) for x0, y0, x1, y1 in shares]
    prompts = [VisualPrompt(box).sparse(image.vision.original, image.vision.size) for box in pixels]
    items = [DecodeItem(embedding, None, image.vision.size, prompt) for prompt in prompts]
    for expected, decoded in zip(plain, served.vision.decode(items), strict=True):
        assert np.abs(decoded.mask_logits - expected).max() <= CLOSE * expected.std()
    assert np.abs(plain[0] - plain[1]).max() > 0.2 * plain[0].std()


@pytest.mark.parametrize("mask_type", ["auto", "both"])
async def test_a_whole_request_gives_the_masks_of_the_models_boxes(served: Served, mask_type: str) -> None:
    image = served.prepare(scene(1), "sha256:scene-1")
    request = SegmentRequest(PROMPT, mask_type=mask_type, objects=1, max_reasoning_tokens=8)  # type: ignore[arg-type]
    events = await served.segment(request, image)
    [decision] = [event for event in events if isinstance(event, DecisionMade)]
    assert decision.source == "question"
    said = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    assert said
    assert isinstance(events[-1], Done)
    assert events[-1].usage.reasoning_tokens <= 8
    masks = {event.mask_type: event for event in events if isinstance(event, MaskReady)}
    assert set(masks) == ({decision.mask_type} if mask_type == "auto" else {"modal", "amodal"})
    form = served.bundle.answer.boxes
    assert form is not None
    question = form.ask(PROMPT, decision.mask_type)
    [box] = await served.mllm.boxes(image.mllm, question, said, 1, timeout=SECONDS)
    logits = PlainSam(None).box(scene(1), box).numpy()
    expected = decode(finish(logits, image.vision.size, image.vision.original).rle)
    mask = decode(masks[decision.mask_type].rle)
    assert 0.02 < expected.mean() < 0.98
    assert (mask & expected).sum() / (mask | expected).sum() > 0.98


async def test_what_the_model_says_freely_ends_in_an_answer(served: Served) -> None:
    """A random model says nonsense: no box in it, so no object; the request still ends well."""
    image = served.prepare(scene(0), "sha256:scene-0")
    events = await served.segment(SegmentRequest(PROMPT, reasoning="brief", heatmap=True), image)
    [decision] = [event for event in events if isinstance(event, DecisionMade)]
    masks = [event for event in events if isinstance(event, MaskReady)]
    assert len(masks) == decision.objects
    assert any("heatmap" in warning for warning in decision.warnings)


async def test_two_processes_decide_as_one(
    served: Served, mllm: PlainMllm, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Tensor parallel size 2: half of the heads in each process, and transformers' probabilities all the same."""
    folder = tmp_path_factory.mktemp("parallel")
    image = served.prepare(scene(0), "sha256:scene-0")
    question = served.bundle.answer.question
    assert question is not None
    size = (image.mllm.width, image.mllm.height)
    user = question.user.replace("{prompt}", PROMPT)
    logits = mllm.logits(mllm.inputs(scene(0), size, user, question.lead))[-1]
    gap = float(logits[mllm.token(question.modal)] - logits[mllm.token(question.amodal)])
    async with serve(served.bundle, folder, "torch", processes=2) as parallel:
        both = [
            await server.mllm.decide(image.mllm, PROMPT, "", objects=1, timeout=SECONDS)
            for server in (served, parallel)
        ]
    assert [math.log(one.p_modal / one.p_amodal) for one in both] == pytest.approx([gap, gap], abs=0.3)
