"""Checks guesses: as many as the model would have written itself, and its own token behind them.

vLLM 0.32's rejection sampler does the same for any sampling, but fails where a request in the batch asks for the
log-probabilities of chosen tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice, takewhile
from operator import eq
from typing import Any

import torch
from vllm.v1.outputs import LogprobsTensors, SamplerOutput

NOTHING = -1
"""Stands where no token was written, as in vLLM's own (`PLACEHOLDER_TOKEN_ID`)."""


class Verifier:
    """Takes the rejection sampler's place. Guesses are made for greedy requests alone; others are sampled as ever."""

    def __init__(self, sampler: Any, all_plain: Callable[[], bool]) -> None:
        """`all_plain` says whether each request of the batch simply has the likeliest token written."""
        self._sampler = sampler
        self._all_plain = all_plain

    def __call__(self, metadata: Any, _: Any, logits: torch.Tensor, sampling: Any) -> SamplerOutput:
        """Each request's tokens [R, 1 + most guesses]; logits [G + R, V] of all guesses and behind each request's."""
        likeliest = logits.argmax(-1).tolist()
        probabilities = None
        ends = metadata.bonus_logits_indices.tolist()
        if not self._all_plain():
            sampled = self._sampler(
                logits=logits[metadata.bonus_logits_indices],
                sampling_metadata=sampling,
                predict_bonus_token=True,
            )
            for end, token in zip(ends, sampled.sampled_token_ids[:, 0].tolist(), strict=True):
                likeliest[end] = token
            probabilities = sampled.logprobs_tensors
        guesses = iter(metadata.draft_token_ids.tolist())
        rows = []
        for end, count in zip(ends, metadata.num_draft_tokens, strict=True):
            ours = likeliest[end - count : end + 1]
            right = _agreeing([*islice(guesses, count)], ours)
            rows.append(ours[: right + 1] + [NOTHING] * (metadata.max_spec_len - right))
        tokens = torch.tensor(rows, dtype=torch.int32)
        return SamplerOutput(
            sampled_token_ids=tokens, logprobs_tensors=_spread(probabilities, tokens.shape[1])
        )


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
