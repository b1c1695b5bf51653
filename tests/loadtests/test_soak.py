"""A short soak of a gateway whose language model is a stand-in."""

from __future__ import annotations

import argparse
import io
import json
import shlex
import sys

import pytest
from PIL import Image

from loadtests import soak
from tests.server.gateway_process import ROOT, SCRIPT


def test_every_photograph_is_another_one() -> None:
    taken = [image for image, _ in soak.photographs(200)]
    pixels = {Image.open(io.BytesIO(image)).tobytes() for image in taken}
    assert len(pixels) == 200


@pytest.mark.parametrize(
    ("words", "nice"),
    [("", 19), ("--redis", 0), ("--nice 0", 0), ("--nice 5", 5), ("--redis --nice 5", 5)],
)
def test_clients_step_back_unless_a_redis_would_do_so_too(words: str, nice: int) -> None:
    assert soak.niceness(soak.command_line().parse_args(words.split())) == nice


async def test_an_overload_is_refused_and_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(soak, "REST_SECONDS", 0.1)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    gateway = (sys.executable, str(SCRIPT), "0.3", "serve", "--port", "0", "--max-in-flight", "4")
    command = shlex.join((*gateway, "--max-queued", "8"))
    options = argparse.Namespace(
        minutes=0.0, seconds=3.0, clients=4, timeout_ms=60_000, images=5, nice=0, redis=False, command=command
    )
    await soak.soak(options)  # what it returns depends on how busy the machine is
    first, _, rest = capsys.readouterr().out.partition("\n")
    found, total = json.loads(first), json.loads(rest)
    assert total["rounds"] == 1
    assert {"200", "503"} <= set(found["outcomes"]) <= soak.EXPECTED
    assert found["asked"] > 2 * found["best"] > 0
    for phase in ("best", "overloaded", "again"):
        assert set(found["cores"][phase]) == {"clients", "gateway", "vllm"}
        assert found["cores"][phase]["gateway"] > 0
