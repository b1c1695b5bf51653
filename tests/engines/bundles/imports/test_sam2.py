"""SAM 2 under both published layouts' names; its features and masks are those of transformers' own SAM 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Sam2Model

from engines.bundles.imports.sam import read_sam
from engines.errors import CheckpointError
from engines.vision.config import HieraConfig, VisionConfig
from engines.vision.model import VisionModel
from engines.vision.preprocess import Prepared, prepare
from engines.vision.runtimes.base import DecodeItem, Embedding
from engines.vision.runtimes.openvino import OpenVinoRuntime
from engines.vision.runtimes.torch_cpu import TorchRuntime
from engines.vision.visual_prompt import Point, VisualPrompt
from tests.engines.bundles.imports import published_sam2 as published

SIDE = 128
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
PROMPTS = (
    VisualPrompt(box=(10, 12, 60, 50)),
    VisualPrompt(points=(Point(30, 20), Point(70, 40, positive=False))),
    VisualPrompt(box=(5, 5, 40, 44), points=(Point(20, 20),)),
)


@pytest.fixture(scope="module")
def model() -> Sam2Model:
    return published.build_sam2(SIDE)


@pytest.fixture(scope="module")
def checkpoint(model: Sam2Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.write_original(model, tmp_path_factory.mktemp("sam2") / "sam2.1_hiera_tiny.pt")


@pytest.fixture(scope="module")
def imported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``vision`` folder, at the size of the tiny images here."""
    sam = read_sam(str(checkpoint))
    encoder = sam.encoder.model_copy(update={"image_size": SIDE})
    made = VisionModel(VisionConfig(encoder=encoder, decoder=sam.decoder))
    made.load_state_dict(dict(sam.tensors))
    folder = tmp_path_factory.mktemp("vision")
    made.save(folder)
    return folder


@pytest.fixture(scope="module")
def images() -> list[Prepared]:
    generator = np.random.default_rng(5)
    pictures = (generator.integers(0, 256, shape, dtype=np.uint8) for shape in ((60, 90, 3), (200, 100, 3)))
    return [prepare(picture, SIDE, "stretch") for picture in pictures]


def plain_features(model: Sam2Model, image: Prepared) -> list[torch.Tensor]:
    """Transformers' own, the embedding last."""
    pixels = (image.pixels.astype(np.float32) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    features: list[torch.Tensor] = model.get_image_embeddings(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    )
    return features


def plain_mask(model: Sam2Model, image: Prepared, prompt: VisualPrompt) -> tuple[np.ndarray, float]:
    """Transformers' own mask and score of one prompt."""
    scale = torch.tensor([SIDE / image.original[1], SIDE / image.original[0]])
    points = torch.tensor([[[[p.x, p.y] for p in prompt.points]]]) * scale if prompt.points else None
    labels = torch.tensor([[[int(p.positive) for p in prompt.points]]]) if prompt.points else None
    boxes = None
    if prompt.box is not None:
        boxes = (torch.tensor(prompt.box).view(2, 2) * scale).view(1, 1, 4)
    with torch.no_grad():
        made = model(
            image_embeddings=plain_features(model, image),
            input_points=points,
            input_labels=labels,
            input_boxes=boxes,
            multimask_output=False,
        )
    return made.pred_masks[0, 0, 0].numpy(), float(made.iou_scores[0, 0, 0])


def test_both_layouts_give_the_same_sizes_and_weights(
    model: Sam2Model, checkpoint: Path, tmp_path: Path
) -> None:
    ours = read_sam(str(checkpoint))
    theirs = read_sam(str(published.write_hugging_face(model, tmp_path / "sam2.1-hiera-tiny")))
    assert ours.encoder == HieraConfig(
        widths=published.WIDTHS,
        depths=published.DEPTHS,
        num_heads=published.HEADS,
        window_sizes=published.WINDOWS,
        global_attn_indexes=published.GLOBAL,
        output_channels=published.CHANNELS,
    )
    assert (ours.decoder.kind, ours.decoder) == ("sam2", theirs.decoder)
    assert ours.encoder == theirs.encoder
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours.tensors[name], value) for name, value in theirs.tensors.items())


def test_features_and_masks_are_transformers(
    model: Sam2Model, imported: Path, images: list[Prepared]
) -> None:
    runtime = TorchRuntime(imported)
    for image, embedding in zip(images, runtime.encode(images), strict=True):
        expected = plain_features(model, image)
        for level, values in zip(reversed(expected), embedding.tensors, strict=True):
            assert level.std() > 0.05
            np.testing.assert_allclose(values, level[0].numpy(), atol=1e-4)
        items = [item(image, embedding, prompt) for prompt in PROMPTS]
        for prompt, decoded in zip(PROMPTS, runtime.decode(items), strict=True):
            logits, score = plain_mask(model, image, prompt)
            assert logits.std() > 0.1
            np.testing.assert_allclose(decoded.mask_logits, logits, atol=1e-3 * logits.std())
            assert decoded.iou == pytest.approx(score, abs=1e-4)


def test_openvino_gives_the_same(imported: Path, images: list[Prepared], tmp_path: Path) -> None:
    reference = TorchRuntime(imported)
    runtime = OpenVinoRuntime(imported, tmp_path, threads=1, encoder_precision="fp32")
    embeddings = reference.encode(images)
    for expected, made in zip(embeddings, runtime.encode(images), strict=True):
        for level, values in zip(expected.tensors, made.tensors, strict=True):
            np.testing.assert_allclose(values, level, atol=1e-3)
    pairs = [(image, one) for image, one in zip(images, embeddings, strict=True)]
    items = [item(image, one, prompt) for image, one in pairs for prompt in PROMPTS]
    for decoded, plain in zip(runtime.decode(items), reference.decode(items), strict=True):
        np.testing.assert_allclose(
            decoded.mask_logits, plain.mask_logits, atol=2e-3 * plain.mask_logits.std()
        )


def item(image: Prepared, embedding: Embedding, prompt: VisualPrompt) -> DecodeItem:
    return DecodeItem(embedding, None, image.size, prompt.sparse(image.original, image.size, image.corner))


def test_what_has_no_place_is_listed_and_what_lacks_is_named(model: Sam2Model, tmp_path: Path) -> None:
    state = published.original_names(model)
    torch.save({"model": state | {"sam_mask_decoder.stray": torch.zeros(1)}}, tmp_path / "more.pt")
    with pytest.raises(CheckpointError, match=r"nothing here has a place for: mask_decoder\.stray"):
        read_sam(str(tmp_path / "more.pt"))
    del state["image_encoder.trunk.blocks.3.attn.qkv.weight"]
    torch.save({"model": state}, tmp_path / "less.pt")
    with pytest.raises(
        CheckpointError, match=r"lacks: image_encoder\.backbone\.blocks\.3\.attn\.qkv\.weight"
    ):
        read_sam(str(tmp_path / "less.pt"))


def test_a_hiera_of_unknown_depths_is_refused(model: Sam2Model, tmp_path: Path) -> None:
    state = {n: v for n, v in published.original_names(model).items() if ".blocks.11." not in n}
    torch.save({"model": state}, tmp_path / "sam2.pt")
    with pytest.raises(CheckpointError, match=r"no published Hiera has stages of \(1, 2, 7, 1\) blocks"):
        read_sam(str(tmp_path / "sam2.pt"))
