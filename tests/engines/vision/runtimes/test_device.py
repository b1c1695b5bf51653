"""What the GPU runtimes share, run on the CPU with torch modules in place of compiled networks."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.errors import BackendUnavailable, VisionFailed
from engines.vision.buckets import DECODER_PROFILES, DEVICE_BUCKETS, ENCODER_PROFILES, chunks, profile_of
from engines.vision.config import VisionConfig
from engines.vision.golden import judge
from engines.vision.golden_inputs import golden_of
from engines.vision.lowering import apply
from engines.vision.model import VisionModel
from engines.vision.preprocess import Prepared, prepare
from engines.vision.runtimes import DecodeItem, Embedding, VisionRuntime, open_runtime, torch_cuda
from engines.vision.runtimes.device import DeviceEmbedding, DeviceRuntime
from engines.vision.runtimes.networks import KEPT, Lane, Launch
from engines.vision.runtimes.torch_cpu import TorchRuntime
from engines.vision.runtimes.torch_cuda import RECIPE, open_torch_cuda
from engines.vision.visual_prompt import SparsePrompt
from tests.stand_ins import TINY_SAM2, TINY_VISION, VECTOR_DIM

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture(scope="module")
def reference(vision_dir: Path) -> TorchRuntime:
    return TorchRuntime(vision_dir)


@pytest.fixture(scope="module")
def runtime(vision_dir: Path) -> Iterator[DeviceRuntime]:
    opened = open_torch_cuda(vision_dir, CPU)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def images() -> list[Prepared]:
    generator = np.random.default_rng(5)
    shapes = [(64, 64, 3), (40, 90, 3), (200, 77, 3)]
    return [prepare(generator.integers(0, 256, shape, dtype=np.uint8), 64) for shape in shapes]


def prompts(runtime: VisionRuntime, images: list[Prepared], count: int) -> list[DecodeItem]:
    """Prompts on the images in turn: vectors, and every third one with points besides."""
    embeddings = runtime.encode(images)
    generator = np.random.default_rng(count)
    items = []
    for i in range(count):
        vector = generator.standard_normal(12).astype(np.float32)
        points = generator.uniform(0, 64, (2, 2)).astype(np.float32)
        sparse = SparsePrompt(points, np.array([1, -1])) if i % 3 == 2 else None
        items.append(DecodeItem(embeddings[i % 3], vector, images[i % 3].size, sparse))
    return items


@pytest.mark.parametrize("count", [1, 2, 3, 7, 33, 70])
def test_every_count_gives_what_the_reference_gives(
    reference: TorchRuntime, runtime: DeviceRuntime, images: list[Prepared], count: int
) -> None:
    """Batches that are filled up, and more than fit the largest bucket. Embeddings are the reference's."""
    items = prompts(reference, images, count)

    for expected, found in zip(reference.decode(items), runtime.decode(items), strict=True):
        np.testing.assert_allclose(found.mask_logits, expected.mask_logits, atol=1e-3)
        np.testing.assert_allclose(found.prior_logits, expected.prior_logits, atol=1e-3)
        assert found.iou == pytest.approx(expected.iou, abs=1e-3)


@pytest.mark.parametrize("count", [1, 3, 11])
def test_embeddings_stay_on_the_device_and_close_to_the_reference(
    reference: TorchRuntime, runtime: DeviceRuntime, images: list[Prepared], count: int
) -> None:
    asked = [images[i % 3] for i in range(count)]

    for expected, found in zip(reference.encode(asked), runtime.encode(asked), strict=True):
        assert isinstance(found, DeviceEmbedding)
        assert found.rounded() is found
        assert found.shapes == expected.shapes
        assert found.nbytes == expected.nbytes // 2, "float16"
        error = np.abs(found.values - expected.values)
        assert 0 < error.mean() < 0.02 * expected.values.std(), "bfloat16 blocks"


def test_later_batches_do_not_change_earlier_embeddings(
    runtime: DeviceRuntime, images: list[Prepared]
) -> None:
    [first] = runtime.encode(images[:1])
    kept = first.values.copy()
    runtime.encode(images[1:2])

    np.testing.assert_array_equal(first.values, kept)


