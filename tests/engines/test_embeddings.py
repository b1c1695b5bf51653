"""Embeddings: rounding to float16 leaves the masks alone, and whose features they are is never mistaken."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from engines.batching import MicroBatcher, in_executor
from engines.cache.observer import CountingObserver
from engines.cache.shared import Claim
from engines.embeddings import Embeddings, EncoderIdentity, SharedEmbeddings, rounded
from engines.images import ImagePreparer, PreparedImage
from engines.mllm.image import MllmImageConfig
from engines.vision.runtimes.base import DecodeItem
from engines.vision.runtimes.torch_cpu import TorchRuntime
from tests.stand_ins import TINY_VISION, VECTOR_DIM, FaultyVision, tiny_vision

BICUBIC = Image.Resampling.BICUBIC
PREPARER = ImagePreparer(MllmImageConfig(), TINY_VISION.image_size)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> TorchRuntime:
    return tiny_vision(tmp_path_factory.mktemp("vision"))


@pytest.fixture
def thread() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def prepared(seed: int) -> PreparedImage:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return PREPARER.prepare(Image.fromarray(noise).resize((120, 80), BICUBIC), f"sha256:{seed}")


def test_rounding_leaves_the_masks_alone(runtime: TorchRuntime) -> None:
    vectors = np.random.default_rng(3).normal(size=(8, VECTOR_DIM)).astype(np.float32) * 3
    differing = total = 0
    for seed in range(4):
        image = prepared(seed).vision
        [plain] = runtime.encode([image])
        [half] = rounded(runtime.encode)([image])
        assert not np.array_equal(plain.values, half.values), "nothing was rounded"
        for vector in vectors:
            before, after = runtime.decode([DecodeItem(e, vector, image.size) for e in (plain, half)])
            spread = before.mask_logits.std()
            np.testing.assert_allclose(after.mask_logits, before.mask_logits, atol=0.02 * spread)
            assert after.iou == pytest.approx(before.iou, abs=2e-3)
            differing += int(((before.mask_logits > 0) != (after.mask_logits > 0)).sum())
            total += before.mask_logits.size
    assert differing <= 1e-3 * total


class Renamed:
    """A runtime that says something else of itself."""

    def __init__(self, runtime: TorchRuntime, info: dict[str, str | int]) -> None:
        self.config = runtime.config
        self._info = runtime.info() | info

    def info(self) -> dict[str, str | int]:
        return self._info


@pytest.mark.parametrize(
    ("digest", "info", "same"),
    [
        ("weights", {}, True),
        ("weights", {"threads": 99}, True),
        ("other weights", {}, False),
        ("weights", {"runtime": "another"}, False),
        ("weights", {"encoder_precision": "bf16"}, False),
        ("weights", {"version": "0.0.1"}, False),
    ],
)
def test_the_fingerprint_is_of_weights_and_numerics(
    runtime: TorchRuntime, digest: str, info: dict[str, str | int], same: bool
) -> None:
    first = EncoderIdentity.of("weights", runtime)
    second = EncoderIdentity.of(digest, Renamed(runtime, info))  # type: ignore[arg-type]
    assert (first.fingerprint == second.fingerprint) is same
    assert (len(first.fingerprint), first.shapes) == (32, ((32, 8, 8),))


class TooSmall:
    """A level that takes nothing as large as an embedding; it must not be asked for a lease either."""

    lease_seconds = 1.0

    def takes(self, nbytes: int) -> bool:
        return nbytes < 1000

    async def claim(self, key: str, *, yielding: bool = False, again: bool = False) -> Claim:
        raise AssertionError("others would wait for what never comes")


async def test_embeddings_that_are_too_large_to_share_are_not_waited_for(
    runtime: TorchRuntime, thread: Executor
) -> None:
    vision = FaultyVision(runtime)
    shared = SharedEmbeddings(TooSmall(), EncoderIdentity.of("weights", vision))  # type: ignore[arg-type]
    counts = CountingObserver()
    encoder = MicroBatcher(in_executor(vision.encode, thread))
    embeddings = Embeddings(encoder, 1 << 20, shared, counts)
    embedding = await embeddings.get_or_encode(prepared(0))
    assert await embeddings.get_or_encode(prepared(0)) is embedding
    assert (vision.encodes, counts.misses["embedding"], counts.hits["embedding", "memory"]) == (1, 1, 1)
    await embeddings.forget("sha256:0")
    await embeddings.get_or_encode(prepared(0))
    assert vision.encodes == 2
    await embeddings.aclose()
