"""What `make bench-gpu` does without a GPU: folders, limits, lines, wrong arguments, and a tiny model, served."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from engines.bundles import Bundle
from engines.demo.tokenizer import SPECIAL_TOKENS, token_ids
from engines.errors import MllmUnavailable
from engines.mllm.vllm_config import VllmConfig
from engines.vision.buckets import DEVICE_BUCKETS
from engines.vision.golden_inputs import make_golden
from engines.vision.runtimes.cuda_driver import usable_gpus
from loadtests.gpu import __main__ as program
from loadtests.gpu import vision
from loadtests.gpu.folder import make_tokenizer, write_bundle, write_language_model
from loadtests.gpu.language import STANDARD, Plan, Trial, served
from loadtests.gpu.lines import Printer, Setting
from loadtests.gpu.shapes import SHAPES, Shape
from tests.stand_ins import TINY_VISION, tiny_vision
from tests.tiny_model import IMAGE

PUBLISHED = {"7b": 8_292_166_656, "3b": 3_754_622_976}
"""Numbers in the published checkpoints, image tower and all."""
TINY_SIGHT = {
    "depth": 2,
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_heads": 4,
    "window_size": 112,
    "fullatt_block_indexes": [1],
}


def tiny_shape() -> Shape:
    encoder, decoder = TINY_VISION.encoder, TINY_VISION.decoder
    assert encoder.kind == "sam_vit"
    return Shape("tiny", 128, 256, 2, 4, 2, 65_536, True, (4, 6, 6), TINY_SIGHT, IMAGE, encoder, decoder)


def told(captured: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in captured.splitlines()]


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_of_the_published_size_and_a_token_reads_all_of_it_but_the_other_embeddings(
    name: str,
) -> None:
    shape = SHAPES[name]
    with torch.device("meta"):
        config = shape.language_config(dict(zip(SPECIAL_TOKENS, range(99), strict=False)))
        model = Qwen2_5_VLForConditionalGeneration(config)
    assert sum(weight.numel() for weight in model.parameters()) == PUBLISHED[name]
    read = sum(weight.numel() for weight in model.model.language_model.parameters())
    assert shape.matrices + shape.rest == read, "one matrix of the vocabulary, the embeddings' or its own"


def test_the_limit_of_a_token_is_its_bytes_over_the_bandwidth() -> None:
    shape = SHAPES["7b"]
    assert shape.token_ms("bf16", 4.8) == pytest.approx(2 * (shape.matrices + shape.rest) / 4.8e9)
    assert shape.token_ms("bf16", 4.8) == pytest.approx(2.946, abs=1e-3)
    assert shape.bytes_read("bf16") - shape.bytes_read("fp8") == shape.matrices
    assert shape.token_ms("fp8", 2.4) == pytest.approx(2 * shape.token_ms("fp8", 4.8))


def test_an_answer_of_any_words_becomes_the_same_tokens_again() -> None:
    tokenizer = make_tokenizer(20_000)
    assert tokenizer.get_vocab_size() == 20_000
    words = range(len(SPECIAL_TOKENS) + 256, 20_000)
    answer = random.Random(3).choices(words, k=200)
    assert tokenizer.encode(tokenizer.decode(answer), add_special_tokens=False).ids == answer
    assert tokenizer.encode("<REF_POS>").ids == [token_ids(tokenizer)["<REF_POS>"]]
    plain = "Étagère, 3 blue mugs!"
    assert tokenizer.decode(tokenizer.encode(plain).ids) == plain
    with pytest.raises(ValueError, match="words for"):
        make_tokenizer(600_000)


def test_the_tokenizer_has_a_text_for_every_token_that_a_published_size_can_say(tmp_path: Path) -> None:
    write_language_model(tmp_path, SHAPES["3b"])
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    assert len(vocabulary) == json.loads((tmp_path / "config.json").read_text())["text_config"]["vocab_size"]


def test_a_figure_has_its_goal_its_verdict_and_what_it_was_measured_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printer = Printer("a GPU", "580.1")
    best = Setting("7b", "bf16", True)
    printer.figure(best, "answer_100", "ms", [440.0, math.nan, 460.0, 420.0])
    printer.figure(Setting("7b", "fp8", True), "answer_100", "ms", [440.0])
    printer.figure(Setting("7b", "bf16", False), "answer_100", "ms", [440.0])
    printer.figure(Setting("3b", "bf16", True), "answer_100", "ms", [440.0])
    printer.figure(best, "first_draft_new", "ms", [math.nan])
    met, missed, uncached, small, none = told(capsys.readouterr().out)
    assert (met["value"], met["spread"], met["measured"], met["left_out"]) == (440.0, [420.0, 460.0], 3, 1)
    assert (met["goal"], met["met"]) == ("<= 450", True)
    assert (missed["goal"], missed["met"]) == ("<= 300", False)
    assert (uncached["goal"], small["goal"]) == (None, None), "goals are the large model's, at its best"
    assert (none["value"], none["met"], none["goal"]) == (None, None, "<= 120")
    assert met["gpu"] == "a GPU"
    assert met["versions"]["torch"] == torch.__version__
    assert met["date"].startswith("20")


@pytest.mark.parametrize(
    "words",
    [
        ["--model", "72b"],
        ["--precision", "int4"],
        ["--requests", "0"],
        ["--clients", "-1"],
        ["--bandwidth", "0"],
        ["--part", "sound"],
    ],
)
def test_wrong_arguments_end_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.read(words)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_every_setting_is_measured_unless_some_are_named() -> None:
    assert len(program.settings(program.read([]))) == 8
    words = ["--model", "3b", "--precision", "fp8", "--prefix-cache", "off", "--clients", "12"]
    given = program.read(words)
    assert program.settings(given) == [Setting("3b", "fp8", False)]
    assert program.plan(given).clients == (1, 2, 4, 8, 12)


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if usable_gpus():
        pytest.skip("there is a GPU here")
    monkeypatch.setattr("sys.argv", ["gpu"])
    assert program.main() == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "no NVIDIA GPU" in err


async def test_a_setting_that_fails_is_a_line_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = []

    async def measured(shape: Shape, setting: Setting, *_: object) -> None:
        asked.append(setting)
        if setting.precision == "fp8":
            raise MllmUnavailable("vLLM (reason) ended with status 1")

    monkeypatch.setattr(program, "measured", measured)
    monkeypatch.setattr(program, "write_bundle", lambda path, shape: path.mkdir())
    given = program.read(["--model", "3b", "--prefix-cache", "on", "--logs", str(tmp_path)])
    assert not await program.languages(given, Printer("a GPU", "580.1"))
    assert [setting.precision for setting in asked] == ["bf16", "fp8"]
    [line] = told(capsys.readouterr().out)
    assert (line["figure"], line["precision"]) == ("fault", "fp8")
    assert "ended with status 1" in line["fault"]


def test_a_vision_runtime_has_a_line_for_each_batch_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    runtime = tiny_vision(tmp_path)
    make_golden(tmp_path)
    monkeypatch.setattr(vision, "ROUNDS", 1)
    vision.measure(runtime, tmp_path, 0.001, Printer("a GPU", "580.1"))
    lines = told(capsys.readouterr().out)
    assert lines[0]["figure"] == "vision_warm_up"
    encodes = [line for line in lines if line["figure"] == "encode"]
    assert [line["batch"] for line in encodes] == list(DEVICE_BUCKETS.encode)
    assert all(line["limit"] == line["batch"] for line in encodes), "a millisecond an image"
    assert [line["batch"] for line in lines if line["figure"] == "decode"] == list(DEVICE_BUCKETS.decode)


@pytest.mark.vllm
async def test_a_written_bundle_is_served_without_weights_and_every_figure_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape, setting = tiny_shape(), Setting("tiny", "bf16", prefix_cache=False)
    write_bundle(tmp_path / "bundle", shape)
    assert Bundle.load(tmp_path / "bundle").name == "random-tiny"
    config = VllmConfig(max_model_len=1024, kv_cache_gib=0.25, mm_cache_gib=0.01)
    plan = Plan(requests=1, tokens=(32, STANDARD), clients=(2,))
    async with served(tmp_path / "bundle", setting, config, "torch", 2, tmp_path) as (role, client):
        await Trial(shape, setting, plan, Printer("none", "none"), role, client).run()
        async with httpx.AsyncClient() as http:
            page = (await http.get(f"{role.url}/metrics")).text
    lines = {line["figure"]: line for line in told(capsys.readouterr().out)}
    assert lines.keys() == {
        *("ttft_vllm", "token", "answer_32", "answer_100", "ttft", "second_prompt"),
        *("first_draft_new", "first_draft_known", "clients"),
    }
    answers = [lines[name] for name in ("answer_32", "answer_100", "second_prompt", "clients")]
    assert [line["measured"] + line["left_out"] for line in answers] == [1, 1, 1, 4]
    assert sum(line["measured"] for line in answers) > 3, "answers are as long as they are to be, but for few"
    assert lines["token"]["value"] > 0
    assert lines["ttft_vllm"]["value"] > 0
    assert lines["clients"]["clients"] == 2
    assert lines["token"]["limit"] == round(shape.token_ms("bf16", plan.bandwidth), 3)
    assert 'enable_prefix_caching="False"' in page
