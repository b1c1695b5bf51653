"""An imported ConverSeg-Net on real vLLM: its masks are those of the published arithmetic on the published files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from engines.bundles.imports.converseg import import_converseg
from engines.events import DecisionMade, MaskReady
from engines.request import ONLY_MODAL, SegmentRequest
from engines.vision.masks import decode, finish
from engines.vision.runtimes.base import DecodeItem, Sentence
from tests.engines.bundles.imports.plain import scene
from tests.engines.bundles.imports.published_converseg import (
    ConverSeg,
    build_converseg,
    plain_logits,
    plain_states,
)
from tests.engines.bundles.imports.served import SECONDS, Served, serve

pytestmark = pytest.mark.vllm

PROMPTS = ("the red mug", "whatever is blue, and round", "what somebody could drink from")
CLOSE = 0.05
"""Of the logits' standard deviation: bfloat16 in the language model, on both sides, is all that may differ."""


@pytest.fixture(scope="module")
def model(base: Path, tmp_path_factory: pytest.TempPathFactory) -> ConverSeg:
    return build_converseg(base, tmp_path_factory.mktemp("ConverSeg-Net-3B"))


@pytest.fixture(scope="module")
async def served(model: ConverSeg, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    bundle = import_converseg(
        str(model.folder), str(model.base), folder / "converseg", progress=lambda _: None
    )
    async with serve(bundle, folder, "torch") as running:
        yield running


async def test_masks_are_those_of_the_plain_arithmetic(served: Served, model: ConverSeg) -> None:
    image = served.prepare(scene(1), "sha256:scene-1")
    [embedding] = served.vision.encode([image.vision])
    plain = []
    for prompt in PROMPTS:
        states = await served.mllm.read(image.mllm, prompt, timeout=SECONDS)
        text, end = plain_states(model, served.bundle.mllm_path, scene(1), prompt)
        assert states.text.shape == tuple(text.shape)
        logits, score = plain_logits(model, scene(1), text, end)
        sentence = Sentence(states.text, states.end)
        [decoded] = served.vision.decode([DecodeItem(embedding, None, image.vision.size, sentence=sentence)])
        assert logits.min() < 0 < logits.max()
        assert np.abs(decoded.mask_logits - logits).max() <= CLOSE * logits.std()
        assert decoded.iou == pytest.approx(score, abs=0.02)
        plain.append(logits)
    apart = min(np.abs(plain[i] - plain[i - 1]).max() / plain[i].std() for i in range(len(plain)))
    assert apart > 3 * CLOSE, "what the prompt says makes no difference: nothing was shown"


async def test_a_whole_request_gives_that_mask(served: Served, model: ConverSeg) -> None:
    image = served.prepare(scene(2), "sha256:scene-2")
    events = await served.segment(SegmentRequest(PROMPTS[0]), image)
    [decision] = [event for event in events if isinstance(event, DecisionMade)]
    assert (decision.mask_type, decision.source) == ("modal", "grounder")
    assert decision.warnings == (ONLY_MODAL,)
    [mask] = [event for event in events if isinstance(event, MaskReady)]
    text, end = plain_states(model, served.bundle.mllm_path, scene(2), PROMPTS[0])
    logits, _ = plain_logits(model, scene(2), text, end)
    vision = image.vision
    expected = decode(finish(logits, vision.size, vision.original, corner=vision.corner).rle)
    both, either = decode(mask.rle) & expected, decode(mask.rle) | expected
    assert 0.02 < expected.mean() < 0.98
    assert both.sum() / either.sum() > 0.98
