"""``r2sm bundle check``: what is told of a bundle, and of one that is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engines.bundles import Bundle
from engines.bundles.requirements import requirements
from server.cli import app
from server.commands import bundle as command
from server.fitting import Machine
from tests.tiny_bundle import build_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_bundle(tmp_path_factory.mktemp("bundle"))


def check(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["bundle", "check", *arguments])
    return result.exit_code, result.output


def test_what_it_needs_is_counted(bundle: Path) -> None:
    needs = requirements(Bundle.load(bundle))
    config = json.loads((bundle / "mllm" / "config.json").read_text())["text_config"]
    stored = (bundle / "mllm" / "model.safetensors").stat().st_size
    assert stored - 20_000 < needs.language < stored  # bfloat16 in the file, too, and a header
    assert needs.kv_token == 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * 32 * 2
    assert needs.servers == 2
    assert needs.parallel == (1, 2, 4)
    assert needs.least() == 2 * (needs.language + needs.kv_token * needs.tokens) + needs.vision
    assert needs.least(2) < needs.least()


def test_a_whole_bundle_is_described(bundle: Path) -> None:
    code, output = check(str(bundle))
    assert code == 0
    assert "tiny: a coprs bundle, whole" in output
    assert "mllm/model.safetensors" in output
    assert "can serve it" in output


def test_a_machine_too_small_is_said_to_be(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "this_machine", lambda: Machine("a toaster", 4, 100_000))
    assert "cannot serve it (a toaster, 4 × 0.0 GiB)" in check(str(bundle), "--no-verify")[1]
    needs = requirements(Bundle.load(bundle))
    room = needs.least(2) + 1
    monkeypatch.setattr(command, "this_machine", lambda: Machine("two", 2, room))
    assert "with --tensor-parallel-size 2" in check(str(bundle), "--no-verify")[1]


def test_damage_is_named(bundle: Path, tmp_path: Path) -> None:
    file = bundle / "vision" / "config.json"
    content = file.read_text()
    file.write_text(content + "\n")
    try:
        code, output = check(str(bundle))
    finally:
        file.write_text(content)
    assert code == 1
    assert "vision/config.json: its digest is" in output
