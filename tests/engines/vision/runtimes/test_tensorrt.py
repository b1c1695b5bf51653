"""How engines are built, kept and judged; with torch modules in place of TensorRT, which needs a GPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from engines.errors import BackendUnavailable, EngineRefused
from engines.vision.buckets import PROFILES
from engines.vision.golden import Bounds
from engines.vision.model import VisionModel
from engines.vision.preprocess import Prepared
from engines.vision.runtimes.torch_cuda import TorchNetwork

LOOSE = Bounds(mask_iou=0.95)  # random weights hang on a thread
MODULES = ("tensorrt", "tensorrt_build", "tensorrt_engine")
MACHINE = {
    "tensorrt": "11.4.0.106",
    "driver": "580.65.06",
    "cuda": "13.0",
    "gpu": "G",
    "compute_capability": "9.0",
}


def stand_in() -> ModuleType:
    """As much of the package as is needed to import the runtime."""
    module: Any = ModuleType("tensorrt")
    severity = IntEnum("severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")
    types = IntEnum("types", "FLOAT HALF BF16 INT32 INT64 BOOL UINT8")
    module.ILogger = type("ILogger", (), {"Severity": severity})
    module.IProgressMonitor = type("IProgressMonitor", (), {})
    module.DataType = types
    module.__version__ = MACHINE["tensorrt"]
    return module  # type: ignore[no-any-return]


@dataclass
class Workshop:
    """The runtime's module, what was built with it, and where it runs."""

    module: Any
    vision_dir: Path
    cache: Path
    facts: dict[str, str] = field(default_factory=lambda: dict(MACHINE))
    built: list[str] = field(default_factory=list)
    open_engines: int = 0

    def open(self, bounds: Bounds = LOOSE) -> Any:
        return self.module.open_tensorrt(self.vision_dir, self.cache, bounds=bounds)


@pytest.fixture
def workshop(vision_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in())
    module: Any = import_module("engines.vision.runtimes.tensorrt")
    builder: Any = import_module("engines.vision.runtimes.tensorrt_build")
    shop = Workshop(module, vision_dir, tmp_path / "cache")
    model = VisionModel.load(vision_dir)
    methods: dict[str, Any] = {
        "encoder": model.encode,
        "decoder": model.decode,
        "prompted_decoder": model.decode_prompted,
    }
    graphs = tmp_path / "graphs"
    graphs.mkdir()
    for name in PROFILES:
        (graphs / name).write_text(name)

    def build(graph: Path, profiles: object, *, progress: Any, **_: object) -> object:
        progress("tactics", 1, 1)
        shop.built.append(graph.name)
        return builder.Built(plan=graph.name.encode(), timings=b"timed", layers=1)

    class StandInEngine(TorchNetwork):
        def __init__(self, plan: Path, profiles: object, device: torch.device) -> None:
            assert plan.read_bytes() == f"{plan.stem}.onnx".encode()
            super().__init__(methods[plan.stem])
            shop.open_engines += 1

        def release(self) -> None:
            super().release()
            shop.open_engines -= 1

    monkeypatch.setattr(module, "exported", lambda *_: graphs)
    monkeypatch.setattr(module, "build", build)
    monkeypatch.setattr(module, "Engine", StandInEngine)
    monkeypatch.setattr(module, "first_gpu", lambda: torch.device("cpu"))
    monkeypatch.setattr(module, "_machine_facts", lambda device: shop.facts)
    yield shop
    for name in MODULES:
        sys.modules.pop(f"engines.vision.runtimes.{name}", None)


def test_engines_are_built_once_and_serve(workshop: Workshop) -> None:
    runtime = workshop.open()
    assert workshop.built == list(PROFILES)
    side = runtime.config.image_size
    image = Prepared(np.zeros((side, side, 3), np.uint8), (side, side), (side, side))
    assert len(runtime.encode([image] * 3)) == 3
    assert runtime.info()["runtime"] == "tensorrt"
    assert runtime.info()["device"] == "G"
    runtime.close()
    workshop.open().close()
    assert workshop.built == list(PROFILES), "the second start built nothing"
    assert workshop.open_engines == 0


@pytest.mark.parametrize("fact", MACHINE)
def test_another_machine_builds_its_own(workshop: Workshop, fact: str) -> None:
    first = workshop.open()
    workshop.facts[fact] = "another"
    second = workshop.open()
    assert workshop.built == [*PROFILES, *PROFILES]
    assert first.info()["engines"] != second.info()["engines"]


def test_a_straying_engine_is_refused_and_closed(workshop: Workshop) -> None:
    with pytest.raises(EngineRefused, match=r"tensorrt strays from the reference: worst mask IoU \d\.\d+"):
        workshop.open(Bounds(prior_error=0.0))
    assert workshop.open_engines == 0


def test_an_old_tensorrt_and_a_missing_gpu_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    package: Any = stand_in()
    monkeypatch.setitem(sys.modules, "tensorrt", package)
    module: Any = import_module("engines.vision.runtimes.tensorrt")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="needs an NVIDIA GPU"):
        module.first_gpu()
    package.__version__ = "10.12.0"
    with pytest.raises(BackendUnavailable, match=r"TensorRT 10\.12\.0 is too old: pip install"):
        module.first_gpu()
    for name in MODULES:
        sys.modules.pop(f"engines.vision.runtimes.{name}", None)
