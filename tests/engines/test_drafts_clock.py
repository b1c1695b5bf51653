"""What drafts cost, on a virtual clock: engines whose costs are set, each on a processor of its own or all on one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.batching import MicroBatcher
from engines.deadline import Deadline
from engines.draft_budget import DraftLimits
from engines.embeddings import Embeddings
from engines.events import Done, MaskDrafted, MaskReady, MaskType, ReasoningDelta
from engines.finishing import Finisher
from engines.images import PreparedImage
from engines.mllm.answer import AnswerFormat
from engines.mllm.image import MllmImage
from engines.mllm.interface import Hear
from engines.mllm.results import NOTHING_KNOWN, Decision, KnownStates, ReasoningEnd
from engines.pipeline import Pipeline
from engines.request import MaskChoice, SegmentRequest
from engines.vision.preprocess import Prepared
from engines.vision.runtimes.base import Decoded, DecodeItem, Embedding
from tests.engines.test_pipeline import picture
from tests.jumping_loop import run_jumping
from tests.stand_ins import ScriptedMllm

SENTENCES = 8
SLICE = 0.001  # seconds for which a processor works on one thing before it turns to the next
Given = ParamSpec("Given")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Costs:
    """Seconds: a sentence of reasoning, the prefills of image and prompt and of a reasoning, a decision, a decode."""

    sentence: float = 0.040
    image: float = 0.010
    prefill: float = 0.010
    decide: float = 0.0
    decode: float = 0.004


@dataclass
class Processor:
    """Works a little on everything that waits, in turns."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def work(self, seconds: float) -> None:
        for _ in range(round(seconds / SLICE)):
            async with self.turn:
                await asyncio.sleep(SLICE)


class AtOnce(Executor):
    """Runs what it is given there and then."""

    def submit(
        self, call: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs
    ) -> Future[Result]:
        future: Future[Result] = Future()
        future.set_result(call(*args, **kwargs))
        return future


@dataclass
class CostlyMllm(ScriptedMllm):
    """Takes as long as `costs` say; the image is prefilled once for each request, by whoever comes first."""

    costs: Costs = field(default_factory=Costs)
    reasoner: Processor = field(default_factory=Processor)
    reader: Processor = field(default_factory=Processor)
    reads: list[str] = field(default_factory=list)
    """The reasonings that it has been given to concentrate on."""

    async def reason(
        self,
        image: MllmImage,
        prompt: str,
        budget: int,
        *,
        objects: int | None = None,
        hear: Hear | None = None,
        timeout: float,
    ) -> AsyncGenerator[ReasoningDelta | ReasoningEnd, None]:
        text = ""
        for number in range(SENTENCES):
            await self.reasoner.work(self.costs.sentence)
            text += f"It is number {number}. "
            yield ReasoningDelta(f"It is number {number}. ", 5 * number + 5)
        yield ReasoningEnd(text, 20, 5 * SENTENCES, closed=True)

    async def decide(self, *args: Any, **options: Any) -> Decision:
        await self.reasoner.work(self.costs.decide)
        return await super().decide(*args, **options)

    async def warm(
        self, image: MllmImage, prompt: str, *, objects: int | None = None, timeout: float
    ) -> None:
        await self.reader.work(self.costs.image)

    async def concentrate(
        self,
        image: MllmImage,
        prompt: str,
        reasoning: str,
        mask_types: Sequence[MaskType],
        objects: int,
        *,
        known: KnownStates = NOTHING_KNOWN,
        timeout: float,
    ) -> dict[MaskType, NDArray[np.float32]]:
        self.reads.append(reasoning)
        await self.reader.work(self.costs.prefill if reasoning else self.costs.image)
        return {kind: self._vectors(kind, objects) for kind in mask_types}


@asynccontextmanager
async def opened(mllm: CostlyMllm, vision: Processor, share: float) -> AsyncIterator[Pipeline]:
    async def encode(images: list[Prepared]) -> list[Embedding]:
        return [Embedding(np.zeros((4, 8, 8), np.float32)) for _ in images]

    async def decode(items: list[DecodeItem]) -> list[Decoded]:
        await vision.work(mllm.costs.decode)
        logits = np.ones((32, 32), np.float32)
        return [Decoded(logits, logits, 0.5) for _ in items]

    embeddings, decoder = Embeddings(MicroBatcher(encode), 1_000_000), MicroBatcher(decode)
    yield Pipeline(
        AnswerFormat(),
        mllm,
        embeddings,
        decoder,
        Finisher(AtOnce(), 0.0),
        DraftLimits(share=share),
        clock=asyncio.get_running_loop().time,
    )
    await embeddings.aclose()
    await decoder.aclose()


