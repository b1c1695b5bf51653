"""Finisher: masks come in the order in which they were wanted, however many are finished together."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engines import finishing
from engines.finishing import DecodedMask, Finisher
from engines.vision.masks import finish
from engines.vision.preprocess import Prepared
from engines.vision.runtimes.base import Decoded


@pytest.mark.parametrize("columns_at_once", [1, 200, 10_000])
def test_masks_keep_their_order(columns_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "COLUMNS_AT_ONCE", columns_at_once)
    image = Prepared(np.zeros((64, 64, 3), np.uint8), (48, 64), (75, 100))
    logits = np.random.default_rng(0).standard_normal((5, 16, 16)).astype(np.float32)
    wanted = [DecodedMask(n, "amodal", Decoded(each, each, n / 10)) for n, each in enumerate(logits)]

    with ThreadPoolExecutor(2) as threads:
        made = asyncio.run(Finisher(threads, 0.25).masks(image, wanted))

    assert [mask.object for mask in made] == [0, 1, 2, 3, 4]
    assert [mask.score for mask in made] == [0, 0.1, 0.2, 0.3, 0.4]
    assert [mask.rle for mask in made] == [finish(each, (48, 64), (75, 100), 0.25).rle for each in logits]
