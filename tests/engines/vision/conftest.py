"""Small vision models with weights that make every path count, and inputs that are not trivial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engines.vision.config import DecoderConfig, EncoderConfig, HeatmapConfig, VisionConfig
from engines.vision.model import VisionModel


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Networks this small gain nothing from a second thread, and on a busy machine they wait for it."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def vision_config() -> VisionConfig:
    """A SAM of 64 × 64 pixels: windows that need padding (8 cells in windows of 3) and one global layer."""
    return VisionConfig(
        encoder=EncoderConfig(
            image_size=64,
            patch_size=8,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            mlp_dim=48,
            window_size=3,
            global_attn_indexes=(1,),
            output_channels=16,
        ),
        decoder=DecoderConfig(transformer_dim=16, num_heads=2, mlp_dim=24, iou_head_hidden_dim=20),
        heatmap=HeatmapConfig(vector_dim=12, num_heads=4),
    )


@pytest.fixture(scope="session")
def vision_model(vision_config: VisionConfig) -> VisionModel:
    """Weights drawn afresh, every one of them, so that no bias or position table is left at zero."""
    torch.manual_seed(7)
    model = VisionModel.from_config(vision_config)
    randomise(model)
    with torch.no_grad():  # logits that differ from prompt to prompt as much as trained ones do
        assert model.heatmap_head is not None
        model.heatmap_head.get_parameter("q_proj.weight").mul_(4)
        model.prompt_encoder.get_parameter("mask_downscaling.6.weight").mul_(4)
        for mlp in model.mask_decoder.output_hypernetworks_mlps:
            mlp.get_parameter("layers.2.weight").mul_(16)
    return model.eval()


@pytest.fixture(scope="session")
def vision_dir(vision_model: VisionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a bundle's ``vision`` directory."""
    path = tmp_path_factory.mktemp("bundle") / "vision"
    vision_model.save(path)
    return path


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    """Add noise to every parameter in place."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)


def random_pixels(count: int, side: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random uint8 pixels (count, side, side, 3) and valid sizes (count, 2), one side of each full."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    sizes = generator.integers(side // 3, side + 1, (count, 2))
    sizes[np.arange(count), generator.integers(0, 2, count)] = side
    return torch.from_numpy(pixels), torch.from_numpy(sizes)
