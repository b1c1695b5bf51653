"""An imported EGM on real vLLM: one server, boxes as transformers would choose them, SAM's masks of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
import regex  # type: ignore[import-untyped]
import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from engines.bundles.imports.egm import import_egm
from engines.events import DecisionMade, Done, MaskReady, ReasoningDelta
from engines.mllm.boxes import BoxParser
from engines.mllm.wire import Carried, Generation, Prefill
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
IMPOSSIBLE = -9000.0  # vLLM's log-probability of a token that the form forbids is below
NEAR = 0.04  # of log-probabilities: bfloat16 in the language model, on both sides, is all that may differ


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


@dataclass(frozen=True)
class Said:
    """A served answer: its text, its tokens, and for each the log-probabilities of the likeliest at its place."""

    text: str
    tokens: list[int]
    likeliest: list[dict[int, float]]


async def answer(served: Served, number: int, question: str) -> Said:
    """What the server says to a question about a scene, in the form of one box; every token's probability told."""
    form = served.bundle.answer.boxes
    assert form is not None
    image = served.prepare(scene(number), f"sha256:scene-{number}").mllm
    told = {
        "logprobs": True,
        "top_logprobs": 20,
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
    }
    options = {"max_completion_tokens": form.tokens, "structured_outputs": {"regex": form.pattern(1)}, **told}
    request = Generation(Prefill(image, question, served.bundle.answer.closed(REASONING)), options)
    async with httpx.AsyncClient(base_url=served.urls["reason"], timeout=SECONDS) as client:
        carried = Carried.with_each(await image.content.payload())
        response = await client.post(request.path, json=request.body(carried))
    [choice] = response.raise_for_status().json()["choices"]
    places = choice["logprobs"]["content"]
    tops = [{int(top["token"].removeprefix("token_id:")): top["logprob"] for top in place["top_logprobs"]}
            for place in places]  # fmt: skip
    return Said(choice["message"]["content"], choice["token_ids"][: len(tops)], tops)


def expected_logits(served: Served, mllm: PlainMllm, number: int, question: str, said: Said) -> Tensor:
    """What transformers thinks at each of the answer's places: logits (T, vocabulary)."""
    image = served.prepare(scene(number), "plain").mllm
    opened = f"<think>\n{REASONING}</think>\n\n"
    inputs = mllm.inputs(scene(number), (image.width, image.height), question, opened)
    return mllm.logits(mllm.continued(inputs, said.tokens[:-1]))[-len(said.tokens) :]


async def check_logits(served: Served, mllm: PlainMllm) -> None:
    """Place by place and token by token, the served language model is transformers' on the published weights.

    The probabilities that vLLM tells are shared among the tokens that may stand there.
    """
    form = served.bundle.answer.boxes
    assert form is not None
    plain, told, texts = [], 0, mllm.texts()
    pattern = regex.compile(form.pattern(1))
    for number, kind in ((0, "modal"), (1, "modal"), (1, "amodal")):
        question = form.ask(PROMPT, kind)  # type: ignore[arg-type]
        said = await answer(served, number, question)
        expected = expected_logits(served, mllm, number, question, said)
        plain.append(expected[0])
        written = ""
        for token, tops, row in zip(said.tokens, said.likeliest, expected, strict=True):
            if pattern.fullmatch(written):
                break  # and only the end may follow
            allowed = [
                n for n, text in enumerate(texts) if text and pattern.fullmatch(written + text, partial=True)
            ]
            shared = row - row[allowed].logsumexp(0)
            likely = {other: logprob for other, logprob in tops.items() if logprob > IMPOSSIBLE}
            assert set(likely) <= set(allowed)
            assert max(abs(shared[other] - logprob) for other, logprob in likely.items()) <= NEAR
            assert row[allowed].max() - row[token] <= 2 * NEAR, "not the likeliest that may stand there"
            told += len(likely) > 1
            written += texts[token]
        assert written == said.text
        parser = BoxParser(1, form.scale)
        image = served.prepare(scene(number), f"sha256:scene-{number}").mllm
        boxes = await served.mllm.boxes(image, question, REASONING, 1, timeout=SECONDS)
        assert parser.feed(written) == boxes
    assert told > 3 * len(plain), "where only one token may stand, nothing is shown"
    apart = min(float((plain[1] - other).abs().max()) for other in (plain[0], plain[2]))
    assert apart > 3 * NEAR, "neither image nor question makes a difference: nothing was shown"


async def test_logits_are_the_language_models(served: Served, mllm: PlainMllm) -> None:
    await check_logits(served, mllm)


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


async def test_two_processes_think_as_one(
    served: Served, mllm: PlainMllm, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Tensor parallel size 2: half of the heads in each process, and transformers' logits all the same."""
    async with serve(served.bundle, tmp_path_factory.mktemp("parallel"), "torch", processes=2) as parallel:
        await check_logits(parallel, mllm)
