"""A step of vLLM's model runner, read as what it is to a request: tokens, their places and their states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Row:
    """One token of a request that was read in a step, from whose state [D] another one was chosen.

    `place` counts from the prompt's first token; the prompt's last one stands at ``prompt - 1``.
    """

    request: str
    token: int
    place: int
    prompt: int
    state: torch.Tensor


def rows_of(runner: Any, state: Any, chosen: Sequence[Sequence[int]]) -> Iterator[Row]:
    """The rows of a step that has been sampled; `chosen` are its tokens, request by request.

    Of guessed tokens only those that were right. None of a prompt of which more is still to come.
    """
    batch, starts, ids = runner.input_batch, runner.query_start_loc.np, runner.input_ids.cpu
    guessed = state.spec_decode_metadata
    guesses = guessed.num_draft_tokens if guessed is not None else [0] * len(chosen)
    first = 0
    for index, (tokens, more) in enumerate(zip(chosen, guesses, strict=True)):
        place = int(starts[index + 1]) - 1 - more
        offset = int(batch.num_computed_tokens_cpu[index]) - int(starts[index])
        for step in range(len(tokens)):
            yield Row(
                batch.req_ids[index],
                int(ids[place + step]),
                offset + place + step,
                int(batch.num_prompt_tokens[index]),
                state.sample_hidden_states[first + step],
            )
        first += 1 + more
