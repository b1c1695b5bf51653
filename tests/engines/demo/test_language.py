"""The demo's queries: balance, width, truth of the reasoning, and targets that are meant and visible."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from engines.demo.language import FORMS, WANTED, MaskType, Query, ask, corpus
from engines.demo.language.carriers import Draft, Subject, mark
from engines.demo.language.lexicon import article, lexicon
from engines.demo.language.phrases import NounPhrase
from engines.demo.language.prompts import compose, request
from engines.demo.scenes import Scene, SceneObject, render_scene

SEEDS = range(3_000_000, 3_000_160)
EACH = 125  # queries to a scene: 20,000 in all

MUG = Subject(NounPhrase("mug"), ("the box",), hidden=True, clear=False)
BEHIND = Subject(NounPhrase("mug", post="behind the box"), ("the box",), hidden=True, clear=False)
BINDINGS = {
    "it": "it", "its": "its", "is": "is", "they": "it", "all_of": "all of", "all_it": "all of it",
    "obstacle": "the box", "np": "the mug",
}  # fmt: skip

COLUMNS = ("left", "", "right")
ROWS = ("top", "", "bottom")


@pytest.fixture(scope="module")
def asked() -> list[tuple[Scene, Query]]:
    rng = random.Random(11)
    scenes = (render_scene(seed, longest=160) for seed in SEEDS)
    return [(scene, query) for scene in scenes for query in ask(scene, rng, EACH)]


def test_half_of_every_form_is_amodal(asked: list[tuple[Scene, Query]]) -> None:
    forms = Counter(query.form for _, query in asked)
    amodal = Counter(query.form for _, query in asked if query.mask_type == "amodal")
    assert set(forms) == set(FORMS)
    assert sum(amodal.values()) / len(asked) == pytest.approx(0.5, abs=0.015)
    for form in FORMS:
        assert amodal[form] / forms[form] == pytest.approx(0.5, abs=0.05), form
        assert forms[form] / len(asked) > 0.08, form


def test_a_tenth_of_the_queries_ask_for_what_is_not_there(asked: list[tuple[Scene, Query]]) -> None:
    absent = [query for _, query in asked if not query.targets]
    assert 0.09 < len(absent) / len(asked) < 0.14
    assert all(query.form == "absent" for query in absent)
    assert all(query.targets for _, query in asked if query.form != "absent")


def test_targets_are_few_visible_and_sorted_from_left_to_right(asked: list[tuple[Scene, Query]]) -> None:
    counts = Counter(len(query.targets) for _, query in asked)
    assert set(counts) == {0, 1, 2, 3}
    for scene, query in asked:
        targets = [scene.objects[index] for index in query.targets]
        assert len(set(query.targets)) == len(query.targets)
        squares = [squared(t)[:2] for t in targets]
        assert squares == sorted(squares)
        for target in targets:
            assert target.modal.sum() >= 0.25 * target.amodal.sum()
            assert target.modal.mean() >= 0.004


def test_every_text_is_plain_ascii_without_special_tokens(asked: list[tuple[Scene, Query]]) -> None:
    for _, query in asked:
        for text in (query.prompt, query.reasoning):
            assert text.isascii()
            assert not set("<>|{}[]\n\t") & set(text), text
            assert "  " not in text
        assert 3 <= len(query.prompt) <= 500
        assert 6 <= len(query.reasoning.split()) <= 104


def test_reasoning_is_short_on_the_whole_and_its_vocabulary_is_small(
    asked: list[tuple[Scene, Query]],
) -> None:
    lengths = [len(query.reasoning.split()) for _, query in asked]
    assert np.mean(lengths) < 50
    assert np.quantile(lengths, 0.95) < 72
    words = {w for _, q in asked if q.targets for w in re.findall(r"[a-z]+", q.reasoning.lower())}
    assert len(words) < 130


def test_prompts_are_wide(asked: list[tuple[Scene, Query]]) -> None:
    assert len({query.prompt for _, query in asked}) > 0.97 * len(asked)
    rng = random.Random(5)
    types: tuple[MaskType, MaskType] = ("modal", "amodal")
    skeletons = {letters(compose(MUG, types[turn % 2], rng)) for turn in range(20_000)}
    assert len(skeletons) > 14_000


@pytest.mark.parametrize(("mask_type", "least"), [("amodal", 3_000), ("modal", 1_500)])
def test_markers_are_many(mask_type: MaskType, least: int) -> None:
    rng = random.Random(6)
    drafts = [mark(MUG, mask_type, rng, BINDINGS) for _ in range(10_000)]
    markers = {getattr(draft, field) for draft in drafts for field in Draft.__slots__} - {""}
    assert len(markers) > least


@pytest.mark.parametrize("subject", [MUG, BEHIND])
def test_no_words_ask_for_both(subject: Subject) -> None:
    rng = random.Random(7)
    modal = {letters(compose(subject, "modal", rng)) for _ in range(15_000)}
    amodal = {letters(compose(subject, "amodal", rng)) for _ in range(15_000)}
    assert not modal & amodal


def test_half_of_the_modal_prompts_say_nothing_and_every_amodal_one_says_something() -> None:
    rng = random.Random(8)
    silent = sum(mark(MUG, "modal", rng, BINDINGS) == Draft() for _ in range(4_000))
    assert 0.42 < silent / 4_000 < 0.54
    assert all(mark(MUG, "amodal", rng, BINDINGS) != Draft() for _ in range(4_000))


@pytest.mark.parametrize("field", ["head", "tail", "adjective", "clause", "verb", "trail", "front"])
@pytest.mark.parametrize("pair", [None, "trail", "clause"])
def test_every_frame_says_the_markers(field: str, pair: str | None) -> None:
    """A frame that has no room for a marker must give way to one that has."""
    subject = Subject(NounPhrase("mug"), (), hidden=True, clear=False)
    marked = {field: "zyx"} | ({pair: "wvu"} if pair else {})
    for seed in range(400):
        text = request(Draft(**marked), subject, BINDINGS, random.Random(seed))
        for marker in marked.values():
            assert marker in text


def test_all_of_them_is_never_a_wish_for_complete_shapes() -> None:
    """Of several things it may mean no more than each of them."""
    mugs = Subject(NounPhrase("mugs", det="both", plural=True, bare=True), (), hidden=True, clear=False)
    prompts = [compose(mugs, "amodal", random.Random(seed)) for seed in range(4_000)]
    assert not [prompt for prompt in prompts if "all of them" in prompt or "all of both" in prompt]


def test_the_same_seed_gives_the_same_queries() -> None:
    scene = render_scene(3_000_500, longest=160)
    assert ask(scene, random.Random(1), 40) == ask(scene, random.Random(1), 40)
    assert ask(scene, random.Random(1), 40) != ask(scene, random.Random(2), 40)


def test_corpus_alternates_prompts_and_reasonings() -> None:
    scenes = [render_scene(seed, longest=160) for seed in range(3_000_600, 3_000_603)]
    texts = list(corpus(scenes, random.Random(3), each=4))
    assert len(texts) == 24
    assert all(text.startswith(tuple(WANTED.values())) for text in texts[1::2])
    assert not any(" is wanted. " in text for text in texts[0::2])


def test_a_thousand_queries_take_less_than_a_second() -> None:
    scenes = [render_scene(seed, longest=448) for seed in range(3_000_700, 3_000_710)]
    rng = random.Random(4)
    begin = time.process_time()
    for scene in scenes:
        ask(scene, rng, 100)
    assert time.process_time() - begin < 1.0


@pytest.mark.parametrize("mask_type", ["modal", "amodal"])
def test_what_is_counted_has_no_clause_about_hiding(mask_type: MaskType) -> None:
    """Of "the second mug from the left that nothing covers" the first might be covered."""
    counted = Subject(
        NounPhrase("second mug", post="from the left", counted=True), (), hidden=True, clear=True
    )
    assert not any(mark(counted, mask_type, random.Random(seed), BINDINGS).clause for seed in range(300))


def test_absent_things_are_absent(asked: list[tuple[Scene, Query]]) -> None:
    for scene, query in asked:
        if query.targets:
            continue
        assert not re.search("wanted|possible|found", query.account.overview)
        kinds = {thing.kind for thing in scene.objects}
        colour = re.search(r"There is no (\w+) (?!here)(\w+): the \w+ (?:is|are) ([^.]+)\.", query.reasoning)
        if colour:
            assert colour[2] in kinds
            assert (colour[1], colour[2]) not in {(t.colour, t.kind) for t in scene.objects}
            assert set(re.split(", | and ", colour[3])) == {
                t.colour for t in scene.objects if t.kind == colour[2]
            }
        else:
            nouns = re.findall(r"no ([a-z ]+?)(?: and| here)", query.reasoning)
            assert nouns
            assert not kinds & set(nouns)


def test_reasoning_is_true_of_the_scene(asked: list[tuple[Scene, Query]]) -> None:
    for scene, query in asked:
        if not query.targets:
            continue
        targets = [scene.objects[index] for index in query.targets]
        for target in targets:
            assert f"the {target.colour} {target.kind}" in query.reasoning.lower()
        sentences = re.findall(r"[^.]+\.", query.reasoning)
        assert sentences[0].startswith(WANTED[query.mask_type])
        for before, sentence in pairwise(sentences):
            check(sentence.strip(), before.strip(), scene.objects, targets)


def letters(text: str) -> str:
    return re.sub(r"[^a-z ]", "", text.lower())


# ---- the checker: reads each sentence of the reasoning and looks at the masks ---------------------------


def check(sentence: str, before: str, things: Sequence[SceneObject], targets: list[SceneObject]) -> None:
    """Raises AssertionError for a sentence that is false, or that is none of the known ones."""
    match = re.fullmatch(RELATED, sentence)
    if match:
        assert related(match, before, things, targets), f"{sentence!r} is false"
        return
    for pattern, verify in CHECKS:
        match = re.fullmatch(pattern, sentence)
        if match:
            assert verify(match, things, targets), f"{sentence!r} is false"
            return
    purposes = lexicon().purposes
    served = [
        p.why.format(a=article(t.kind).capitalize()) for t in targets for p in purposes if t.kind in p.kinds
    ]
    assert sentence in served, f"{sentence!r} is no sentence of the grammar"


def field(thing: SceneObject) -> str:
    ys, xs = np.nonzero(thing.amodal)
    height, width = thing.amodal.shape
    row, column = int((ys.mean() + 0.5) / height * 3), int((xs.mean() + 0.5) / width * 3)
    return f"{ROWS[row]} {COLUMNS[column]}".strip() or "centre"


def called(things: Sequence[SceneObject], name: str) -> list[SceneObject]:
    return [t for t in things if f"{t.colour} {t.kind}" == name]


def stands(match: re.Match[str], things: Sequence[SceneObject], targets: list[SceneObject]) -> bool:
    return any(field(t) == match["cell"] for t in called(things, match["name"]))


def stands_twice(match: re.Match[str], things: Sequence[SceneObject], targets: list[SceneObject]) -> bool:
    return len(called(things, match["name"])) > 1 and stands(match, things, targets)


def related(
    match: re.Match[str], before: str, things: Sequence[SceneObject], targets: list[SceneObject]
) -> bool:
    (target,) = targets
    (anchor,) = called(things, " ".join(before.split()[1:3]))
    true = holds(match["relation"], target, anchor, things)
    return true and match["name"] == f"{target.colour} {target.kind}" and field(target) == match["cell"]


def holds(relation: str, thing: SceneObject, anchor: SceneObject, things: Sequence[SceneObject]) -> bool:
    (x, y), (u, v) = thing.centre, anchor.centre
    if relation == "behind":
        return bool((thing.amodal & anchor.modal).any())
    if relation == "in front of":
        return bool((anchor.amodal & thing.modal).any())
    if relation == "next to":
        same = [t for t in things if t is not anchor and t.kind == thing.kind]
        rivals = [t for t in same if t.colour == thing.colour]
        nearest = any(min(g, key=lambda t: apart(t, anchor)) is thing for g in (same, rivals))
        return nearest and apart(thing, anchor) <= 0.3 * max(thing.amodal.shape)
    return {"to the left of": x < u, "to the right of": x > u, "above": y < v, "below": y > v}[relation]


def apart(one: SceneObject, other: SceneObject) -> float:
    height, width = one.amodal.shape
    return float(
        np.hypot((one.centre[0] - other.centre[0]) * width, (one.centre[1] - other.centre[1]) * height)
    )


def counted(match: re.Match[str], things: Sequence[SceneObject], targets: list[SceneObject]) -> bool:
    number = {"two": 2, "three": 3}[match["number"]]
    entries = re.split(r", | and ", match["list"])
    assert len(entries) == number
    seen = {(t.colour, t.kind, field(t)) for t in things}
    noun = match["noun"]
    if noun == "objects":
        described = {f"{article(f'{c} {k}')} at the {cell}" for c, k, cell in seen}
        return len(things) == number and set(entries) <= described
    if noun.endswith(" objects"):
        members = [s for s in seen if s[0] == noun.removesuffix(" objects")]
        count = sum(t.colour == noun.removesuffix(" objects") for t in things)
        return count == number and set(entries) == {f"{article(k)} at the {cell}" for _, k, cell in members}
    members = [s for s in seen if lexicon().plural(s[1]) == noun]
    if not members:  # colour and kind
        return False
    count = sum(lexicon().plural(t.kind) == noun for t in things)
    return count == number and set(entries) == {f"{c} at the {cell}" for c, _, cell in members}


def is_target(match: re.Match[str], things: Sequence[SceneObject], targets: list[SceneObject]) -> bool:
    (target,) = targets
    groups = match.groupdict()
    placed = groups.get("cell") in (None, field(target))
    return placed and f"{target.colour} {target.kind}" == match["name"]


def is_ranked(match: re.Match[str], things: Sequence[SceneObject], targets: list[SceneObject]) -> bool:
    """Whether the target has that rank among all things, or among those of its kind, of its colour or of both."""
    (target,) = targets
    words = match.groupdict()
    side = words.get("side") or MOST[words["most"]]
    rank = {"second": 1, "third": 2}.get(words.get("rank") or "", 0)
    axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[side]
    kind = [t for t in things if t.kind == target.kind]
    colour = [t for t in things if t.colour == target.colour]
    groups = (list(things), kind, colour, [t for t in kind if t.colour == target.colour])
    orders = [sorted(group, key=lambda t: sign * t.centre[axis]) for group in groups if len(group) > 1]
    right = any(len(order) > rank and order[rank] is target for order in orders)
    return right and is_target(match, things, targets)


def is_in_row(match: re.Match[str], things: Sequence[SceneObject], targets: list[SceneObject]) -> bool:
    axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[match["side"]]
    told = [*(part.removeprefix("the ") for part in match["rest"].split(", ")), match["name"]]
    order = sorted(things, key=lambda t: sign * t.centre[axis])
    names = [f"{t.colour} {t.kind}" for t in order]
    colours = [n for n in names if n.split()[0] == told[0].split()[0]]
    kinds = [n for n in names if n.split()[1] == told[0].split()[1]]
    in_row = any(row[: len(told)] == told for row in (names, colours, kinds))
    return in_row and is_target(match, things, targets)


def lists_what_shows(match: re.Match[str], things: Sequence[SceneObject], targets: list[SceneObject]) -> bool:
    """All targets are named and marked, nothing else than what stands there, and in the order of the squares."""
    items = [item.split(" ") for item in match["names"].split(", ")]
    told, marks = [" ".join(item[:3]) for item in items], [" ".join(item[3:]) for item in items]
    there = iter(sorted((squared(thing) for thing in things), key=lambda item: item[:2]))
    clear = [t for t in things if t.hidden < 0.03 and t.modal.mean() >= 0.004]
    right = all(item in there for item in told) and {squared(t) for t in [*targets, *clear]} <= set(told)
    return right and are_marked(targets, told, marks)


def are_marked(targets: list[SceneObject], told: list[str], marks: list[str]) -> bool:
    """All targets are wanted and nothing else is; or they are among the possible things, if any are."""
    meant = {squared(t) for t in targets}
    wanted, possible, found = (
        {item for item, mark in zip(told, marks, strict=True) if mark == word}
        for word in ("wanted", "possible", "found")
    )
    known = set(marks) <= {"wanted", "possible", "found", ""}
    return known and (wanted == meant and not found if wanted else not possible or meant <= possible)


def squared(thing: SceneObject) -> str:
    """ "c4 red mug": the field of an 8x8 grid, and the name."""
    ys, xs = np.nonzero(thing.modal if thing.modal.any() else thing.amodal)
    column, row = ((xs.mean() + 0.5) / thing.modal.shape[1], (ys.mean() + 0.5) / thing.modal.shape[0])
    return f"{'abcdefgh'[int(column * 8)]}{int(row * 8) + 1} {thing.colour} {thing.kind}"


def covers(match: re.Match[str], things: Sequence[SceneObject], targets: list[SceneObject]) -> bool:
    covered = targets if match["covered"] == "it" else called(targets, match["covered"].removeprefix("the "))
    names = [re.sub("^(the|an?|another) ", "", n) for n in match["coverers"].lower().split(" and ")]
    pairs = [(t, c) for t in covered if t.hidden >= 0.03 for name in names for c in called(things, name)]
    return all(any((t.amodal & c.modal).any() for t, c in pairs if c in called(things, n)) for n in names)


def nothing_covers(match: re.Match[str], things: Sequence[SceneObject], targets: list[SceneObject]) -> bool:
    visible = [(t.amodal & t.modal).sum() / t.amodal.sum() for t in targets]
    return min(visible) > 0.97 - 1e-9 and (match["them"] == "them") == (len(targets) > 1)


CELL = r"(?P<cell>(?:top|bottom)(?: left| right)?|left|right|centre)"
SIDE = r"(?P<side>left|right|top|bottom)"
MOST = {"leftmost": "left", "rightmost": "right", "highest": "top", "lowest": "bottom"}
NAME = r"(?P<name>[a-z]+ [a-z]+)"
RELATED = (
    rf"The {NAME} is (?P<relation>behind|in front of|to the left of|to the right of|above|below|next to) it, "
    rf"at the {CELL}\."
)
CHECKS = (
    (rf"The one at the {CELL} is the {NAME}\.", is_target),
    (rf"The (?P<most>leftmost|rightmost|highest|lowest) is the {NAME}(?:, at the {CELL})?\.", is_ranked),
    (rf"The (?P<rank>second|third) from the {SIDE} is the {NAME}\.", is_ranked),
    (r"In view: (?P<names>.+)\.", lists_what_shows),
    (rf"From the {SIDE}: (?P<rest>.*), then the {NAME}, at the {CELL}\.", is_in_row),
    (rf"The {NAME} is at the {CELL}\.", stands),
    (rf"Another {NAME} is at the {CELL}\.", stands_twice),
    (r"There are (?P<number>two|three) (?P<noun>[a-z ]+): (?P<list>.+)\.", counted),
    (r"(?P<coverers>.+) covers? part of (?P<covered>it|the [a-z]+ [a-z]+)\.", covers),
    (r"Nothing covers (?P<them>it|them)\.", nothing_covers),
)
