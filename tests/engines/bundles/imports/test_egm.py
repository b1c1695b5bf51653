"""EGM from its published layout: weights as they were, a template that goes on from the assistant's text."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.bundles import Bundle
from engines.bundles.imports.egm import ANSWER, import_egm
from engines.errors import CheckpointError
from engines.vision.model import VisionModel
from tests.engines.bundles.imports.published import write_hugging_face_sam
from tests.tiny_qwen3 import build_tiny_qwen3


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("EGM-4B")
    build_tiny_qwen3(folder)
    (folder / "README.md").write_text("A model card.")
    return folder


def test_a_bundle_of_boxes_is_made(
    published: Path, sam_file: Path, vision: VisionModel, tmp_path: Path
) -> None:
    bundle = import_egm(
        str(published), str(sam_file), tmp_path / "egm", max_pixels=256 * 256, progress=lambda _: None
    )
    assert (bundle.grounder, bundle.roles, bundle.answer) == ("egm", ("reason",), ANSWER)
    assert bundle.mllm_image.factor == 32
    name = "model.safetensors"
    assert (bundle.mllm_path / name).read_bytes() == (published / name).read_bytes()
    assert not (bundle.mllm_path / "README.md").exists()
    seer = VisionModel.load(bundle.vision_path)
    assert seer.heatmap_head is None
    assert seer.mask_decoder.iou_token.weight.equal(vision.mask_decoder.iou_token.weight)
    Bundle.load(bundle.path)


def test_a_shard_of_the_index_must_be_there(published: Path, sam_file: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(published, tmp_path / "published"))
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model-00002\.safetensors: the file is missing"):
        import_egm(str(folder), str(sam_file), tmp_path / "egm", progress=lambda _: None)


@pytest.mark.parametrize("kind", ["llama", "qwen2_5_vl"])
def test_another_kind_of_model_is_named(published: Path, sam_file: Path, tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(published, tmp_path / "published"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    with pytest.raises(CheckpointError, match=f"published: a {kind}, and EGM is a Qwen3-VL"):
        import_egm(str(folder), str(sam_file), tmp_path / "egm", progress=lambda _: None)


def test_both_may_be_named_as_at_hugging_face(
    published: Path, vision: VisionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From what has been downloaded before; a name that cannot be had is told."""
    revision = "0" * 40
    for name in ("nvidia--EGM-4B", "facebook--sam-vit-base"):
        (tmp_path / f"models--{name}" / "refs").mkdir(parents=True)
        (tmp_path / f"models--{name}" / "refs" / "main").write_text(revision)
    shutil.copytree(published, tmp_path / "models--nvidia--EGM-4B" / "snapshots" / revision)
    write_hugging_face_sam(vision, tmp_path / "models--facebook--sam-vit-base" / "snapshots" / revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    made = import_egm(
        "nvidia/EGM-4B",
        "facebook/sam-vit-base",
        tmp_path / "egm",
        max_pixels=256 * 256,
        progress=lambda _: None,
    )
    name = "model.safetensors"
    assert (made.mllm_path / name).read_bytes() == (published / name).read_bytes()
    assert VisionModel.load(made.vision_path).mask_decoder.iou_token.weight.equal(
        vision.mask_decoder.iou_token.weight
    )
    with pytest.raises(
        CheckpointError, match="nvidia/EGM-9B: no such folder, and not to be had by that name"
    ):
        import_egm("nvidia/EGM-9B", "facebook/sam-vit-base", tmp_path / "other", progress=lambda _: None)


class Evil:
    """Pickles as a call of a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch RAN",)


def truncate(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


FAULTS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "weights truncated": (
        lambda model, _: truncate(model / "model.safetensors"),
        r"model\.safetensors: not a whole .safetensors file",
    ),
    "weights missing": (
        lambda model, _: (model / "model.safetensors").unlink(),
        r"EGM-4B: holds no \.safetensors weights",
    ),
    "tokenizer missing": (lambda model, _: (model / "tokenizer.json").unlink(), r"tokenizer\.json: not JSON"),
    "SAM truncated": (lambda _, sam: truncate(sam), r"sam\.pth: truncated"),
    "SAM missing": (lambda _, sam: sam.unlink(), r"sam\.pth: no such folder"),
    "SAM with code": (
        lambda _, sam: torch.save({"image_encoder.pos_embed": Evil()}, sam),
        r"sam\.pth: holds more than tensors, and no code of it is run: .*system",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_the_next_try_works(
    published: Path, sam_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    out = tmp_path / "out" / "egm"
    out.parent.mkdir()
    spoil, told = FAULTS[fault]
    for spoilt in (True, False):
        model = Path(shutil.copytree(published, tmp_path / str(spoilt) / "EGM-4B"))
        sam = Path(shutil.copyfile(sam_file, tmp_path / str(spoilt) / "sam.pth"))
        if spoilt:
            spoil(model, sam)
            with pytest.raises(CheckpointError, match=told):
                import_egm(str(model), str(sam), out, max_pixels=256 * 256, progress=lambda _: None)
            assert list(out.parent.iterdir()) == []
        else:
            import_egm(str(model), str(sam), out, max_pixels=256 * 256, progress=lambda _: None)
    assert not (tmp_path / "RAN").exists()


def test_weights_in_several_files_stay_in_them(published: Path, sam_file: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(published, tmp_path / "published"))
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = {f"model-0000{i + 1}-of-00002.safetensors": sorted(state)[i::2] for i in range(2)}
    for name, held in halves.items():
        save_file({key: state[key] for key in held}, folder / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: name for name, held in halves.items() for key in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    bundle = import_egm(
        str(folder), str(sam_file), tmp_path / "egm", max_pixels=256 * 256, progress=lambda _: None
    )
    assert all((bundle.mllm_path / name).read_bytes() == (folder / name).read_bytes() for name in halves)
    assert json.loads((bundle.mllm_path / "model.safetensors.index.json").read_text()) == index
