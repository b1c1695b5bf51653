"""The stations against what queueing theory knows of them."""

from __future__ import annotations

import numpy as np
import pytest

from engines.capacity.plan import limits
from engines.capacity.simulation import Work, concentrate_times, gateway_times, reason_times, throughput
from tests.engines.capacity.times import MEASURED, OVERLOADS, REASONING_TOKENS, TIMES

SLOW = 1e-3


def test_a_request_alone_takes_the_sum_of_its_stages() -> None:
    work = Work(reasoning_tokens=80, objects=3)
    assert reason_times(TIMES, work, SLOW, 50, 0) == pytest.approx(0.040 + (79 + 5) * 0.005)
    assert concentrate_times(TIMES, work, SLOW, 50, 0) == pytest.approx(0.010 + 0.010 + 2 * 0.002)
    [reading, encoding, masks] = gateway_times(TIMES, work, SLOW, 50, 0).mean(axis=0)
    assert (reading, encoding) == (pytest.approx(0.005), pytest.approx(0.020))
    assert masks == pytest.approx(0.008 + 2 * 0.001 + 0.005)


def test_a_remembered_image_is_not_encoded() -> None:
    encoding = gateway_times(TIMES, Work(80, cached=0.75), SLOW, 2000, 0)[:, 1]
    assert np.mean(encoding == 0) == pytest.approx(0.75, abs=0.04)


def test_waiting_is_that_of_one_server_with_constant_service() -> None:
    """M/D/1: the mean wait is b s / 2(1 - b) where it is busy b of the time (Pollaczek and Khinchine)."""
    times = TIMES.model_copy(update={"image_ms": 10.0, "finish_ms": 0.0})
    busy, service = 0.8, 0.010
    reading = gateway_times(times, Work(80, cached=1.0), busy / service, 20_000, 0)[:, 0]
    assert reading.mean() == pytest.approx(service + busy * service / (2 * (1 - busy)), rel=0.1)


def test_a_batch_serves_what_it_can_and_no_more() -> None:
    work = Work(80)
    most = limits(TIMES, work)["reason"]
    calm = reason_times(TIMES, work, 0.5 * most, 1500, 0)[:, 0]
    crowded = reason_times(TIMES, work, 1.3 * most, 1500, 0)[:, 0]
    assert calm[-200:].mean() == pytest.approx(calm[:200].mean(), rel=0.3)
    assert crowded[-200:].mean() > 1.5 * crowded[:200].mean(), "the queue grows for ever"


def test_one_client_gets_one_answer_after_the_other() -> None:
    work = Work(reasoning_tokens=80)
    alone = 5 + 40 + (79 + 3) * 5 + 10 + 10 + 8 + 5  # encoding and reading ahead go on beside the reasoning
    assert throughput(TIMES, work, 1, 200) == pytest.approx(1000 / alone, rel=0.01)


def test_many_clients_get_what_the_busiest_part_gives() -> None:
    work = Work(reasoning_tokens=10)
    most = min(limits(TIMES, work).values())
    assert throughput(TIMES, work, 200, 4000) == pytest.approx(most, rel=0.1)


def test_shared_cores_are_shared() -> None:
    """On one core the parts' work adds up, whoever does it."""
    work = Work(reasoning_tokens=10)
    times = TIMES.model_copy(update={"cores": 1, "max_sequences": 1, "decode_batch": 1})
    total = 5 + 20 + 20 + 40 + (9 + 3) * 5 + 10 + 10 + 8 + 5
    assert throughput(times, work, 8, 1000) == pytest.approx(1000 / total, rel=0.02)


@pytest.mark.parametrize("clients", OVERLOADS)
def test_a_real_overload_is_foretold(clients: int) -> None:
    foretold = throughput(MEASURED, Work(REASONING_TOKENS), clients, 2000)
    assert foretold == pytest.approx(OVERLOADS[clients], rel=0.2)


def test_a_reading_gives_the_first_token() -> None:
    """Others' tokens of the same step are written beside it."""
    work = Work(reasoning_tokens=1)
    assert reason_times(TIMES, work, SLOW, 50, 0) == pytest.approx(0.040 + 3 * 0.005)
