"""Turns queries on a scene into a packed sequence with its training targets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from engines.demo.language import WANTED, Account, Mark, Query, Survey
from engines.demo.language.facts import SQUARES
from engines.demo.language.straying import stray
from engines.demo.scenes import COLOURS, KINDS
from engines.demo.tokenizer import token_ids
from engines.demo.training.packing import Family, Packed
from engines.events import MaskType

DECISION_WEIGHT = 3.0
TAIL_WEIGHT = 1.5
COVERING_WEIGHT = 0.5
MARK_WEIGHT = 4.0
"""What it counts how each listed thing is marked, or that it is not, and the first word about what was found.

All else follows from these.
"""
NAME_WEIGHT = 2.0
"""What it counts how a listed thing is called; whom the account picks counts as its mark does."""


@dataclass(frozen=True, slots=True)
class VectorTarget:
    """The token at `row` is a `<REF_POS>` that must lead to the mask of `object`."""

    row: int
    object: int
    mask_type: MaskType


@dataclass(frozen=True, slots=True)
class PackedScene:
    """A branching sequence with targets: token `rows` predict `targets` with `weights`."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]  # (3, L)
    prefix: int
    families: tuple[Family, ...]
    rows: NDArray[np.int64]
    targets: NDArray[np.int64]
    weights: NDArray[np.float32]
    vectors: tuple[VectorTarget, ...]
    image_start: int