def test_embeddings_of_host_and_device_mix_in_a_batch(runtime: DeviceRuntime, images: list[Prepared]) -> None:
    items = prompts(runtime, images, 3)
    hosted = [replace(item, embedding=Embedding(item.embedding.values)) for item in items]

    mixed = runtime.decode([items[0], hosted[1], items[2]])
    for expected, found in zip(runtime.decode(items), mixed, strict=True):
        np.testing.assert_array_equal(found.mask_logits, expected.mask_logits)


def test_calls_from_many_threads_do_not_mix(runtime: DeviceRuntime, images: list[Prepared]) -> None:
    expected = [embedding.values for embedding in runtime.encode(images)]
    order = [i % 3 for i in range(30)]

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda i: runtime.encode([images[i]])[0].values, order))

    for i, values in zip(order, results, strict=True):
        np.testing.assert_allclose(values, expected[i], atol=2e-2)


def test_faults_name_the_item(runtime: DeviceRuntime, images: list[Prepared]) -> None:
    items = prompts(runtime, images, 2)
    faulty = replace(items[1], vector=np.full(12, np.nan, np.float32))
    with pytest.raises(VisionFailed, match="vector 1 holds a value that is not finite"):
        runtime.decode([items[0], faulty])
    overflowing = replace(items[1], vector=np.full(12, 3e38, np.float32))
    with pytest.raises(VisionFailed, match="of item 1 holds a value that is not finite"):
        runtime.decode([items[0], overflowing])
    assert len(runtime.decode(items)) == 2
    assert runtime.decode([]) == []
    assert runtime.encode([]) == []


def test_warm_up_and_info(runtime: DeviceRuntime) -> None:
    runtime.warm_up()
    assert runtime.info()["encoder_precision"] == "bf16 blocks, fp32 norms"


def test_blocks_in_bfloat16_pass_the_golden_gate(reference: TorchRuntime, runtime: DeviceRuntime) -> None:
    verdict = judge(runtime, golden_of(reference))

    assert verdict.prior_error > 0, "nothing was computed in bfloat16"
    assert verdict.prior_error < 0.05
    assert verdict.mask_iou > 0.95, (
        "random weights hang on a thread; the demo bundle's bound is in test_golden"
    )


def test_without_a_gpu_it_says_so(vision_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match=r"no NVIDIA GPU: pip install '\.\[gpu\]'"):
        open_torch_cuda(vision_dir)


