"""What a decision will probably lead to, made while the decision is still asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from engines.errors import MllmUnavailable
from engines.events import MaskType
from engines.finishing import DecodedMask
from engines.mllm.interface import Vectors
from engines.mllm.results import Written
from engines.request import SegmentRequest


@dataclass(frozen=True, slots=True)
class Guess:
    """Which mask types will be wanted, of how many objects; of none where nothing is foreseen."""

    types: tuple[MaskType, ...] = ()
    objects: int = 0

    def covers(self, types: Sequence[MaskType], objects: int) -> bool:
        """Whether these are among what was guessed."""
        return objects == self.objects and set(types) <= set(self.types)


def guess(request: SegmentRequest, written: Written | None, *, idle: bool) -> Guess:
    """By a model with decision tokens: what it has written says it.

    Before it decides it is either type, of the one object that most prompts mean; but only where engines are `idle`: in
    company the half that is made in vain would be in others' way.
    """
    if request.forced_type is not None:
        return Guess()
    if written is not None:
        objects = request.objects or written.objects
        return Guess(request.types(written.mask_type), objects if written.objects else 0)
    return Guess(("modal", "amodal"), request.likely_objects) if idle else Guess()


@dataclass(frozen=True, slots=True)
class Foresight:
    """What is being made of a guess; the vectors are None where the server could not give them."""

    guess: Guess
    vectors: asyncio.Task[dict[MaskType, Vectors] | None]
    decoded: asyncio.Task[list[DecodedMask]]

    @classmethod
    def begin(
        cls,
        group: asyncio.TaskGroup,
        guessed: Guess,
        concentrate: Callable[[Guess], Awaitable[dict[MaskType, Vectors]]],
        decode: Callable[[dict[MaskType, Vectors]], Awaitable[list[DecodedMask]]],
    ) -> Foresight:
        """Ask for what was guessed, and decode it."""

        async def vectors() -> dict[MaskType, Vectors] | None:
            try:
                return await concentrate(guessed) if guessed.objects else None
            except MllmUnavailable:
                return None  # they are asked for again, once the decision is known

        async def decoded() -> list[DecodedMask]:
            found = await asyncio.shield(concentrating)
            return await decode(found) if found else []

        concentrating = group.create_task(vectors())
        return cls(guessed, concentrating, group.create_task(decoded()))

    async def vectors_of(self, types: Sequence[MaskType], objects: int) -> dict[MaskType, Vectors] | None:
        """Their vectors; None if something else was guessed, which is given up."""
        if not self.guess.covers(types, objects):
            self.cancel()
            return None
        vectors = await self.vectors
        return vectors and {mask_type: vectors[mask_type] for mask_type in types}

    async def decoded_of(self, types: Sequence[MaskType]) -> list[DecodedMask]:
        """What was decoded of the vectors that were foreseen."""
        return [one for one in await self.decoded if one.mask_type in types]

    def cancel(self) -> None:
        """Nothing of it is wanted."""
        self.vectors.cancel()
        self.decoded.cancel()
