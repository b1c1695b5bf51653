"""What was written before says what comes next: of the same image first, phrases elsewhere; all of it bounded."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.mllm.worker import memory as module
from engines.mllm.worker.memory import SHORTEST, Memory
from engines.mllm.worker.phrases import LONGEST, MOST_FOLLOWERS, Phrases

FIRST = [1, 2, 3, 10, 11, 12, 13, 20, 21, 22]
OTHER = [1, 2, 3, 30, 31, 32, 33, 20, 21, 23]
END, LEAST = 99, 0.15
ENDS = frozenset({END})
texts = st.lists(st.integers(0, 9), max_size=40)


def remembering(*written: tuple[str | None, list[int]]) -> Memory:
    memory = Memory()
    for number, (image, tokens) in enumerate(written):
        memory.begin(f"earlier {number}", image, ENDS)
        memory.write(f"earlier {number}", tokens)
        memory.end(f"earlier {number}")
    return memory


def guess(memory: Memory, image: str | None, *tokens: int, most: int = 4) -> list[int]:
    memory.begin("now", image, ENDS)
    memory.write("now", tokens)
    return memory.guess("now", most, LEAST)


def test_a_text_about_the_same_image_goes_on_where_both_agree() -> None:
    memory = remembering(("cat", FIRST), ("dog", OTHER))
    assert guess(memory, "cat", 5, 2, 3) == [10, 11, 12, 13]
    assert guess(memory, "dog", 5, 2, 3) == [30, 31, 32, 33]


def test_the_text_that_agrees_longest_goes_on_and_of_two_the_latest() -> None:
    memory = remembering(
        ("cat", [7, 1, 2, 3, 40, 41, 42, 43]), ("cat", FIRST), ("cat", [8, 2, 3, 50, 51, 52, 53, 54])
    )
    assert guess(memory, "cat", 7, 1, 2, 3) == [40, 41, 42, 43]
    assert guess(memory, "cat", 9, 2, 3) == [50, 51, 52, 53]


def test_what_is_written_of_an_image_that_is_new_follows_the_phrases_of_all_texts() -> None:
    memory = remembering(("cat", FIRST), ("dog", OTHER), ("hen", OTHER))
    assert guess(memory, "owl", 33) == [20, 21, 23]
    assert guess(memory, None, 11) == [12, 13]  # seen once: as likely as not, twice over


def test_a_phrase_that_may_go_on_in_many_ways_is_not_guessed() -> None:
    memory = remembering(*((None, [1, 2, 3, 4, 5, 6, 7, 100 + number]) for number in range(10)))
    assert guess(memory, None, 5, 6) == [7]


def test_nothing_known_is_nothing_guessed() -> None:
    assert guess(Memory(), "cat", 1, 2, 3) == []


def test_an_answer_of_a_few_tokens_is_not_remembered() -> None:
    memory = remembering(("cat", list(range(SHORTEST - 1))))
    assert guess(memory, "cat", 0, 1, 2) == []


def test_a_text_ends_where_it_ends() -> None:
    memory = remembering(("cat", [*FIRST, END, 1, 2, 3]))
    assert guess(memory, "cat", 20, 21) == [22, END]
    assert guess(memory, "cat", 21, 22, END) == []
    assert guess(memory, "cat", 21, 22, END, 1, 2) == []
    assert guess(memory, "cat", END, 1, 2) == []


def test_images_and_their_texts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_IMAGES", 2)
    memory = remembering(*((image, FIRST) for image in "abac"))
    assert set(memory._images) == {"a", "c"}
    memory = remembering(*(("a", [number, *FIRST]) for number in range(9)))
    assert len(memory._images["a"]) == module.MOST_TEXTS
    assert memory._writing == {}


def test_what_never_began_may_end() -> None:
    Memory().end("nobody")


@given(st.lists(texts, max_size=5), texts.filter(bool), st.integers(1, 8))
def test_a_guess_was_written_before_in_this_order(
    earlier: list[list[int]], now: list[int], most: int
) -> None:
    memory = remembering(*(("cat", text) for text in earlier))
    found = guess(memory, "cat", *now, most=most)
    assert len(found) <= most
    pairs = {pair for text in earlier for pair in pairwise(text)}
    assert set(zip([now[-1], *found], found, strict=False)) <= pairs


@given(texts.filter(lambda tokens: len(tokens) >= SHORTEST))
def test_the_same_text_is_guessed_whole_once_it_has_begun(text: list[int]) -> None:
    unlike = [100 + place for place in range(len(text))]  # no token twice, so that one text alone can agree
    memory = remembering(("cat", unlike))
    while len(unlike) > 2:
        found = guess(memory, "cat", *unlike[:2], most=4)
        assert found == unlike[2:6]
        unlike = unlike[len(found) :]


def test_phrases_that_are_not_written_any_more_are_forgotten() -> None:
    phrases = Phrases(most=20)
    phrases.learn([1, 2, 3])
    assert phrases.follow([1], 2, 0.1) == [2, 3]
    for number in range(10, 100):
        phrases.learn([number, number + 1])
    assert phrases.follow([1], 2, 0.1) == []
    assert len(phrases._young) <= 20
    assert len(phrases._old) <= 20


def test_of_what_may_follow_the_rarest_is_forgotten() -> None:
    phrases = Phrases()
    for _ in range(3):
        phrases.learn([1, 2])
    for number in range(100, 100 + 3 * MOST_FOLLOWERS):
        phrases.learn([1, number])
    assert len(phrases._young[(1,)]) <= MOST_FOLLOWERS
    assert phrases.follow([1], 1, 0.01) == [2]


def test_the_longest_run_that_was_seen_decides() -> None:
    phrases = Phrases()
    for _ in range(3):
        phrases.learn([8, 2, 5])
    phrases.learn([9, 2, 6])
    assert phrases.follow([9, 2], 1, 0.1) == [6]
    assert phrases.follow([7, 2], 1, 0.1) == [5]
    phrases.learn(list(range(50, 60)))
    assert phrases.follow([0, *range(50, 50 + LONGEST)], 1, 0.1) == [50 + LONGEST]
