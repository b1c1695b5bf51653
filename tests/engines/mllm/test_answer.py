"""The answer's format: texts built from the templates, budgets, and what a bundle may not ask for."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from engines.mllm.answer import AnswerFormat, AnswerTokens, SeveralObjects

DEMO = AnswerFormat()
COPRS = AnswerFormat(
    tokens=AnswerTokens(modal=None, amodal=None, no_object=None),
    user="Please find '{prompt}' in the image. Generate one token: <REF_POS>",
    opening="<think> ",
    closing=" </think>",
    reference_tail="\nHere is the reference position: {references}",
)


def test_the_demos_texts() -> None:
    assert DEMO.user_text("the {prompt} mug") == "the {prompt} mug"
    assert DEMO.opened() == "<think>"
    assert DEMO.closed("a mug") == "<think>a mug</think>"
    assert DEMO.with_decision("", "modal") == "<think></think><MODAL>"
    assert DEMO.with_references("a mug", "amodal", 2) == "<think>a mug</think><AMODAL><REF_POS><REF_POS>"
    assert DEMO.decides
    assert DEMO.counts_at_once


def test_the_texts_of_a_model_that_does_not_decide() -> None:
    assert COPRS.user_text("the mug").endswith("'the mug' in the image. Generate one token: <REF_POS>")
    text = COPRS.with_references("a mug", "modal", 1)
    assert text == "<think> a mug </think>\nHere is the reference position: <REF_POS>"
    assert not COPRS.decides
    assert not COPRS.counts_at_once
    assert COPRS.tokens.required() == ("<REF_POS>", "<|im_end|>")


def test_no_reference_is_no_text() -> None:
    with pytest.raises(ValueError, match="at least one"):
        DEMO.with_references("", "modal", 0)


def test_budgets() -> None:
    assert [DEMO.budget("full"), DEMO.budget("brief"), DEMO.budget("none")] == [160, 16, 0]
    assert [DEMO.budget("full", 7), DEMO.budget("brief", 0), DEMO.budget("none", 7)] == [7, 0, 0]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"user": "no field"}, "user must hold"),
        ({"user": "{prompt} {prompt}"}, "user must hold"),
        ({"reference_tail": "{references}."}, "must end in"),
        ({"tokens": {"modal": None}}, "both"),
        ({"budgets": {"full": -1}}, "budgets.full"),
        ({"closing_tag": ""}, "closing_tag"),
    ],
)
def test_a_format_that_cannot_work_is_refused_by_name(fault: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AnswerFormat.model_validate(fault)


def test_a_format_survives_json() -> None:
    for answer in (DEMO, COPRS):
        assert AnswerFormat.model_validate_json(answer.model_dump_json()) == answer


def test_several_objects_are_asked_for_in_their_own_words() -> None:
    several = SeveralObjects(
        user="Find {prompt}: {count} of {references}",
        reference_tail="The {count} are {references}",
        separator=" ",
    )
    answer = AnswerFormat(several=several, reference_tail="It is {references}")
    assert answer.user_text("the {count} mugs", 2) == "Find the {count} mugs: 2 of <REF_POS> <REF_POS>"
    assert [answer.user_text("a mug", one) for one in (None, 1)] == ["a mug", "a mug"]
    assert answer.with_references("hm", "modal", 1, 1) == "<think>hm</think><MODAL>It is <REF_POS>"
    first, second = (answer.with_references("hm", "modal", k, 2) for k in (1, 2))
    assert first == "<think>hm</think><MODAL>The 2 are <REF_POS>"
    assert second == first + " <REF_POS>"


@pytest.mark.parametrize("fields", [{"user": "no place"}, {"reference_tail": "{references}."}])
def test_words_for_several_objects_hold_their_fields(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="must"):
        SeveralObjects(**{"user": "{prompt}", "reference_tail": "{references}", **fields})
