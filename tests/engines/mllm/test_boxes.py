"""Boxes are found in whatever a model writes around them, in however small pieces it comes."""

from __future__ import annotations

import random
import re

import pytest

from engines.mllm.boxes import Box, BoxFormat, BoxParser

ONE = (0.1, 0.2, 0.3, 0.4)
TWO = (0.5, 0.6, 0.7, 0.8)
ANSWERS: list[tuple[str, list[Box]]] = [
    ('{"bbox_2d": [100, 200, 300, 400], "label": "mug"}', [ONE]),
    ('```json\n[\n\t{"bbox_2d": [100, 200, 300, 400], "label": "mug"}\n]\n```', [ONE]),
    ('The mug [the red one] is here: {"bbox_2d": [100.0,200,300,400]}. Done.', [ONE]),
    ('[{"bbox_2d": [100,200,300,400]}, {"bbox_2d": [500, 600, 700, 800]}]', [ONE, TWO]),
    ('{"bbox_2d": [100,200,300,400]}\n{"bbox_2d": [500, 600, 700, 800]}', [ONE, TWO]),  # a line each, no list
    ('[{"bbox_2d": [100,200,300,400]}]\n[{"bbox_2d": [500, 600, 700, 800]}]', [ONE]),  # the list was over
    ('{"bbox_2d": [300, 400, 100, 200]}', [ONE]),  # corners the other way round
    ('{"bbox_2d": [-50, 200, 4000, 400]}', [(0.0, 0.2, 1.0, 0.4)]),
    ('{"bbox_2d": [100, 200, 100, 400]}', []),  # no area
    ('{"bbox_2d": [5, 5, 5, 5]} {"bbox_2d": [100, 200, 300, 400]}', [ONE]),
    ('{"bbox_2d": [1e400, NaN, 3, 4]}', []),
    ('{"bbox_2d": [100, 200, 300]}', []),
    ("I see no such thing.", []),
    ("", []),
    ("[" * 5000 + "[100, 200, 300, 400", []),
]


@pytest.mark.parametrize(("answer", "boxes"), ANSWERS)
@pytest.mark.parametrize("pieces", ["whole", "characters", "random"])
def test_boxes_are_found(answer: str, boxes: list[Box], pieces: str) -> None:
    parser = BoxParser(8)
    found: list[Box] = []
    for piece in split(answer, pieces):
        found += parser.feed(piece)
    assert parser.boxes == boxes
    assert found == boxes


def split(text: str, how: str) -> list[str]:
    if how == "whole":
        return [text]
    if how == "characters":
        return list(text)
    rng = random.Random(1)
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(6))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def test_nobody_waits_for_what_follows_the_last_box() -> None:
    parser = BoxParser(1)
    parser.feed('[{"bbox_2d": [100, 200, 300, 400')
    assert not parser.done
    assert parser.feed("]") == [ONE]
    assert parser.done
    assert parser.feed(', {"bbox_2d": [500, 600, 700, 800]}') == []


def test_an_answer_is_over_when_its_brackets_are_closed() -> None:
    parser = BoxParser(8)
    parser.feed('[{"bbox_2d": [100, 200, 300, 400], "label": "a"}')
    assert not parser.done
    parser.feed("]")
    assert parser.done


@pytest.mark.parametrize("objects", [1, 3])
def test_an_answer_of_the_pattern_is_parsed(objects: int) -> None:
    box = '{"bbox_2d": [0, 200, 1000, 999]}'
    answer = f"[{', '.join([box] * objects)}]"
    assert re.fullmatch(BoxFormat.pattern(objects), answer)
    parser = BoxParser(objects)
    assert len(parser.feed(answer)) == objects
    assert parser.done


def test_a_question_without_the_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match=r"modal must hold \{prompt\} exactly once"):
        BoxFormat(modal="Locate it")
