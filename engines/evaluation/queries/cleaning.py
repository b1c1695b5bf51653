"""What of a chat model's answer can be used: malformed, dangling and careless queries go, each with its reason."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from engines.evaluation.datasets.annotated import AnnotatedPicture, Instance
from engines.evaluation.datasets.r2sm import calls, parse_answer
from engines.evaluation.metrics.decisions import TYPES
from engines.events import MaskType

FENCE = re.compile(r"^\s*```(?:json)?\s*(.*?)\s*```\s*$", re.DOTALL)
GIVEN_AWAY = re.compile(r"\binstance\s*(?:id\b|\d)|\bid\s*(?:is\s*)?\d|\bbox\s*\[|\bpixels?\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Draft:
    """A query that can be used, with the ids of the instances that it means."""

    mask_type: MaskType
    query: str
    targets: tuple[int, ...]


@dataclass(slots=True)
class Drafts:
    """What an answer held: queries to use, and why others are not used."""

    kept: list[Draft] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def clean(text: str, scene: AnnotatedPicture, known: Collection[str] = ()) -> Drafts:
    """Read a model's answer. `known` are queries that are there already, in lower case."""
    drafts = Drafts()
    fenced = FENCE.match(text)
    try:
        content = json.loads(fenced.group(1) if fenced else text)
    except ValueError as error:
        drafts.dropped.append(f"the answer is no JSON: {error}")
        return drafts
    seen = set(known)
    for mask_type in TYPES:
        entries = content.get(mask_type) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            drafts.dropped.append(f"the answer has no list {mask_type!r}")
            continue
        for entry in entries:
            draft = _draft(entry, mask_type, scene, seen)
            if isinstance(draft, Draft):
                drafts.kept.append(draft)
                seen.add(draft.query.lower())
            else:
                drafts.dropped.append(draft)
    return drafts


def answer_of(draft: Draft, scene: AnnotatedPicture) -> str:
    """The answer as R2SM writes it."""
    names = {each.id: each.name for each in scene.instances}
    return "; ".join(f"instance id is {number}, class name is {names[number]}" for number in draft.targets)


def _draft(entry: Any, mask_type: MaskType, scene: AnnotatedPicture, seen: Collection[str]) -> Draft | str:
    """The query of an entry, or why it cannot be used."""
    query = entry.get("query") if isinstance(entry, dict) else None
    if not isinstance(query, str) or not query.strip():
        return f"a {mask_type} query has no words"
    query = " ".join(query.split())
    if query.lower() in seen:
        return f"{query!r} is there already"
    if GIVEN_AWAY.search(query):
        return f"{query!r} gives away ids or coordinates"
    return _with_targets(query, entry.get("answer"), mask_type, scene)


def _with_targets(query: str, answer: Any, mask_type: MaskType, scene: AnnotatedPicture) -> Draft | str:
    try:
        named = parse_answer(answer)
    except ValueError as error:
        return f"{query!r}: {error}"
    if not named:
        return f"{query!r} means no instance"
    by_id: dict[int, Instance] = {each.id: each for each in scene.instances}
    for number, name in named:
        if number not in by_id:
            return f"{query!r} means instance {number}, which is not there"
        if name is not None and not calls(name, by_id[number].name):
            return f"{query!r} calls instance {number} {name!r}, it is {by_id[number].name!r}"
    targets = tuple(dict.fromkeys(number for number, _ in named))
    if mask_type == "modal" and not all(by_id[number].modal.any() for number in targets):
        return f"{query!r} is modal, but means something of which nothing can be seen"
    if mask_type == "amodal" and not any(by_id[number].occluded for number in targets):
        return f"{query!r} is amodal, but nothing it means is occluded"
    return Draft(mask_type, query, targets)
