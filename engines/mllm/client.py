"""The language model as the pipeline sees it: reason, decide, warm, concentrate, box or read, on its vLLM servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engines.errors import MllmUnavailable
from engines.events import DecisionSource, MaskType, ReasoningDelta
from engines.mllm.answer import MAX_OBJECTS, AnswerFormat
from engines.mllm.answer_states import AnswerStates
from engines.mllm.boxes import Box, BoxParser
from engines.mllm.concentrator import SecondServer, TappedServer
from engines.mllm.decision import (
    Question,
    ask_count,
    ask_decision,
    ask_words,
    count_objects,
    count_read,
    p_modal,
)
from engines.mllm.grammar import AnswerParser, SpecialTokens
from engines.mllm.image import MllmImage
from engines.mllm.interface import Hear
from engines.mllm.reading import TextReader
from engines.mllm.results import (
    NOTHING_KNOWN,
    Decision,
    KnownStates,
    ReasoningEnd,
    RoleHealth,
    TextStates,
    Written,
)
from engines.mllm.routing.fitness import RoutingLimits
from engines.mllm.routing.role import RoutedRole
from engines.mllm.tap.inbox import StatesInbox
from engines.mllm.tap.told import Told
from engines.mllm.wire import (
    ChatAnswer,
    Generation,
    PositionLogprobs,
    Prefill,
    Reading,
    ReadingAnswer,
    Usage,
)
from engines.mllm.written import DecisionHead, WrittenAnswer
from engines.observers import MllmObserver


class MllmClient:
    """Asks ``reason`` servers to generate, and ``concentrate`` servers or the same one for last-token states.

    `prompt` is the user's text as it came: special tokens in it, and in the `reasoning` handed back in, reach
    the model as plain text. `timeout` is in seconds from the call. Every method raises MllmUnavailable,
    DeadlineExceeded, and InvalidInput for a text that is too long for the model.
    """

    def __init__(
        self,
        answer: AnswerFormat,
        tokens: SpecialTokens,
        reason_urls: tuple[str, ...],
        concentrate_urls: tuple[str, ...] = (),
        *,
        reader: TextReader | None = None,
        head: DecisionHead | None = None,
        inbox: StatesInbox | None = None,
        limits: RoutingLimits | None = None,
        observer: MllmObserver | None = None,
    ) -> None:
        """At least one URL for each role that the model has: boxes need no concentrate server, and one that only
        reads, with `reader` for its tokens, no reason server. With `inbox` the reason server sends its states there,
        and there is no other server. With `head` the model writes its answer behind the reasoning, and the decision's
        probability comes from the state at that place.

        Raises BundleError if the tokenizer lacks a token of the answer.
        """
        for token in (*answer.tokens.required(), *answer.words()):
            tokens.id(token)
        self._answer = answer
        self._tokens = tokens
        self._reader = reader
        self._ending = WrittenAnswer(answer) if head else None
        self._by_role = {
            name: RoutedRole(name, urls, limits, observer)
            for name, urls in (("reason", reason_urls), ("concentrate", concentrate_urls))
            if urls
        }
        self._answer_states: AnswerStates | None = None
        if concentrate_urls:
            second = SecondServer(self._concentrate)
            self._answer_states = AnswerStates(answer, tokens, head, second)
        elif inbox is not None:
            tapped = TappedServer(self._reason, inbox, answer, tokens)
            self._answer_states = AnswerStates(answer, tokens, head, tapped)

    async def __aenter__(self) -> Self:
        for role in self._roles():
            role.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections to the servers."""
        if self._answer_states is not None:
            await self._answer_states.aclose()
        for role in self._roles():
            await role.aclose()

    async def health(self) -> tuple[RoleHealth, ...]:
        """How the servers are, the reason server first; never raises."""
        return tuple(await asyncio.gather(*(role.health() for role in self._roles())))

    async def reason(
        self,
        image: MllmImage,
        prompt: str,
        budget: int,
        *,
        objects: int | None = None,
        hear: Hear | None = None,
        timeout: float,
    ) -> AsyncGenerator[ReasoningDelta | ReasoningEnd]:
        """Stream the reasoning, at most `budget` tokens of it; the last item is a ReasoningEnd.

        A model that ends within them goes on to its answer, if that can be read. `objects` is how many are asked for,
        where that is known. `hear` is told of the answer's vectors where they come before its text. A budget of 0 ends
        at once, without a call. Closing the generator, or cancelling the task that iterates it, aborts the request in
        vLLM.
        """
        if budget == 0:
            yield ReasoningEnd("", prompt_tokens=0, reasoning_tokens=0, closed=True)
            return
        deadline = _deadline(timeout)
        parser = AnswerParser(self._answer.tokens.think_close, self._tokens.ids)
        usage, finished = Usage(), False
        told = self._listen(hear) if self._ending else None
        options = {**self._reasoning_options(budget), **(told.options if told else {})}
        request = Generation(self._prefill(image, prompt, self._answer.opened(), objects), options)
        async with aclosing(self._reason.stream(request, deadline)) as chunks:
            async for chunk in chunks:
                usage, finished = chunk.usage or usage, finished or chunk.finished
                if text := parser.feed(chunk.text):
                    yield ReasoningDelta(text, usage.completion_tokens - parser.tail_tokens)
                if parser.done and not finished and not self._goes_on(parser):
                    break
        if text := parser.finish():
            yield ReasoningDelta(text, usage.completion_tokens)
        written = self._ending.read(parser.tail, told) if self._ending and parser.closed else None
        tokens = usage.completion_tokens - parser.tail_tokens
        yield ReasoningEnd(parser.text, usage.prompt_tokens, tokens, parser.closed, written)

    async def decide(
        self,
        image: MllmImage,
        prompt: str,
        reasoning: str,
        *,
        mask_type: MaskType | None = None,
        objects: int | None = None,
        written: Written | None = None,
        timeout: float,
    ) -> Decision:
        """Which mask and how many objects, after `reasoning`; what the caller names is not asked.

        Nor is what the model has `written` for the very `mask_type` that is named.

        The probabilities are the model's own at that very position. A model without decision tokens is asked for
        one of two words instead. One that does not decide is not to be asked.
        """
        deadline = _deadline(timeout)
        escaped = self._tokens.escape(reasoning)
        usage = Usage()
        source: DecisionSource = "model"
        modal = 1.0 if mask_type == "modal" else 0.0
        known = NOTHING_KNOWN
        if written is not None and written.mask_type == mask_type:
            objects = written.objects if objects is None else objects
            known = await self._states.known(reasoning, written)
        elif mask_type is None and self._answer.tokens.modal is None:
            source = "question"
            modal, asked = await self._ask_words(image, prompt, deadline)
            usage += asked
            mask_type = "modal" if modal >= 0.5 else "amodal"
        elif mask_type is None:
            told = self._listen()
            count = self._answer.counts_at_once and (objects is None or told is not None)
            question = ask_decision(self._answer, escaped, count=count)
            reply = await self._ask(image, prompt, question, deadline, objects, told)
            usage += reply.usage
            modal = p_modal(self._answer.tokens.decisions(), reply.positions[0])
            mask_type = "modal" if modal >= 0.5 else "amodal"
            if count and reply.positions[0].token == self._answer.tokens.decision(mask_type):
                counted = count_objects(self._answer.tokens, reply.positions[1:])
                known = await self._known(reasoning, mask_type, reply.positions[1:], told)
                objects = counted if objects is None else objects
        if objects is None:
            told = self._listen()
            question = ask_count(self._answer, escaped, mask_type)
            reply = await self._ask(image, prompt, question, deadline, told=told)
            usage += reply.usage
            objects = count_objects(self._answer.tokens, reply.positions)
            known = await self._known(reasoning, mask_type, reply.positions, told, closed=False)
        return Decision(
            modal, 1.0 - modal, objects, usage.prompt_tokens, usage.completion_tokens, source, known
        )

    async def warm(
        self, image: MllmImage, prompt: str, *, objects: int | None = None, timeout: float
    ) -> None:
        """Let a concentrate server prefill image and prompt, while the other one is reasoning."""
        prefill = self._prefill(image, prompt, self._answer.opened(), objects)
        await self._states.warm(prefill, _deadline(timeout))

    async def boxes(
        self, image: MllmImage, prompt: str, reasoning: str, objects: int | None, *, timeout: float
    ) -> list[Box]:
        """The boxes with which the model answers after `reasoning`, as shares of the picture's sides.

        A number of objects makes it write as many boxes, and nothing else; None lets it write what it will, of which
        up to MAX_OBJECTS boxes are taken and the rest is not waited for.
        """
        form = self._answer.boxes
        assert form is not None, "a bundle whose answers are boxes says how they are asked for"
        most = objects or MAX_OBJECTS
        parser = BoxParser(most, form.scale)
        text = self._answer.closed(self._tokens.escape(reasoning))
        options: dict[str, object] = {"stream": True, "max_completion_tokens": form.tokens * most}
        if objects is not None:
            options["structured_outputs"] = {"regex": form.pattern(objects)}
        request = Generation(self._prefill(image, prompt, text), options)
        async with aclosing(self._reason.stream(request, _deadline(timeout))) as chunks:
            async for chunk in chunks:
                parser.feed(chunk.text)
                if parser.done:
                    break
        return parser.boxes

    async def read(self, image: MllmImage, prompt: str, *, timeout: float) -> TextStates:
        """The last hidden states of a prompt's tokens, from one prefill. Raises InvalidInput for too long a prompt."""
        assert self._reader is not None, "a bundle whose prompts are read says how"
        user = self._tokens.escape(prompt)
        places = self._reader.places(user, image)
        answer = await self._concentrate.call(Reading(image, user), ReadingAnswer, _deadline(timeout))
        if answer.usage.prompt_tokens != places.length:
            read = answer.usage.prompt_tokens
            raise MllmUnavailable(
                f"the concentrate server read {read} tokens in place of {places.length}: is it this bundle's?"
            )
        states = answer.states()
        return TextStates(states[places.text], states[places.end], places.length)

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
        """Each mask type's concentration vectors, float32 [objects, D], in the objects' order; what is not `known` is
        asked, all at once. `objects` is at least 1.
        """
        go_on = partial(self._prefill, image, prompt, objects=objects)
        return await self._states.vectors(go_on, reasoning, mask_types, objects, known, _deadline(timeout))

    async def conclude(
        self,
        image: MllmImage,
        prompt: str,
        reasoning: str,
        written: Written,
        mask_types: Sequence[MaskType],
        objects: int,
        *,
        timeout: float,
    ) -> tuple[Decision, dict[MaskType, NDArray[np.float32]]] | None:
        """The decision that the model has `written` with its probability, and the vectors it leads to; all in one call.

        The vectors are as `concentrate` gives them, none where `objects` is 0. None where the probability is on the
        other side: at even odds the two servers can round differently.
        """
        go_on = partial(self._prefill, image, prompt, objects=objects)
        deadline = _deadline(timeout)
        return await self._states.conclude(go_on, reasoning, written, mask_types, objects, deadline)

    def _goes_on(self, parser: AnswerParser) -> bool:
        """Whether what follows the reasoning may still become an answer."""
        return self._ending is not None and parser.closed and self._ending.begins(parser.tail)

    def _roles(self) -> tuple[RoutedRole, ...]:
        return tuple(self._by_role.values())

    @property
    def _reason(self) -> RoutedRole:
        return self._by_role["reason"]

    @property
    def _concentrate(self) -> RoutedRole:
        return self._by_role["concentrate"]

    @property
    def concentrates_apart(self) -> bool:
        """Whether a server of its own gives the vectors, which has nothing to do while the other one decides."""
        return self._answer_states is not None and self._answer_states.apart

    @property
    def _states(self) -> AnswerStates:
        assert self._answer_states is not None, "a bundle of this kind has a concentrate server, or an inbox"
        return self._answer_states

    def _listen(self, hear: Hear | None = None) -> Told | None:
        return self._answer_states.listen(hear) if self._answer_states else None

    async def _known(
        self,
        reasoning: str,
        mask_type: MaskType,
        positions: Sequence[PositionLogprobs],
        told: Told | None,
        *,
        closed: bool = True,
    ) -> KnownStates:
        """The states that came with a decision, or with references alone, of what the model wrote at `positions`."""
        if told is None or not positions:
            return NOTHING_KNOWN
        read = Written(mask_type, count_read(self._answer.tokens, positions), told)
        return await self._states.known(reasoning, read, closed=closed)

    def _prefill(self, image: MllmImage, prompt: str, assistant: str, objects: int | None = None) -> Prefill:
        return Prefill(image, self._answer.user_text(self._tokens.escape(prompt), objects), assistant)

    async def _ask_words(self, image: MllmImage, prompt: str, deadline: float) -> tuple[float, Usage]:
        """How probably modal, in a conversation of its own: the model was not trained to say so in its answer."""
        assert self._answer.question is not None
        question = ask_words(self._answer.question)
        user = self._answer.question_text(self._tokens.escape(prompt))
        request = Generation(Prefill(image, user, question.text), question.options(self._tokens))
        reply = await self._reason.call(request, ChatAnswer, deadline)
        return p_modal(self._answer.question.words(), reply.positions[0]), reply.usage

    async def _ask(
        self,
        image: MllmImage,
        prompt: str,
        question: Question,
        deadline: float,
        objects: int | None = None,
        told: Told | None = None,
    ) -> ChatAnswer:
        prefill = self._prefill(image, prompt, question.text, objects)
        options = {**question.options(self._tokens), **(told.options if told else {})}
        request = Generation(prefill, options)
        return await self._reason.call(request, ChatAnswer, deadline)

    def _reasoning_options(self, budget: int) -> dict[str, object]:
        """Any special token that has no place in an answer ends it, so a model cannot run on."""
        close = self._answer.tokens.think_close
        ends = self._tokens.ids.keys() - (self._answer.tokens.within() if self._ending else set())
        return {
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "max_completion_tokens": budget,
            "stop_token_ids": sorted(self._tokens.ids[token] for token in ends),
            "stop": [] if close in self._tokens.ids or self._ending else [close],
            "include_stop_str_in_output": True,
        }


def _deadline(timeout: float) -> float:
    """The event loop's clock at which `timeout` seconds from now are over."""
    return asyncio.get_running_loop().time() + timeout
