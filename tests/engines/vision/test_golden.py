"""Golden outputs: made once, bound to their weights, and a gate that a straying runtime does not pass."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.errors import BundleError, CacheFailed, EngineRefused
from engines.vision.buckets import Buckets
from engines.vision.config import VisionConfig
from engines.vision.golden import GOLDEN_FILE, judge, read_golden, require_faithful, write_golden
from engines.vision.golden_inputs import golden_of, make_golden
from engines.vision.preprocess import Prepared
from engines.vision.runtimes import Decoded, DecodeItem, Embedding
from engines.vision.runtimes.openvino import OpenVinoRuntime
from engines.vision.runtimes.torch_cpu import TorchRuntime
from engines.vision.runtimes.torch_cuda import open_torch_cuda

DEMO = Path(__file__).parents[3] / "engines" / "demo" / "bundle" / "vision"


@pytest.fixture(scope="module")
def folder(vision_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder with its golden file."""
    path = tmp_path_factory.mktemp("golden") / "vision"
    shutil.copytree(vision_dir, path)
    make_golden(path)
    return path


class Straying:
    """A runtime that is wrong in one way, to be refused."""

    def __init__(self, runtime: TorchRuntime, fault: str) -> None:
        self._runtime = runtime
        self._fault = fault

    @property
    def config(self) -> VisionConfig:
        return self._runtime.config

    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        made = self._runtime.encode(images)
        return made[::-1] if self._fault == "mixed up" and len(images) == 8 else made

    def decode(self, items: Sequence[DecodeItem]) -> list[Decoded]:
        made = self._runtime.decode(items)
        if self._fault == "heatmap":
            return [replace(one, prior_logits=one.prior_logits + 1) for one in made]
        if self._fault == "large batch" and len(items) == 16:
            return [*made[:-1], replace(made[-1], mask_logits=np.roll(made[-1].mask_logits, 2, axis=0))]
        return made

    def warm_up(self, buckets: Buckets | None = None) -> None: ...

    def info(self) -> dict[str, str | int]:
        return {"runtime": "straying"}

    def close(self) -> None: ...


def test_the_reference_is_faithful_to_itself(folder: Path) -> None:
    verdict = require_faithful(TorchRuntime(folder), read_golden(folder))
    assert verdict.mask_iou > 0.999
    assert verdict.prior_error < 1e-4


def test_openvino_is_faithful(folder: Path, tmp_path: Path) -> None:
    runtime = OpenVinoRuntime(folder, tmp_path, threads=1, encoder_precision="fp32")
    assert require_faithful(runtime, read_golden(folder)).good


@pytest.mark.parametrize("fault", ["mixed up", "heatmap", "large batch"])
def test_a_straying_engine_is_refused_with_figures(folder: Path, fault: str) -> None:
    runtime = Straying(TorchRuntime(folder), fault)
    with pytest.raises(EngineRefused, match=r"worst mask IoU 0\.\d+|1\.0000 .* heatmap error 0\.\d+"):
        require_faithful(runtime, read_golden(folder))


def test_masks_are_worth_comparing(folder: Path) -> None:
    golden = read_golden(folder)
    assert [prompt.sparse is None for prompt in golden.prompts] == [True] * 4 + [False] * 4
    for one in golden.expected:
        assert 0.01 < (one.mask_logits > 0).mean() < 0.95


def test_golden_outputs_of_other_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "vision")
    weights = tmp_path / "vision" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match="of other weights"):
        read_golden(tmp_path / "vision")


def test_a_missing_or_damaged_file_is_named(vision_dir: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"golden\.safetensors: no golden outputs"):
        read_golden(vision_dir)
    shutil.copytree(folder, tmp_path / "vision")
    file = tmp_path / "vision" / GOLDEN_FILE
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(BundleError, match="no golden outputs"):
        read_golden(tmp_path / "vision")


def test_nothing_half_written_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / GOLDEN_FILE).read_bytes()

    def fill(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    golden = read_golden(folder)
    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(CacheFailed, match="No space left"):
        write_golden(golden, folder)
    assert (folder / GOLDEN_FILE).read_bytes() == before
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", GOLDEN_FILE, "model.safetensors"]


def test_trained_weights_in_bfloat16_pass() -> None:
    """The recipe of the GPU runtimes, on the demo bundle, computed on the CPU."""
    runtime = open_torch_cuda(DEMO, device=torch.device("cpu"))
    verdict = judge(runtime, golden_of(TorchRuntime(DEMO)))
    assert verdict.prior_error > 0, "nothing was computed in bfloat16"
    assert verdict.good, str(verdict)