def test_it_is_opened_warm(vision_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warmed: list[object] = []
    monkeypatch.setattr("engines.vision.runtimes.usable_gpus", lambda: 1)
    monkeypatch.setattr(torch_cuda, "open_torch_cuda", lambda folder: open_torch_cuda(folder, CPU))
    monkeypatch.setattr(DeviceRuntime, "warm_up", lambda self: warmed.append(self))
    opened = open_runtime("torch", vision_dir)
    opened.close()
    assert warmed == [opened]


@pytest.mark.parametrize("config", [TINY_VISION, TINY_SAM2], ids=["sam", "sam2"])
def test_no_network_makes_or_reads_anything_on_the_host(
    config: VisionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor of the host among the device's would fail there, and a value that is read would break a graph.

    Tensors on ``meta``, which hold nothing, fail of both, too; autocast, which is only ever turned off, knows no meta.
    """
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())
    model = VisionModel(config)
    apply(RECIPE, model)
    model.to(META)
    side, vector = config.image_size, torch.zeros(2, VECTOR_DIM, device=META)
    sizes, owners = (torch.zeros(shape, dtype=torch.int64, device=META) for shape in ((2, 2), (2,)))
    with torch.inference_mode():
        features = model.features(torch.zeros(2, side, side, 3, dtype=torch.uint8, device=META), sizes)
        embeddings, *levels = features
        fine, labels, points = tuple(levels), sizes, torch.zeros(2, 2, 2, device=META)
        outputs = [*features]
        outputs += model.decode_prompted(embeddings, vector, sizes, owners, owners > 0, points, labels, fine)
        if config.heatmap is not None:
            outputs += model.decode(embeddings, vector, sizes, owners)
        if config.adapter is not None:
            outputs += model.decode_sentences(embeddings, vector[:, None], vector, owners, fine)
    assert all(output.device == META for output in outputs)


class Doubling:
    """A network that notes which buffers it was bound to."""

    def __init__(self) -> None:
        self.bound: list[tuple[int, ...]] = []

    def bind(self, inputs: Mapping[str, Tensor]) -> Launch:
        [values] = inputs.values()
        self.bound.append(tuple(values.shape))

        def launch() -> Sequence[Tensor]:
            return [values * 2]

        return launch

    def release(self) -> None:
        self.bound.clear()


def doubled(lane: Lane, bucket: int, count: int, width: int = 5) -> None:
    """Run `count` rows of that width and see that they come back twice as large."""
    values = np.arange(count * width, dtype=np.float32).reshape(count, width)
    out = lane.run(bucket, {"values": values}, lambda outputs: outputs[0].numpy().copy())
    np.testing.assert_array_equal(out[:count], 2 * values)


def test_a_lane_binds_each_bucket_once() -> None:
    network = Doubling()
    lane = Lane(network, CPU, 4, graphs=True)
    for bucket, count in ((4, 3), (4, 4), (2, 2), (4, 1)):
        doubled(lane, bucket, count)
    assert network.bound == [(4, 5), (2, 5)]


def test_a_lane_keeps_so_many_shapes() -> None:
    network = Doubling()
    lane = Lane(network, CPU, 2, graphs=False)
    for width in (1, *range(1, KEPT + 2), 1):
        doubled(lane, 2, 2, width)
    assert network.bound == [(2, width) for width in (*range(1, KEPT + 2), 1)]


def test_a_lane_keeps_the_buffers_of_those_shapes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = Lane(Doubling(), CPU, 2, graphs=False)
    made = list[weakref.ref[Tensor]]()
    zeros = torch.zeros

    def noted(*shape: Any, **options: Any) -> Tensor:
        buffer = zeros(*shape, **options)
        made.append(weakref.ref(buffer))
        return buffer

    monkeypatch.setattr(torch, "zeros", noted)
    for width in range(1, 3 * KEPT):
        doubled(lane, 2, 2, width)
        doubled(lane, 1, 1, width)
    alive = sum(buffer() is not None for buffer in made)
    assert alive == KEPT, "two for each shape, which both buckets share"


def test_what_is_left_of_a_larger_batch_does_not_matter(
    reference: TorchRuntime, vision_dir: Path, images: list[Prepared]
) -> None:
    """The second part of so large a call meets images in another order than it names them."""
    embeddings = reference.encode(images)
    vector = np.ones(12, np.float32)
    order = [0, 1] * 16 + [0, 0, 0, 2, 1]
    items = [DecodeItem(embeddings[place], vector, images[place].size) for place in order]
    runtime = open_torch_cuda(vision_dir, CPU)
    runtime.decode(items[:3])
    runtime.decode(items)
    for expected, found in zip(reference.decode(items[:3]), runtime.decode(items[:3]), strict=True):
        np.testing.assert_allclose(found.mask_logits, expected.mask_logits, atol=1e-3)
    runtime.close()


def test_every_count_finds_its_buckets() -> None:
    assert [(part.start, part.stop, bucket) for part, bucket in chunks(19, (1, 2, 4, 8))] == [
        (0, 8, 8),
        (8, 16, 8),
        (16, 19, 4),
    ]
    assert list(chunks(0, (1, 2))) == []


def test_every_bucket_has_a_profile() -> None:
    assert [profile_of(bucket, ENCODER_PROFILES) for bucket in DEVICE_BUCKETS.encode] == [0, 1, 1, 2]
    assert [profile_of(bucket, DECODER_PROFILES) for bucket in DEVICE_BUCKETS.decode] == [0, 1, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="batch of 9"):
        profile_of(9, ENCODER_PROFILES)
