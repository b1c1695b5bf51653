"""Speculative decoding from memory: vLLM's ``custom_class`` proposer, which the model then checks in one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engines.mllm.worker.memory import Memory

PLAIN: Mapping[str, object] = {
    "temperature": 0.0,
    "logprobs": None,
    "logprob_token_ids": None,
    "prompt_logprobs": None,
    "structured_outputs": None,
    "allowed_token_ids": None,
    "bad_words": [],
    "logit_bias": None,
    "min_tokens": 0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}
"""Sampling parameters with which the model's likeliest token is written, and nothing more is told of it."""

WORTH, MOST_WORTH = 0.05, 0.7
"""The chance that a guess must have to be worth its token, for each request in a step, and at most.

A step costs mostly the same for one token or for ten; where many requests share it, each token costs its arithmetic.
"""


class Guesser:
    """Proposes what the memory says, for requests that are written greedily.

    Whoever uses it tells it of vLLM's model `runner`, and of each request that begins or ends.
    """

    def __init__(self, vllm_config: Any) -> None:
        """As vLLM makes it."""
        self.runner: Any = None
        self._most: int = vllm_config.speculative_config.num_speculative_tokens
        self._memory = Memory()
        self._plain: set[str] = set()

    def load_model(self, *_: Any, **__: Any) -> None:
        """There is none to load."""

    def begin(self, new: Any) -> None:
        """A request of vLLM's that begins."""
        params = new.sampling_params
        if params is not None and all(
            getattr(params, name) in (None, usual) for name, usual in PLAIN.items()
        ):
            image = " ".join(feature.identifier for feature in new.mm_features) or None
            self._memory.begin(new.req_id, image, params.all_stop_token_ids)
            self._plain.add(new.req_id)

    def end(self, request: str) -> None:
        """One that has ended."""
        if request in self._plain:
            self._plain.remove(request)
            self._memory.end(request)

    def propose(self, sampled_token_ids: Sequence[Sequence[int]], *_: Any, **__: Any) -> list[list[int]]:
        """Guesses for each request of the batch, of which these tokens were written in this step."""
        least = min(WORTH * len(sampled_token_ids), MOST_WORTH)
        return [
            self._guess(request, tokens, least) if tokens and request in self._plain else []
            for request, tokens in zip(self.runner.input_batch.req_ids, sampled_token_ids, strict=True)
        ]

    def plain(self) -> list[bool]:
        """Of each request in the batch, whether it simply has the likeliest token written."""
        return [request in self._plain for request in self.runner.input_batch.req_ids]

    def _guess(self, request: str, tokens: Sequence[int], least: float) -> list[int]:
        self._memory.write(request, tokens)
        return self._memory.guess(request, self._most, least)
