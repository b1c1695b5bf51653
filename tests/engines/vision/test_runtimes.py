"""The OpenVINO runtime against the torch runtime on the same weights, and the faults both must name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.errors import BackendUnavailable, BundleError, GraphRejected, VisionFailed
from engines.vision.config import CONFIG_FILE
from engines.vision.model import VisionModel
from engines.vision.onnx_cache import exported, publish
from engines.vision.preprocess import Prepared, prepare
from engines.vision.runtimes import DecodeItem, RuntimeName, VisionRuntime, cuda_driver, open_runtime
from engines.vision.runtimes.openvino import OpenVinoRuntime
from engines.vision.runtimes.torch_cpu import TorchRuntime
from tests.stand_ins import TINY_SAM2, TINY_VISION


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def reference(vision_dir: Path) -> TorchRuntime:
    return TorchRuntime(vision_dir)


@pytest.fixture(scope="module")
def openvino(vision_dir: Path, cache_dir: Path) -> OpenVinoRuntime:
    return OpenVinoRuntime(vision_dir, cache_dir, threads=1, encoder_precision="fp32")


@pytest.fixture(scope="module")
def images() -> list[Prepared]:
    generator = np.random.default_rng(11)
    shapes = [(64, 64, 3), (40, 90, 3), (200, 77, 3)]
    return [prepare(generator.integers(0, 256, shape, dtype=np.uint8), 64) for shape in shapes]


def _items(runtime: VisionRuntime, images: list[Prepared]) -> list[DecodeItem]:
    """Four prompts, two of them on one image."""
    embeddings = runtime.encode(images)
    vectors = np.random.default_rng(3).standard_normal((4, 12)).astype(np.float32)
    return [
        DecodeItem(embeddings[i], vector, images[i].size)
        for i, vector in zip((2, 0, 1, 0), vectors, strict=True)
    ]


def test_embeddings_agree(reference: TorchRuntime, openvino: OpenVinoRuntime, images: list[Prepared]) -> None:
    for expected, embedding in zip(reference.encode(images), openvino.encode(images), strict=True):
        assert expected.values.std() > 0.1
        np.testing.assert_allclose(embedding.values, expected.values, atol=2e-4)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_masks_agree(
    reference: TorchRuntime, openvino: OpenVinoRuntime, images: list[Prepared], count: int
) -> None:
    items = _items(reference, images)[:count]

    decoded = openvino.decode(items)

    assert len(decoded) == count
    for expected, result in zip(reference.decode(items), decoded, strict=True):
        assert expected.mask_logits.shape == (32, 32)
        assert expected.mask_logits.std() > 0.2
        np.testing.assert_allclose(result.prior_logits, expected.prior_logits, atol=1e-4)
        np.testing.assert_allclose(result.mask_logits, expected.mask_logits, atol=5e-4)
        assert result.iou == pytest.approx(expected.iou, abs=2e-4)


def test_each_prompt_of_a_batch_gets_its_own_answer(reference: TorchRuntime, images: list[Prepared]) -> None:
    items = _items(reference, images)

    together = reference.decode(items)

    for item, result in zip(items, together, strict=True):
        [alone] = reference.decode([item])
        np.testing.assert_allclose(result.mask_logits, alone.mask_logits, atol=1e-4)
    _, first, _, second = together  # two prompts on one image
    assert np.abs(first.mask_logits - second.mask_logits).max() > 0.1


def test_bfloat16_encoder_stays_close(
    vision_dir: Path, cache_dir: Path, reference: TorchRuntime, images: list[Prepared]
) -> None:
    runtime = OpenVinoRuntime(vision_dir, cache_dir, threads=1, encoder_precision="bf16")

    for expected, embedding in zip(reference.encode(images), runtime.encode(images), strict=True):
        error = np.abs(embedding.values - expected.values)
        assert error.mean() < 0.05 * expected.values.std()
    assert runtime.info()["encoder_precision"] == "bf16"


def test_calls_from_many_threads_do_not_mix(openvino: OpenVinoRuntime, images: list[Prepared]) -> None:
    expected = [embedding.values for embedding in openvino.encode(images)]
    order = [i % 3 for i in range(60)]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: openvino.encode([images[i]])[0].values, order))

    for i, values in zip(order, results, strict=True):
        np.testing.assert_array_equal(values, expected[i])


@pytest.mark.parametrize("name", ["reference", "openvino"])
class TestFaults:
    @pytest.fixture
    def runtime(self, name: str, request: pytest.FixtureRequest) -> VisionRuntime:
        runtime: VisionRuntime = request.getfixturevalue(name)
        return runtime

    def test_nan_in_a_vector_names_the_item(self, runtime: VisionRuntime, images: list[Prepared]) -> None:
        items = _items(runtime, images)
        vector = items[2].vector
        assert vector is not None
        faulty = vector.copy()
        faulty[5] = np.nan

        with pytest.raises(VisionFailed, match=r"vector 2 .* not finite"):
            runtime.decode([*items[:2], replace(items[2], vector=faulty), items[3]])
        assert len(runtime.decode([*items[:2], items[3]])) == 3

    def test_a_vector_of_another_model_is_named(self, runtime: VisionRuntime, images: list[Prepared]) -> None:
        item = replace(_items(runtime, images)[0], vector=np.zeros(13, np.float32))

        with pytest.raises(VisionFailed, match=r"vector 0 is \(13,\), the heatmap head takes \(12,\)"):
            runtime.decode([item])

    def test_an_image_of_another_size_is_named(self, runtime: VisionRuntime) -> None:
        image = prepare(np.zeros((10, 10, 3), np.uint8), 32)

        with pytest.raises(VisionFailed, match=r"image 0 is \(32, 32, 3\)"):
            runtime.encode([image])

    def test_values_that_overflow_are_not_served(
        self, runtime: VisionRuntime, images: list[Prepared]
    ) -> None:
        item = replace(_items(runtime, images)[0], vector=np.full(12, 3e38, np.float32))

        with pytest.raises(VisionFailed, match="not finite"):
            runtime.decode([item])

    def test_nothing_in_nothing_out(self, runtime: VisionRuntime) -> None:
        assert runtime.encode([]) == []
        assert runtime.decode([]) == []

    def test_warm_up_runs(self, runtime: VisionRuntime) -> None:
        runtime.warm_up()
        assert runtime.info()["device"] == "CPU"


def test_auto_takes_openvino(vision_dir: Path, cache_dir: Path) -> None:
    runtime = open_runtime("auto", vision_dir, threads=1, cache_dir=cache_dir)

    assert runtime.info()["runtime"] == "openvino"
    assert runtime.info()["threads"] == 1
    runtime.close()


def test_torch_is_there_by_name(vision_dir: Path) -> None:
    runtime = open_runtime("torch", vision_dir, threads=torch.get_num_threads())

    assert runtime.info()["runtime"] == "torch"


@pytest.mark.parametrize(("name", "extra"), [("openvino", "cpu"), ("tensorrt", "gpu")])
def test_a_missing_package_is_named(
    vision_dir: Path, monkeypatch: pytest.MonkeyPatch, name: RuntimeName, extra: str
) -> None:
    monkeypatch.setattr("engines.vision.runtimes.find_spec", lambda name: None)

    with pytest.raises(BackendUnavailable, match=rf"package {name}: pip install '\.\[{extra}\]'"):
        open_runtime(name, vision_dir)


@pytest.mark.parametrize(
    ("gpus", "installed", "expected"),
    [
        (1, {"tensorrt", "openvino"}, "tensorrt on a GPU: there is a GPU, and TensorRT is installed"),
        (1, {"openvino"}, "torch on a GPU: there is a GPU, and TensorRT is not installed"),
        (0, {"tensorrt", "openvino"}, "openvino on the CPU: there is no GPU"),
        (0, set(), "torch on the CPU: there is no GPU that torch can use, and OpenVINO"),
    ],
)
def test_the_default_is_by_what_is_there_and_said_aloud(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    gpus: int,
    installed: set[str],
    expected: str,
) -> None:
    monkeypatch.setattr("engines.vision.runtimes.usable_gpus", lambda: gpus)
    monkeypatch.setattr(
        "engines.vision.runtimes.find_spec", lambda name: object() if name in installed else None
    )
    (tmp_path / CONFIG_FILE).write_text(TINY_VISION.model_dump_json())  # and no weights
    with caplog.at_level("INFO", "engines.vision.runtimes"), pytest.raises((BundleError, BackendUnavailable)):
        open_runtime("auto", tmp_path, cache_dir=tmp_path)
    assert f"the vision runtime is {expected}" in caplog.text


def test_what_tensorrt_does_not_know_yet_runs_in_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("engines.vision.runtimes.usable_gpus", lambda: 1)
    monkeypatch.setattr("engines.vision.runtimes.find_spec", lambda name: object())
    (tmp_path / CONFIG_FILE).write_text(TINY_SAM2.model_dump_json())  # and no weights
    with pytest.raises(BackendUnavailable, match="TensorRT serves neither SAM 2"):
        open_runtime("tensorrt", tmp_path)
    with (
        caplog.at_level("INFO", "engines.vision.runtimes"),
        pytest.raises((BundleError, BackendUnavailable)),
    ):
        open_runtime("auto", tmp_path, cache_dir=tmp_path)
    assert "torch on a GPU: there is a GPU, and TensorRT serves neither SAM 2" in caplog.text


def test_a_torch_without_cuda_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "gpu_count", lambda: 4)
    monkeypatch.setattr(cuda_driver, "version", lambda package: "2.13.0+cpu")
    assert cuda_driver.usable_gpus() == 0
    monkeypatch.setattr(cuda_driver, "version", lambda package: "2.13.0")
    assert cuda_driver.usable_gpus() == 4


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"config\.json"):
        open_runtime("openvino", tmp_path, cache_dir=tmp_path / "cache")


def test_the_export_is_kept_by_weights(
    vision_dir: Path, vision_model: VisionModel, cache_dir: Path, openvino: OpenVinoRuntime, tmp_path: Path
) -> None:
    first = exported(vision_dir, cache_dir)
    written = (first / "decoder.onnx").stat().st_mtime_ns
    assert exported(vision_dir, cache_dir) == first
    assert (first / "decoder.onnx").stat().st_mtime_ns == written
    assert {path.name for path in cache_dir.iterdir()} == {
        first.name,
        "openvino",
    }  # nothing unfinished is left

    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((vision_dir / name).read_bytes())
    os.truncate(tmp_path / "model.safetensors", 5000)
    with pytest.raises(BundleError):
        exported(tmp_path, cache_dir)  # other bytes, another key: not taken from the cache


def test_a_second_start_compiles_nothing(
    vision_dir: Path,
    cache_dir: Path,
    openvino: OpenVinoRuntime,
    images: list[Prepared],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engines.vision.runtimes.openvino._compile", None)
    second = OpenVinoRuntime(vision_dir, cache_dir, threads=1, encoder_precision="fp32")

    [expected], [found] = openvino.encode(images[:1]), second.encode(images[:1])
    np.testing.assert_array_equal(found.values, expected.values)
    assert second.info() == openvino.info()


def test_a_truncated_graph_is_named(vision_dir: Path, cache_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(exported(vision_dir, cache_dir), tmp_path / exported(vision_dir, cache_dir).name)
    file = exported(vision_dir, tmp_path) / "decoder.onnx"
    file.write_bytes(file.read_bytes()[:5000])

    with pytest.raises(GraphRejected, match=r"decoder\.onnx: OpenVINO cannot compile it"):
        OpenVinoRuntime(vision_dir, tmp_path, threads=1)


def test_of_two_exports_at_once_the_first_stays(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "encoder.onnx").write_text(name)

    publish(tmp_path / "one", tmp_path / "key")
    publish(tmp_path / "two", tmp_path / "key")

    assert (tmp_path / "key" / "encoder.onnx").read_text() == "one"
    with pytest.raises(OSError, match="nowhere"):
        publish(tmp_path / "nowhere", tmp_path / "other")


def test_a_cached_model_is_served_without_importing_torch(
    vision_dir: Path, cache_dir: Path, openvino: OpenVinoRuntime
) -> None:
    program = (
        "import sys; from pathlib import Path; from engines.vision import masks, preprocess\n"
        "from engines.vision.runtimes import open_runtime\n"
        "open_runtime('openvino', Path(sys.argv[1]), cache_dir=Path(sys.argv[2])).warm_up()\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", program, vision_dir, cache_dir], check=True, timeout=60)


def test_openvino_reports_to_nobody() -> None:
    script = (
        "import engines.vision.runtimes.openvino, sys;"
        "from openvino.tools.ovc import telemetry_utils;"
        "assert sys.modules['openvino_telemetry'] is None;"
        "assert telemetry_utils.tm.__name__ == 'openvino.tools.ovc.telemetry_stub'"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


SIGNALLED = """
import gc, os, signal, sys
from pathlib import Path
from threading import Thread
from engines.vision.runtimes.openvino import OpenVinoRuntime

signal.signal(signal.SIGHUP, lambda *_: print("told"))
held = [OpenVinoRuntime(Path(sys.argv[1]), Path(sys.argv[2]), threads=1, encoder_precision="fp32")]


def close():
    held.pop().close()
    gc.collect()


closing = Thread(target=close)
closing.start()
closing.join()
os.kill(os.getpid(), signal.SIGHUP)
"""


def test_signals_are_heard_after_another_thread_has_closed_it(vision_dir: Path, cache_dir: Path) -> None:
    command = [sys.executable, "-c", SIGNALLED, str(vision_dir), str(cache_dir)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "told\n"), ended.stderr
