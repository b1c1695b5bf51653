"""Checks guesses: as many as the model would have written itself, and its own token behind them.

vLLM 0.32's rejection sampler does the same for any sampling, but fails where a request in the batch asks for the
log-probabilities of chosen tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, islice, takewhile
from operator import eq
from typing import Any

import torch
from vllm.v1.outputs import LogprobsTensors, SamplerOutput

NOTHING = -1
"""Stands where no token was written, as in vLLM's own (`PLACEHOLDER_TOKEN_ID`)."""


class Verifier:
    """Takes the rejection sampler's place. Guesses are made for greedy requests alone; others are sampled as ever."""

    def __init__(self, sampler: Any, plain: Callable[[], Sequence[bool]]) -> None:
        """`plain` says of each request in the batch whether it simply has the likeliest token written."""
        self._sampler = sampler
        self._plain = plain

    def __call__(self, metadata: Any, _: Any, logits: torch.Tensor, sampling: Any) -> SamplerOutput:
        """Each request's tokens [R, 1 + most guesses]; logits [G + R, V] of all guesses and behind each request's."""
        plain = self._plain()
        likeliest, probabilities = logits.argmax(-1).tolist(), None
        counts = [count + 1 for count in metadata.num_draft_tokens]
        starts = [0, *accumulate(counts)]
        guesses = iter(metadata.draft_token_ids.tolist())
        rows = []
        for start, count in zip(starts, counts, strict=False):
            guessed, ours = [*islice(guesses, count - 1)], likeliest[start : start + count]
            rows.append(ours[: 1 + _agreeing(guessed, ours)])
        if not all(plain):
            sampled = self._sampler(logits=logits[starts[:-1]], sampling_metadata=sampling)
            probabilities = sampled.logprobs_tensors
            tokens = sampled.sampled_token_ids[:, 0].tolist()
            rows = [row if one else [token] for one, row, token in zip(plain, rows, tokens, strict=True)]
        width = metadata.max_spec_len + 1
        padded = torch.tensor([row + [NOTHING] * (width - len(row)) for row in rows], dtype=torch.int32)
        return SamplerOutput(sampled_token_ids=padded, logprobs_tensors=_spread(probabilities, width))


def _agreeing(guessed: Sequence[int], ours: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(bool, map(eq, guessed, ours)))


def _spread(found: LogprobsTensors | None, width: int) -> LogprobsTensors | None:
    """A request's log-probabilities at each of its places: who asked for them has but one."""
    if found is None:
        return None
    return LogprobsTensors(
        found.logprob_token_ids.repeat_interleave(width, 0),
        found.logprobs.repeat_interleave(width, 0),
        found.selected_token_ranks.repeat_interleave(width, 0),
    )
