"""Asks a chat model for one picture's queries until there are enough, and tells of every attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engines.evaluation.datasets.annotated import AnnotatedPicture, Instance
from engines.evaluation.queries.chat import ChatEndpoint, Turn
from engines.evaluation.queries.cleaning import Draft, clean
from engines.evaluation.queries.recipe import PER_TYPE, first_words, further_words
from engines.events import MaskType

ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Attempt:
    """One question to the model: its words, the answer as it came, and what became of it."""

    asked: str
    answered: str
    kept: int
    dropped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """The queries of one picture, and how they came about. `uncovered`: occluded, but meant by no amodal query."""

    drafts: tuple[Draft, ...]
    attempts: tuple[Attempt, ...]
    missing: dict[MaskType, int]
    uncovered: tuple[int, ...]


async def generate(scene: AnnotatedPicture, chat: ChatEndpoint, attempts: int = ATTEMPTS) -> Asked:
    """The queries for one picture: five of each type, with every occluded instance meant by an amodal one.

    A picture where nothing is occluded gets modal queries only.

    Raises:
        ChatFailed: the endpoint gave no answer.
    """
    drafts: list[Draft] = []
    told: list[Attempt] = []
    turns = [Turn("user", first_words(scene))]
    for _ in range(attempts):
        text = await chat.say(scene.picture.data, turns)
        found = clean(text, scene, [draft.query.lower() for draft in drafts])
        drafts += found.kept
        told.append(Attempt(turns[-1].text, text, len(found.kept), tuple(found.dropped)))
        missing, uncovered = _missing(scene, drafts), _uncovered(scene, drafts)
        if not uncovered and not any(missing.values()):
            break
        words = further_words(
            found.dropped, missing["modal"], max(missing["amodal"], int(bool(uncovered))), uncovered
        )
        turns += [Turn("assistant", text), Turn("user", words)]
    chosen = tuple(_choose(drafts, "modal") + _choose(drafts, "amodal"))
    left = tuple(each.id for each in _uncovered(scene, chosen))
    return Asked(chosen, tuple(told), _missing(scene, chosen), left)


def _missing(scene: AnnotatedPicture, drafts: Sequence[Draft]) -> dict[MaskType, int]:
    wanted: dict[MaskType, int] = {"modal": PER_TYPE if scene.instances else 0, "amodal": 0}
    if any(each.occluded for each in scene.instances):
        wanted["amodal"] = PER_TYPE
    return {
        kind: max(0, count - sum(draft.mask_type == kind for draft in drafts))
        for kind, count in wanted.items()
    }


def _uncovered(scene: AnnotatedPicture, drafts: Sequence[Draft]) -> list[Instance]:
    meant = {number for draft in drafts if draft.mask_type == "amodal" for number in draft.targets}
    return [each for each in scene.instances if each.occluded and each.id not in meant]


def _choose(drafts: Sequence[Draft], mask_type: MaskType) -> list[Draft]:
    """Five of a type, those first that mean the most instances which no earlier one means."""
    left, meant = [draft for draft in drafts if draft.mask_type == mask_type], set[int]()
    chosen: list[Draft] = []
    while left and len(chosen) < PER_TYPE:
        best = max(left, key=lambda draft: len(set(draft.targets) - meant))
        left.remove(best)
        chosen.append(best)
        meant.update(best.targets)
    return chosen