@dataclass
class Ran:
    """One request: when its mask came, in seconds, which drafts, and what became of them.

    `reads` is how often the language model was to concentrate, for the drafts and for the mask.
    """

    mask: float
    drafts: list[int]
    ious: list[float | None]
    reads: int


async def ran(
    pipeline: Pipeline, mllm: CostlyMllm, drafts: int, max_tokens: int | None, mask_type: MaskChoice
) -> Ran:
    shown, began, mask, drawn = picture(), asyncio.get_running_loop().time(), 0.0, []
    mllm.reads.clear()
    request = SegmentRequest(
        "the mug", mask_type=mask_type, objects=1, drafts=drafts, max_reasoning_tokens=max_tokens
    )

    async def load() -> PreparedImage:
        return shown

    async with aclosing(pipeline.segment(request, load, Deadline.after(60))) as events:
        async for event in events:
            if isinstance(event, MaskDrafted):
                assert not mask
                drawn.append(event.number)
            elif isinstance(event, MaskReady):
                mask = asyncio.get_running_loop().time() - began
            elif isinstance(event, Done):
                return Ran(mask, drawn, [score.iou for score in event.drafts], len(mllm.reads))
    raise AssertionError("a request ends in done")


def asked_in_turn(
    costs: Costs,
    share: float,
    *wanted: int,
    one_processor: bool = False,
    max_tokens: int | None = None,
    mask_type: MaskChoice = "modal",
) -> list[Ran]:
    """What became of requests for so many drafts, one after the other."""

    async def ask() -> list[Ran]:
        one = Processor()
        reader, vision = (one, one) if one_processor else (Processor(), Processor())
        mllm = CostlyMllm(costs=costs, reasoner=one, reader=reader)
        async with opened(mllm, vision, share) as pipeline:
            return [await ran(pipeline, mllm, drafts, max_tokens, mask_type) for drafts in wanted]

    return run_jumping(ask())


def test_the_first_draft_comes_even_where_nothing_is_known_and_nothing_may_be_spent() -> None:
    for share in (0.0, 0.1):
        [first] = asked_in_turn(Costs(), share, 8)
        assert first.drafts == [0]
        assert first.ious == [1.0]


def test_others_come_as_far_as_the_share_goes() -> None:
    """The way is 334 ms long; the first draft is 4 ms of work, each other one 14."""
    for share, affordable in ((0.05, 1), (0.1, 3), (0.14, 4), (1.0, 8)):
        _, later = asked_in_turn(Costs(), share, 0, 8)
        assert later.drafts == list(range(affordable)), share
        assert later.ious == [1.0] * affordable


def test_vectors_that_were_foreseen_cost_a_draft_no_less() -> None:
    """Nobody waits for them, as they are there with the decision; a draft's are none of these."""
    _, later = asked_in_turn(Costs(decide=0.012), 0.12, 0, 8, mask_type="auto")
    assert later.drafts == [0, 1, 2]


def test_where_drafts_are_cheap_all_come() -> None:
    cheap = Costs(sentence=0.400, decode=0.002)
    _, later = asked_in_turn(cheap, 0.1, 0, 8)
    assert later.drafts == list(range(8))


def test_a_reasoning_of_a_length_of_its_own_is_weighed_by_the_time_gone_by() -> None:
    """18 ms of drafts are 5 % of more than the 320 ms that the reasoning takes; 10 % are gone by after 200 ms."""
    for share, drawn in ((0.05, [0]), (0.1, [0, 1])):
        _, later = asked_in_turn(Costs(), share, 0, 8, max_tokens=50)
        assert later.drafts == drawn


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("costs", [Costs(), Costs(sentence=0.150), Costs(prefill=0.004, decode=0.002)])
def test_even_on_one_processor_the_mask_waits_no_longer_than_the_share(costs: Costs, share: float) -> None:
    _, without, drafted = asked_in_turn(costs, share, 0, 0, 8, one_processor=True)
    assert drafted.drafts
    assert without.mask < drafted.mask <= without.mask * (1 + share)


def test_on_processors_of_their_own_drafts_delay_nothing() -> None:
    _, without, drafted = asked_in_turn(Costs(), 1.0, 0, 0, 8)
    assert len(drafted.drafts) == 8
    assert drafted.mask == pytest.approx(without.mask)


def test_a_draft_that_would_meet_the_mask_on_its_way_is_not_begun() -> None:
    """A sentence is shorter than a draft is long: what begins with the last one cannot be there in time."""
    slow = Costs(prefill=0.050)
    _, without, drafted = asked_in_turn(slow, 10.0, 0, 0, 8)
    assert 1 < len(drafted.drafts) < 8
    assert drafted.reads == len(drafted.drafts) + 1, "each draft that was begun has come"
    assert drafted.mask == pytest.approx(without.mask)