class AnswerPacker:
    """Packs queries, their answers and the answers' forks; one per process, for its tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        token = token_ids(tokenizer)
        self._image = token["<|image_pad|>"]
        self._before = self._encode("<|im_start|>user\n<|vision_start|>")
        self._after = [token["<|vision_end|>"]]
        self._to_answer = self._encode("<|im_end|>\n<|im_start|>assistant\n<think>")
        self._close, self._end = token["</think>"], token["<|im_end|>"]
        self._decision = {"modal": token["<MODAL>"], "amodal": token["<AMODAL>"]}
        self._reference, self._no_object = token["<REF_POS>"], token["<NO_OBJECT>"]
        wanted = zip(*(self._encode(f"{part} of") for part in WANTED.values()), strict=False)
        ends = (",", ".", *(f" {mark}" for mark in get_args(Mark)))
        self._ends = {ids[0] for end in ends if len(ids := self._encode(end)) == 1}
        """What can follow a listed thing."""
        self._names = {self._encode(f" {name}")[0] for name in (*COLOURS, *KINDS)}
        self._slips = all(
            len(self._encode(f" {square} a")) == len(self._encode(" a")) + 1 for square in SQUARES
        )
        """Whether a square is a token, so that a list with slips is as long as what it should have been."""
        self._verdict = next(place for place, (one, other) in enumerate(wanted) if one != other)

    def pack(
        self,
        queries: Sequence[Query],
        drills: Sequence[Query],
        surveys: Sequence[Survey],
        grid: tuple[int, int],
        rng: random.Random,
    ) -> PackedScene:
        """All queries and surveys of one scene; `grid` is (rows, columns) of image tokens.

        Drills are queries whose words alone count: they lead to no masks.
        """
        packed, scored, vectors = Packed(), _Scored(), list[VectorTarget]()
        packed.add_prefix(self._before, self._image, grid, self._after)
        for query in queries:
            self._branch(packed, scored, vectors, query, rng)
        for drill in drills:
            self._answer(packed, scored, [], drill, rng)
        for survey in surveys:
            self._exercise(packed, scored, survey)
        return self._sealed(packed, scored, vectors)

    def recite(self, queries: Sequence[Query]) -> PackedScene:
        """Queries with no picture: the list of what there is, is given, and all that follows from it is asked.

        With nothing else to look at, the model learns to reason from its list.
        """
        packed, scored = Packed(), _Scored()
        packed.add_prefix(self._before, self._image, (0, 0), self._after)
        for query in queries:
            self._recital(packed, scored, query)
        return self._sealed(packed, scored, [])

    def _sealed(self, packed: Packed, scored: _Scored, vectors: list[VectorTarget]) -> PackedScene:
        return PackedScene(
            ids=np.array(packed.ids),
            positions=np.array(packed.positions).T,
            prefix=packed.prefix,
            families=packed.families(),
            rows=np.array(scored.rows),
            targets=np.array(scored.targets),
            weights=np.array(scored.weights, dtype=np.float32),
            vectors=tuple(vectors),
            image_start=len(self._before),
        )

    def _branch(
        self,
        packed: Packed,
        scored: _Scored,
        vectors: list[VectorTarget],
        query: Query,
        rng: random.Random,
    ) -> None:
        """A query's answer, and others that close its reasoning early or decide otherwise."""
        opened, closed = self._answer(packed, scored, vectors, query, rng)
        other: MaskType = "amodal" if query.mask_type == "modal" else "modal"
        if rng.random() < 0.35:
            self._fork(packed, scored, vectors, query, other, closed - 1)
        if rng.random() < 0.35:
            self._fork(packed, scored, vectors, query, query.mask_type, opened)
        if rng.random() < 0.3:
            self._fork(packed, scored, vectors, query, query.mask_type, rng.randrange(opened, closed))

    def _answer(
        self,
        packed: Packed,
        scored: _Scored,
        vectors: list[VectorTarget],
        query: Query,
        rng: random.Random,
    ) -> tuple[int, int]:
        """The rows of `<think>` and `</think>` in the whole answer to a query."""
        question = self._encode(query.prompt) + self._to_answer
        overview = query.account.overview
        told, meant = stray(overview, rng) if self._slips else (overview, overview)
        reasoning, weights = self._reasoning(replace(query.account, overview=told))
        wanted, _ = self._reasoning(replace(query.account, overview=meant))
        tail = self._tail(query, query.mask_type)
        first = packed.add_family([*question, *reasoning, *tail])
        opened = first + len(question) - 1
        closed = opened + len(reasoning) + 1
        scored.add(opened, [*wanted, self._close], [*weights, 1.0])
        self._score_tail(scored, vectors, query, query.mask_type, closed, tail)
        return opened, closed

    def _reasoning(self, account: Account) -> tuple[list[int], list[float]]:
        """The reasoning's tokens and what each counts."""
        wanted, overview = self._encode(account.wanted), self._following(account.overview)
        finding, covering = self._following(account.finding), self._following(account.covering)
        weights = [1.0] * len(wanted)
        weights[self._verdict] = DECISION_WEIGHT
        weights += [self._listed_weight(token) for token in overview]
        weights += [MARK_WEIGHT, *(MARK_WEIGHT if token in self._names else 1.0 for token in finding[1:])]
        weights += [COVERING_WEIGHT] * len(covering)
        return [*wanted, *overview, *finding, *covering], weights

    def _listed_weight(self, token: int) -> float:
        if token in self._names:
            return NAME_WEIGHT
        return MARK_WEIGHT if token in self._ends else 1.0

    def _recital(self, packed: Packed, scored: _Scored, query: Query) -> None:
        """A prompt and its answer; what only a picture could tell, like the list's end, does not count."""
        question = self._encode(query.prompt) + self._to_answer
        reasoning, weights = self._reasoning(replace(query.account, covering=""))
        begin = len(self._encode(query.account.wanted))
        end = begin + len(self._following(query.account.overview))
        for place in range(begin, end):
            weights[place] *= reasoning[place] in self._ends and place < end - 1
        tail = self._tail(query, query.mask_type)
        first = packed.add_family([*question, *reasoning, *tail])
        opened = first + len(question) - 1
        scored.add(
            opened, [*reasoning, *tail], [*weights, 0.0, DECISION_WEIGHT, *[TAIL_WEIGHT] * (len(tail) - 2)]
        )

    def _exercise(self, packed: Packed, scored: _Scored, survey: Survey) -> None:
        """A survey's question and account; no answer follows."""
        question = self._encode(survey.question) + self._to_answer
        account = self._encode(survey.account)
        first = packed.add_family([*question, *account])
        scored.add(first + len(question) - 1, account, [1.0] * len(account))

    def _fork(
        self,
        packed: Packed,
        scored: _Scored,
        vectors: list[VectorTarget],
        query: Query,
        mask_type: MaskType,
        leaves: int,
    ) -> None:
        """An answer that closes its reasoning after token `leaves`, with the decision `mask_type`."""
        tail = self._tail(query, mask_type)
        closed = packed.add_fork(tail, leaves)
        self._score_tail(scored, vectors, query, mask_type, closed, tail)

    def _tail(self, query: Query, mask_type: MaskType) -> list[int]:
        objects = [self._reference] * len(query.targets) or [self._no_object]
        return [self._close, self._decision[mask_type], *objects, self._end]

    def _score_tail(
        self,
        scored: _Scored,
        vectors: list[VectorTarget],
        query: Query,
        mask_type: MaskType,
        closed: int,
        tail: list[int],
    ) -> None:
        if mask_type == query.mask_type:
            scored.add(closed, tail[1:2], [DECISION_WEIGHT])
        scored.add(closed + 1, tail[2:], [TAIL_WEIGHT] * (len(tail) - 2))
        vectors += [VectorTarget(closed + 2 + i, target, mask_type) for i, target in enumerate(query.targets)]

    def _following(self, sentences: str) -> list[int]:
        return self._encode(f" {sentences}") if sentences else []

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


class _Scored:
    """Rows of the sequence, the tokens they must predict, and how much each counts."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.targets: list[int] = []
        self.weights: list[float] = []

    def add(self, row: int, targets: list[int], weights: list[float]) -> None:
        """From `row` on, each token must predict the next of `targets`; those of weight 0 are left out."""
        for place, (target, weight) in enumerate(zip(targets, weights, strict=True)):
            if weight:
                self.rows.append(row + place)
                self.targets.append(target)
                self.weights.append(weight)
