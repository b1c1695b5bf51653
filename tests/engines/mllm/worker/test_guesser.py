"""vLLM's proposer of ours, and what checks its guesses: the same tokens as without, whoever else is in the batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.mllm.worker.guesser import Guesser

TEXT = list(range(10, 30))


def guesser(*requests: str) -> Guesser:
    made = Guesser(SimpleNamespace(speculative_config=SimpleNamespace(num_speculative_tokens=8)))
    made.runner = SimpleNamespace(input_batch=SimpleNamespace(req_ids=list(requests)))
    return made


def new(request: str, **params: object) -> Any:
    from vllm.sampling_params import SamplingParams

    feature = SimpleNamespace(identifier="cat")
    sampling = SamplingParams(**{"temperature": 0.0, **params})
    return SimpleNamespace(req_id=request, sampling_params=sampling, mm_features=[feature])


def test_a_request_is_guessed_as_an_earlier_one_about_its_image_went() -> None:
    made = guesser("a")
    made.begin(new("a"))
    assert made.propose([TEXT]) == [[]]
    made.end("a")
    made.runner.input_batch.req_ids = ["b", "c"]
    made.begin(new("b"))
    made.begin(new("c"))
    assert made.propose([TEXT[:3], []]) == [TEXT[3:11], []]
    assert made.propose([[TEXT[3]], TEXT[:2]]) == [TEXT[4:12], TEXT[2:10]]


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.7},
        {"logprobs": 0},
        {"allowed_token_ids": [1]},
        {"logit_bias": {1: 2.0}},
        {"min_tokens": 3},
        {"presence_penalty": 0.5},
        {"repetition_penalty": 1.2},
        {"bad_words": ["mug"]},
    ],
)
def test_nothing_is_guessed_for_who_does_not_simply_want_the_likeliest_token(
    params: dict[str, object],
) -> None:
    made = guesser("a")
    made.begin(new("a"))
    made.propose([TEXT])
    made.end("a")
    made.begin(new("b", **params))
    made.runner.input_batch.req_ids = ["b"]
    assert made.propose([TEXT[:3]]) == [[]]
    made.end("b")


def checked(rows: list[list[int]], own: list[list[int]], plain: list[bool], sampling: Any = None) -> Any:
    """What the verifier says of each request's guesses, where the model would choose `own`, one token more."""
    from engines.mllm.worker.verifier import Verifier

    counts = [len(row) for row in rows]
    logits = torch.nn.functional.one_hot(torch.tensor([token for row in own for token in row]), 50).float()
    ends = torch.tensor(counts).cumsum(0) + torch.arange(len(rows))
    bonus = set(ends.tolist())
    metadata = SimpleNamespace(
        num_draft_tokens=counts,
        max_spec_len=max(counts),
        draft_token_ids=torch.tensor([token for row in rows for token in row], dtype=torch.int32),
        bonus_logits_indices=ends,
        target_logits_indices=torch.tensor([place for place in range(len(logits)) if place not in bonus]),
    )

    def sampler(logits: torch.Tensor, sampling_metadata: Any) -> Any:
        assert not all(plain)
        assert logits.argmax(-1).tolist() == [row[0] for row in own]
        return SimpleNamespace(sampled_token_ids=sampling_metadata[0], logprobs_tensors=sampling_metadata[1])

    return Verifier(sampler, lambda: plain)(metadata, None, logits, sampling)


@settings(max_examples=50)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 49), st.integers(0, 49)), max_size=5), min_size=1, max_size=4
    ).filter(any)
)
def test_guesses_hold_as_long_as_the_model_would_have_written_them(
    pairs: list[list[tuple[int, int]]],
) -> None:
    rows = [[guessed for guessed, _ in row] for row in pairs]
    own = [[*(token for _, token in row), 49] for row in pairs]
    found = checked(rows, own, [True] * len(rows)).sampled_token_ids.tolist()
    for guessed, ours, tokens in zip(rows, own, found, strict=True):
        right = next((i for i, (g, o) in enumerate(zip(guessed, ours, strict=False)) if g != o), len(guessed))
        assert tokens == [*ours[: right + 1], *[-1] * (len(tokens) - right - 1)]


def test_log_probabilities_that_another_request_asks_for_stand_at_its_token() -> None:
    from vllm.v1.outputs import LogprobsTensors
    from vllm.v1.sample.rejection_sampler import RejectionSampler

    asked = LogprobsTensors(
        torch.tensor([[1, 2], [3, 4]]), torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]), torch.tensor([5, 6])
    )
    chosen = torch.tensor([[1], [4]], dtype=torch.int32)  # the second request may have none but that
    output = checked([[7, 8], []], [[7, 9, 1], [2]], [True, False], (chosen, asked))
    tokens, found = RejectionSampler.parse_output(output.sampled_token_ids, 50, (), output.logprobs_tensors)
    assert tokens == [[7, 9], [4]]
    assert found is not None
    assert found.slice_request(1, 1).logprobs.tolist() == [[-3.0, -4.0]]


def test_a_guess_for_who_is_sampled_is_not_looked_at() -> None:
    chosen = torch.tensor([[1], [4]], dtype=torch.int32)
    output = checked([[0, 0], [0, 0]], [[0, 9, 1], [0, 0, 2]], [True, False], (chosen, None))
    assert output.sampled_token_ids.tolist() == [[0, 9, -1], [4, -1, -1]]


def test_who_simply_has_the_likeliest_token_written_is_known_while_it_runs() -> None:
    made = guesser("a", "b", "c")
    made.begin(new("a"))
    made.begin(new("b", temperature=1.0))
    made.begin(new("c"))
    assert made.plain() == [True, False, True]
    made.end("a")
    assert made.plain() == [False, False, True]


def test_the_more_requests_share_a_step_the_surer_a_guess_must_be() -> None:
    made = guesser("a")
    made.begin(new("a"))
    made.propose([TEXT])
    made.end("a")
    others = [f"other {number}" for number in range(15)]
    made.runner.input_batch.req_ids = ["b", *others]
    made.begin(new("b"))
    [few, *_] = made.propose([TEXT[:2], *([1] for _ in others)])
    assert few == TEXT[2 : 2 + len(few)]
    assert 0 < len(few) < 8
