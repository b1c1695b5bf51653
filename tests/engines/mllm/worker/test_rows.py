"""A step of vLLM's as rows, and what the tap sends of them: with guesses and without, of prompts in parts and again."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engines.mllm.tap.message import BEFORE, OF, TAG, Message
from engines.mllm.worker.rows import Row, rows_of
from engines.mllm.worker.tap import Tap


def step(requests: Sequence[tuple[str, int, int, list[int], int]]) -> tuple[Any, Any]:
    """A runner and its state: of each request its name, its prompt's length, what was computed, what is read and how
    much of that is guessed. A row's state is its token's number.
    """
    read = [token for request in requests for token in request[3]]
    starts = np.cumsum([0, *(len(request[3]) for request in requests)])
    last = [
        starts[place + 1] - 1 - guessed + more
        for place, (*_, guessed) in enumerate(requests)
        for more in range(guessed + 1)
    ]
    runner = SimpleNamespace(
        input_batch=SimpleNamespace(
            req_ids=[request[0] for request in requests],
            num_prompt_tokens=np.array([request[1] for request in requests]),
            num_computed_tokens_cpu=np.array([request[2] for request in requests]),
        ),
        query_start_loc=SimpleNamespace(np=starts),
        input_ids=SimpleNamespace(cpu=torch.tensor(read)),
    )
    guesses = [request[4] for request in requests]
    state = SimpleNamespace(
        sample_hidden_states=torch.tensor([[float(read[place])] for place in last]),
        spec_decode_metadata=SimpleNamespace(num_draft_tokens=guesses) if any(guesses) else None,
    )
    return runner, state


def told(rows: Sequence[Row]) -> list[tuple[str, int, int, float]]:
    return [(row.request, row.token, row.place, float(row.state)) for row in rows]


def test_each_request_has_a_row_where_nothing_is_guessed() -> None:
    runner, state = step([("a", 3, 0, [5, 6, 7], 0), ("b", 2, 4, [8], 0)])
    assert told([*rows_of(runner, state, [[9], [9]])]) == [("a", 7, 2, 7.0), ("b", 8, 4, 8.0)]


def test_guesses_that_were_right_have_rows_and_the_others_none() -> None:
    runner, state = step([("a", 2, 4, [5, 6, 7, 8], 3), ("b", 2, 9, [1], 0), ("c", 2, 3, [2, 3], 1)])
    assert told([*rows_of(runner, state, [[6, 7, 9], [4], [9]])]) == [
        *(("a", 5, 4, 5.0), ("a", 6, 5, 6.0), ("a", 7, 6, 7.0)),
        ("b", 1, 9, 1.0),
        ("c", 2, 3, 2.0),
    ]


def test_a_prompt_of_which_more_is_to_come_has_none() -> None:
    runner, state = step([("a", 9, 0, [5, 6, 7], 0), ("b", 2, 4, [8], 0)])
    assert told([*rows_of(runner, state, [[], [9]])]) == [("b", 8, 4, 8.0)]


class Heard:
    """A line that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[bool, float]] = []

    def send(self, frame: bytes) -> None:
        found = Message("0" * 16, frame[16] == 1, np.frombuffer(frame[21:], "<f4"))
        self.sent.append((found.anew, float(found.state[0])))


def tap_of(**wish: object) -> tuple[Tap, Heard]:
    line = Heard()
    tap = Tap(line)  # type: ignore[arg-type]
    extra = {TAG: "0" * 16, BEFORE: [], OF: [], **wish}
    tap.begin(SimpleNamespace(req_id="a", sampling_params=SimpleNamespace(extra_args=extra)))
    return tap, line


def row(token: int, place: int) -> Row:
    return Row("a", token, place, 3, torch.tensor([float(token)]))


def test_the_state_before_a_token_and_those_of_others_are_sent() -> None:
    tap, line = tap_of(**{BEFORE: [70], OF: [80]})
    tap.tell([row(5, 2), row(6, 3)])
    tap.tell([row(70, 4), row(80, 5), row(80, 6)])
    assert line.sent == [(True, 6.0), (False, 80.0), (False, 80.0)]


def test_a_second_decision_begins_nothing_anew() -> None:
    tap, line = tap_of(**{BEFORE: [70, 71], OF: [80]})
    tap.tell([row(5, 2), row(70, 3), row(80, 4), row(71, 5), row(80, 6)])
    assert line.sent == [(True, 5.0), (False, 80.0), (False, 80.0)]


@pytest.mark.parametrize(
    "wish",
    [{TAG: "é" * 16}, {TAG: "short"}, {TAG: 5}, {BEFORE: 5}, {OF: "80"}, {BEFORE: None}, {TAG: ["0"] * 16}],
)
def test_a_wish_that_nobody_here_makes_is_none(wish: dict[str, object]) -> None:
    """Whoever reaches vLLM may send it; what is raised in a step ends the engine."""
    tap, line = tap_of(**wish)
    tap.tell([row(5, 2), row(80, 3)])
    assert line.sent == []


def test_what_is_computed_again_is_not_told_again() -> None:
    tap, line = tap_of(**{BEFORE: [70], OF: [80]})
    tap.tell([row(6, 3), row(70, 4), row(80, 5)])
    tap.tell([row(80, 5), row(80, 6)])
    assert line.sent == [(True, 6.0), (False, 80.0), (False, 80.0)]


def test_without_a_wish_for_tokens_it_is_the_prompts_last_state() -> None:
    tap, line = tap_of()
    tap.tell([row(5, 2), row(6, 3)])
    assert line.sent == [(True, 5.0)]


def test_a_request_that_has_ended_is_told_nothing() -> None:
    tap, line = tap_of()
    tap.end("a")
    tap.tell([row(5, 2)])
    assert line.sent == []
