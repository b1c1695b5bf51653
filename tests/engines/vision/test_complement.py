"""A complement's code is pycocotools' own code of the pixels outside."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco

from engines.vision.complement import complement


def code(mask: NDArray[np.bool_]) -> bytes:
    return cast("bytes", coco.encode(np.asfortranarray(mask).view(np.uint8))["counts"])


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=9), st.booleans())
def test_a_complement_is_the_code_of_the_rest(runs: list[int], inside: bool) -> None:
    pixels = np.repeat((np.arange(len(runs)) + inside) % 2 == 1, runs)
    if pixels.size:
        mask = pixels[:, None]
        assert complement(code(mask)) == code(~mask)
        assert complement(complement(code(mask))) == code(mask)


@pytest.mark.parametrize("seed", range(5))
def test_of_noise_too(seed: int) -> None:
    mask = np.random.default_rng(seed).random((37, 53)) < 0.1 + 0.2 * seed
    assert complement(code(mask)) == code(~mask)
