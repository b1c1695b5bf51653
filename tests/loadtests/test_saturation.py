"""The evaluation's throughput beside the load tester's: both ask the same of a gateway, in files that are new to it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from engines.evaluation.datasets.demo import DemoSet
from loadtests.load.server_side import read_metrics
from loadtests.saturation import FIRST_SCENE, NewFiles, Rounds, all_of, as_files, as_lines, evaluated, loaded
from server.client import SegmentFailed
from tests.server.gateway_process import gateway

SCENES = DemoSet(FIRST_SCENE, 2)


def test_the_same_questions_in_files_that_are_new() -> None:
    [one, other], plain = (
        (all_of(NewFiles(SCENES, mark)) for mark in ("a", "b")),
        all_of(NewFiles(SCENES, "a")),
    )
    assert [each.image for each in one] == [each.image for each in plain]
    assert not {each.image for each in one} & {each.image for each in other}
    assert [(each.label, each.prompt) for each in one] == [(each.label, each.prompt) for each in other]


def test_a_data_set_in_files_asks_the_same(tmp_path: Path) -> None:
    scenes = DemoSet(FIRST_SCENE, 12)
    drawn, read = all_of(scenes), all_of(as_files(scenes, "a", tmp_path))
    assert {len(each.truths) for each in drawn} >= {0, 1}
    for one, other in zip(drawn, read, strict=True):
        assert (one.prompt, one.mask_type, one.shape) == (other.prompt, other.mask_type, other.shape)
        assert [f"the {name}" for name in other.names] == list(one.names)
        assert all(np.array_equal(*pair) for pair in zip(one.truths, other.truths, strict=True))
        assert one.image != other.image


async def test_all_ask_a_gateway_as_often_and_a_line_has_both_rates() -> None:
    async with gateway(0.05) as (_, http):
        url = str(http.base_url).rstrip("/")
        found = await Rounds(url, None, users=2, requests=3).run(2)
        counted = (await asyncio.to_thread(read_metrics, url, None, print)).sums
    lines = as_lines(found)
    assert [line["figure"] for line in lines] == ["evaluate_files", "evaluate_demo"]
    assert [(line["rounds"], line["target"]) for line in lines] == [(2, ">= 0.95"), (2, None)]
    assert all(rate > 0 for rates in found for rate in rates.values())
    asked = counted["gateway r2sm_cache_requests_total embedding"]
    assert asked >= 3 * (2 + 3 + 3)
    assert counted.get("gateway r2sm_cache_hits_total embedding", 0.0) == 0.0


async def test_requests_that_fail_are_no_throughput() -> None:
    questions = NewFiles(SCENES, "x")
    with pytest.raises(SegmentFailed, match="is `r2sm serve` running"):
        await evaluated("http://127.0.0.1:9", None, questions, 2)
    with pytest.raises(SegmentFailed, match="2 of the load tester's requests failed: ConnectError"):
        loaded("http://127.0.0.1:9", None, all_of(questions), 2)
