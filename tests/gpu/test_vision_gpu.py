"""The GPU runtimes on a GPU: parity with the reference, graphs, streams. `make test-gpu`; skipped without one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.errors import EngineRefused
from engines.vision.buckets import DEVICE_BUCKETS
from engines.vision.golden import Bounds, read_golden, require_faithful
from engines.vision.golden_inputs import make_golden
from engines.vision.runtimes import DecodeItem, RuntimeName, VisionRuntime, open_runtime
from engines.vision.runtimes.cuda_driver import usable_gpus
from engines.vision.runtimes.device import DeviceEmbedding

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(usable_gpus() == 0, reason="there is no NVIDIA GPU here")]
DEMO = Path(__file__).parents[2] / "engines" / "demo" / "bundle" / "vision"


@pytest.fixture(scope="module")
def vision_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo bundle's vision part with golden outputs."""
    folder = tmp_path_factory.mktemp("gpu") / "vision"
    shutil.copytree(DEMO, folder)
    make_golden(folder)
    return folder


@pytest.fixture(scope="module", params=["torch", "tensorrt"])
def runtime(
    request: pytest.FixtureRequest, vision_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VisionRuntime]:
    name: RuntimeName = request.param
    if name == "tensorrt" and find_spec("tensorrt") is None:
        pytest.skip("TensorRT is not installed")
    opened = open_runtime(name, vision_dir, cache_dir=tmp_path_factory.mktemp(name))
    yield opened
    opened.close()


def items_of(runtime: VisionRuntime, vision_dir: Path) -> list[DecodeItem]:
    read = read_golden(vision_dir)
    return [item for item in read.items(runtime.encode(read.images)) if item.sparse is None]


def test_it_is_faithful_before_and_after_every_graph_is_captured(
    runtime: VisionRuntime, vision_dir: Path
) -> None:
    first = require_faithful(runtime, read_golden(vision_dir))
    runtime.warm_up()
    again = require_faithful(runtime, read_golden(vision_dir))
    assert again.mask_iou == pytest.approx(first.mask_iou, abs=1e-3)


def test_every_bucket_gives_what_single_decodes_give(runtime: VisionRuntime, vision_dir: Path) -> None:
    items = items_of(runtime, vision_dir)
    alone = [runtime.decode([item])[0].mask_logits for item in items]
    for bucket in DEVICE_BUCKETS.decode:
        for place, one in enumerate(runtime.decode([items[i % len(items)] for i in range(bucket)])):
            np.testing.assert_allclose(one.mask_logits, alone[place % len(items)], atol=0.05)


def test_embeddings_stay_on_the_gpu(runtime: VisionRuntime, vision_dir: Path) -> None:
    [embedding, *_] = runtime.encode(read_golden(vision_dir).images)
    assert isinstance(embedding, DeviceEmbedding)
    assert all(level.is_cuda for level in embedding.resident)


def test_encode_and_decode_run_side_by_side(runtime: VisionRuntime, vision_dir: Path) -> None:
    """Two streams, many threads: nobody sees another one's buffers."""
    images, items = read_golden(vision_dir).images, items_of(runtime, vision_dir)
    expected = [embedding.values for embedding in runtime.encode(images)]
    masks = [one.mask_logits for one in runtime.decode(items)]

    def work(turn: int) -> None:
        embeddings = runtime.encode([images[turn % len(images)]])
        np.testing.assert_allclose(embeddings[0].values, expected[turn % len(images)], atol=0.05)
        place = turn % len(items)
        [decoded] = runtime.decode([items[place]])
        np.testing.assert_allclose(decoded.mask_logits, masks[place], atol=0.05)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(200)))


def test_memory_is_level(runtime: VisionRuntime, vision_dir: Path) -> None:
    images, items = read_golden(vision_dir).images, items_of(runtime, vision_dir)
    runtime.warm_up()
    before = torch.cuda.memory_allocated()
    for _ in range(50):
        runtime.encode(images)
        runtime.decode(items)
    assert torch.cuda.memory_allocated() - before < 2**20


def test_a_straying_engine_does_not_serve(vision_dir: Path, tmp_path: Path) -> None:
    tensorrt = pytest.importorskip("engines.vision.runtimes.tensorrt", exc_type=ImportError)
    with pytest.raises(EngineRefused, match="worst mask IoU"):
        tensorrt.open_tensorrt(vision_dir, tmp_path, bounds=Bounds(mask_iou=1.1))
