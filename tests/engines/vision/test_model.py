"""The whole vision model: batching, padding, training, and its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.errors import BundleError
from engines.vision.config import DecoderConfig, VisionConfig, load_config
from engines.vision.model import VisionModel
from tests.engines.vision.conftest import random_pixels


@torch.no_grad()
def test_a_batch_equals_its_items_one_by_one(vision_model: VisionModel) -> None:
    pixels, sizes = random_pixels(3, 64)
    vectors = torch.randn(3, 12)

    together = vision_model.decode(vision_model.encode(pixels, sizes), vectors, sizes)
    for i in range(3):
        item = slice(i, i + 1)
        alone = vision_model.decode(
            vision_model.encode(pixels[item], sizes[item]), vectors[item], sizes[item]
        )
        for all_of_them, one in zip(together, alone, strict=True):
            torch.testing.assert_close(all_of_them[item], one, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_owners_share_an_embedding_between_prompts(vision_model: VisionModel) -> None:
    pixels, sizes = random_pixels(2, 64)
    embeddings = vision_model.encode(pixels, sizes)
    owners, vectors = torch.tensor([1, 0, 1]), torch.randn(3, 12)

    shared = vision_model.decode(embeddings, vectors, sizes[owners], owners)
    copied = vision_model.decode(embeddings[owners], vectors, sizes[owners])

    assert (shared[1][0] - shared[1][2]).abs().max() > 0.1
    for ours, expected in zip(shared, copied, strict=True):
        torch.testing.assert_close(ours, expected)


@torch.no_grad()
@pytest.mark.parametrize(("size", "cells"), [((64, 64), (32, 32)), ((64, 41), (32, 21)), ((1, 64), (1, 32))])
def test_the_mask_prompt_is_minus_fifty_in_the_padding(
    vision_model: VisionModel, size: tuple[int, int], cells: tuple[int, int]
) -> None:
    prompts: list[torch.Tensor] = []
    hook = vision_model.prompt_encoder.mask_downscaling.register_forward_pre_hook(
        lambda _, inputs: prompts.append(inputs[0])
    )
    prior, _, _ = vision_model.decode(torch.randn(1, 16, 8, 8), torch.randn(1, 12), torch.tensor([size]))
    hook.remove()

    expected = torch.full((1, 1, 32, 32), -50.0)
    expected[..., : cells[0], : cells[1]] = prior[..., : cells[0], : cells[1]]
    torch.testing.assert_close(prompts[0], expected)


def test_one_step_in_bfloat16_autocast_lowers_the_loss(vision_config: VisionConfig) -> None:
    torch.manual_seed(3)
    model = VisionModel.from_config(vision_config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    pixels, sizes = random_pixels(2, 64)
    vectors, target = torch.randn(2, 12), torch.zeros(2, 1, 32, 32)
    target[..., 8:20, 4:16] = 1

    losses: list[float] = []
    for _ in range(30):
        with torch.autocast("cpu", torch.bfloat16):
            prior, masks, _ = model.decode(model.encode(pixels, sizes), vectors, sizes)
        loss = sum(
            torch.nn.functional.binary_cross_entropy_with_logits(x.float(), target) for x in (prior, masks)
        )
        assert isinstance(loss, torch.Tensor)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())

    assert losses[-1] < 0.8 * losses[0]
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"image_encoder", "heatmap_head", "prompt_encoder", "mask_decoder"}


@torch.no_grad()
def test_fresh_weights_make_embeddings_of_a_useful_size(vision_config: VisionConfig) -> None:
    torch.manual_seed(0)
    model = VisionModel.from_config(vision_config)
    pixels, sizes = random_pixels(2, 64)

    embeddings = model.encode(pixels, sizes)
    prior, masks, _ = model.decode(embeddings, torch.randn(2, 12), sizes)

    assert 0.5 < embeddings.std() < 2
    assert (embeddings[0] - embeddings[1]).abs().mean() > 0.05  # the picture shows through
    assert -3 < prior.mean() < -0.5  # nearly empty
    assert 0.05 < masks.std() < 20


def test_saved_weights_come_back(vision_model: VisionModel, vision_dir: Path) -> None:
    loaded = VisionModel.load(vision_dir)

    assert loaded.config == vision_model.config == load_config(vision_dir)
    for name, value in vision_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_half_precision_files_load_as_float32(vision_model: VisionModel, tmp_path: Path) -> None:
    vision_model.save(tmp_path, torch.bfloat16)

    loaded = VisionModel.load(tmp_path)

    assert load_file(tmp_path / "model.safetensors")["heatmap_head.q_proj.weight"].dtype == torch.bfloat16
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_a_missing_weight_is_named(vision_dir: Path, tmp_path: Path) -> None:
    weights = load_file(vision_dir / "model.safetensors")
    del weights["heatmap_head.q_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((vision_dir / "config.json").read_bytes())

    with pytest.raises(BundleError, match=r"heatmap_head\.q_proj\.weight"):
        VisionModel.load(tmp_path)


def test_a_truncated_weights_file_is_named(vision_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((vision_dir / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((vision_dir / "model.safetensors").read_bytes()[:1000])

    with pytest.raises(BundleError, match=r"model\.safetensors"):
        VisionModel.load(tmp_path)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere.config\.json"):
        VisionModel.load(tmp_path / "nowhere")


def test_sizes_that_do_not_fit_are_refused(vision_config: VisionConfig) -> None:
    other = DecoderConfig(transformer_dim=32, num_heads=2)

    with pytest.raises(ValueError, match="output_channels must equal transformer_dim"):
        VisionConfig(encoder=vision_config.encoder, decoder=other, heatmap=vision_config.heatmap)
