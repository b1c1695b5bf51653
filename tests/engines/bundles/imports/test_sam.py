"""SAMs under the names of segment-anything, of Hugging Face and of MobileSAM; what does not fit is listed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engines.bundles.imports.sam import read_sam
from engines.errors import CheckpointError
from engines.vision.config import VisionConfig
from engines.vision.model import VisionModel
from tests.engines.bundles.imports.plain import SIDE, PlainSam, scene
from tests.engines.bundles.imports.published import (
    DECODER,
    ENCODER,
    build_vision,
    segment_anything_names,
    write_hugging_face_sam,
    write_sam,
)


@pytest.fixture(scope="module")
def model() -> VisionModel:
    return build_vision(None)


@pytest.mark.parametrize("layout", ["segment-anything", "hugging-face"])
def test_sizes_and_weights_arrive(model: VisionModel, tmp_path: Path, layout: str) -> None:
    if layout == "segment-anything":
        sam = read_sam(str(write_sam(model, tmp_path / "sam_vit_b.pth")))
    else:
        sam = read_sam(str(write_hugging_face_sam(model, tmp_path / "sam-vit-base")))
    assert (sam.encoder, sam.decoder) == (ENCODER, DECODER)
    wanted = model.state_dict()
    assert sam.tensors.keys() == wanted.keys()
    assert all(torch.equal(sam.tensors[name], value) for name, value in wanted.items())


def test_the_imported_encoder_is_transformers_sam(model: VisionModel, tmp_path: Path) -> None:
    sam = read_sam(str(write_sam(model, tmp_path / "sam.pth")))
    made = VisionModel(VisionConfig(encoder=sam.encoder, decoder=sam.decoder)).eval()
    made.load_state_dict(dict(sam.tensors))
    expected, (height, width) = PlainSam(None).embedding(scene(1))
    pixels = torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8)

    resized = np.array(scene(1).resize((width, height), Image.Resampling.BILINEAR))
    pixels[0, :height, :width] = torch.from_numpy(resized)
    with torch.no_grad():
        embedding = made.encode(pixels, torch.tensor([[height, width]]))
    assert expected.std() > 0.1
    torch.testing.assert_close(embedding, expected, atol=1e-4, rtol=1e-4)


def test_every_tensor_without_a_place_is_listed(model: VisionModel, tmp_path: Path) -> None:
    state = segment_anything_names(model) | {"stray.a": torch.zeros(1), "image_encoder.stray": torch.zeros(1)}
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(
        CheckpointError, match=r"nothing here has a place for: image_encoder\.stray, stray\.a"
    ):
        read_sam(str(tmp_path / "sam.pth"))


def test_a_tensor_that_is_not_there_is_named(model: VisionModel, tmp_path: Path) -> None:
    state = segment_anything_names(model)
    del state["mask_decoder.iou_token.weight"], state["image_encoder.blocks.1.attn.qkv.bias"]
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(
        CheckpointError, match=r"lacks: image_encoder\.layers\.1\.attn\.qkv\.bias, mask_decoder"
    ):
        read_sam(str(tmp_path / "sam.pth"))


def test_what_is_no_sam_is_refused(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"no SAM that is known here; it begins with conv\.weight"):
        read_sam(str(tmp_path / "net.pth"))
