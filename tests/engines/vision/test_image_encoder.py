"""The image encoder against transformers' own, and the padding that it sees."""

from __future__ import annotations

import torch
from transformers.models.sam.modeling_sam import SamVisionEncoder

from engines.vision.config import EncoderConfig, VisionConfig
from engines.vision.image_encoder import PixelNormaliser, run_image_encoder, valid_area
from engines.vision.model import VisionModel


@torch.no_grad()
def test_equals_transformers_on_the_same_weights(vision_model: VisionModel) -> None:
    ours = vision_model.image_encoder
    theirs = SamVisionEncoder(ours.config).eval()
    theirs.load_state_dict(ours.state_dict())  # strict: the names are the same
    pixels = torch.randn(2, 3, 64, 64)

    expected = theirs(pixels).last_hidden_state

    assert expected.std() > 0.1
    [embedding] = run_image_encoder(ours, pixels)
    torch.testing.assert_close(embedding, expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_relative_positions_matter(vision_model: VisionModel) -> None:
    encoder = vision_model.image_encoder
    pixels = torch.randn(1, 3, 64, 64)
    [before] = run_image_encoder(encoder, pixels)
    tables = [p for name, p in encoder.named_parameters() if "rel_pos" in name]
    kept = [table.clone() for table in tables]
    for table in tables:
        table.zero_()
    [after] = run_image_encoder(encoder, pixels)
    for table, value in zip(tables, kept, strict=True):
        table.copy_(value)

    assert len(tables) == 6
    assert (before - after).abs().max() > 1e-3


def test_normaliser_zeroes_the_padding_after_normalising(vision_config: VisionConfig) -> None:
    encoder = vision_config.encoder
    pixels = torch.full((1, 64, 64, 3), 200, dtype=torch.uint8)

    normalised = PixelNormaliser(encoder)(pixels, torch.tensor([[64, 40]]))

    inside = (200 - torch.tensor(encoder.pixel_mean)) / torch.tensor(encoder.pixel_std)
    torch.testing.assert_close(normalised[0, :, 63, 39], inside)
    assert normalised[0, :, :, 40:].eq(0).all()


def test_valid_area_counts_height_first() -> None:
    area = valid_area(torch.tensor([[2, 3], [4, 1]]), 4)

    assert area[0].nonzero().max(dim=0).values.tolist() == [1, 2]
    assert area.sum(dim=(1, 2)).tolist() == [6, 4]


def test_default_sizes_are_those_of_sam_vit_h() -> None:
    with torch.device("meta"):
        config = EncoderConfig()
        parameters = {
            "patch": config.hidden_size * (3 * config.patch_size**2 + 1),
            "positions": config.hidden_size * (config.image_size // config.patch_size) ** 2,
        }

    assert parameters == {"patch": 984_320, "positions": 5_242_880}  # of segment-anything's vit_h
