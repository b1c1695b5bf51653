"""What the pipelines' tests share: a real vision runtime with very small weights, and one around it that fails."""

from __future__ import annotations

import pytest

from engines.vision.runtimes.torch_cpu import TorchRuntime
from tests.stand_ins import FaultyVision, tiny_vision


@pytest.fixture(scope="session")
def tiny_runtime(tmp_path_factory: pytest.TempPathFactory) -> TorchRuntime:
    return tiny_vision(tmp_path_factory.mktemp("vision"))


@pytest.fixture
def vision(tiny_runtime: TorchRuntime) -> FaultyVision:
    return FaultyVision(tiny_runtime)
