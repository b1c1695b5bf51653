"""ConverSeg-Net from its published files: the LoRA in the weights, the masks those of its plain arithmetic."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as reference_resize

from engines.bundles import Bundle
from engines.bundles.imports.converseg import ANSWER, import_converseg
from engines.bundles.imports.language_model import published_name
from engines.errors import CheckpointError
from engines.images import ImagePreparer
from engines.mllm.image import smart_resize
from engines.request import mask_types
from engines.vision.runtimes.base import DecodeItem, Sentence
from engines.vision.runtimes.torch_cpu import TorchRuntime
from tests.engines.bundles.imports.plain import scene
from tests.engines.bundles.imports.published_converseg import (
    ConverSeg,
    build_converseg,
    plain_logits,
    plain_states,
    square,
)

ADAPTER = "ConverSeg-Net_plm_90000.torch"
SAM = "ConverSeg-Net_sam2_90000.torch.torch"
LORA = "lora_plm_adapter_90000"


@pytest.fixture(scope="module")
def model(base: Path, tmp_path_factory: pytest.TempPathFactory) -> ConverSeg:
    return build_converseg(base, tmp_path_factory.mktemp("ConverSeg-Net-3B"))


@pytest.fixture(scope="module")
def bundle(model: ConverSeg, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make(model.folder, model.base, tmp_path_factory.mktemp("bundles") / "converseg")


def make(folder: Path, base: Path, out: Path, max_pixels: int | None = None) -> Bundle:
    return import_converseg(str(folder), str(base), out, max_pixels=max_pixels, progress=lambda _: None)


def test_a_bundle_that_only_reads_is_made(bundle: Bundle) -> None:
    assert (bundle.grounder, bundle.roles, bundle.pooled) == ("converseg", ("concentrate",), "all")
    assert (bundle.answer, bundle.vision.fit) == (ANSWER, "centre")
    assert mask_types(bundle.answer) == ("auto", "modal")
    Bundle.load(bundle.path)


def test_the_lora_is_in_the_weights(model: ConverSeg, bundle: Bundle) -> None:
    stored = load_file(bundle.mllm_path / "model.safetensors")
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(model.base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(plain, model.folder / LORA).merge_and_unload().state_dict()
    before = load_file(model.base / "model.safetensors")
    changed = 0
    for name, value in merged.items():
        place = published_name(name)
        if place not in stored:
            continue
        torch.testing.assert_close(stored[place].float(), value, atol=1e-4, rtol=2**-7)
        old = next(weight for known, weight in before.items() if published_name(known) == place)
        changed += not torch.equal(old, stored[place])
    assert changed == 7 * 3 + 3 * 2  # every projection of three layers, and the MLPs of two blocks that see


def test_the_places_of_the_prompts_tokens_are_those_of_its_own_code(model: ConverSeg, bundle: Bundle) -> None:
    assert bundle.reader is not None
    prompt = "the mug, which is behind the box"
    image = ImagePreparer(bundle.mllm_image, 64).prepare(scene(1), "sha256:1").mllm
    assert (image.width, image.height) == (252, 252)
    places = bundle.reader.places(prompt, image)
    text, _ = plain_states(model, bundle.mllm_path, scene(1), prompt)
    assert len(places.text) == len(text)
    assert places.length == len(text) + 81 + 6  # two beginnings, two ends, and what stands around the image
    assert places.end == places.text[-1] - 1


def test_the_language_model_may_see_images_at_their_own_aspect(model: ConverSeg, tmp_path: Path) -> None:
    """As Qwen2.5-VL's published processor makes them, which is what transformers 4.57 did of the published code."""
    bundle = make(model.folder, model.base, tmp_path / "converseg", 12_845_056)
    sizes = bundle.mllm_image
    assert (sizes.min_pixels, sizes.max_pixels, sizes.square) == (3136, 12_845_056, False)
    assert bundle.reader is not None
    image = ImagePreparer(sizes, 64).prepare(scene(2), "sha256:2").mllm
    assert image.width > image.height
    text, _ = plain_states(model, bundle.mllm_path, scene(2), "the red mug", size=None)
    places = bundle.reader.places("the red mug", image)
    assert len(places.text) == len(text)
    assert places.length == len(text) + (image.width // 28) * (image.height // 28) + 6
    for width, height in ((640, 480), (333, 2000), (5000, 4000)):
        side = smart_resize(height, width, sizes)
        assert side == reference_resize(height, width, factor=28, min_pixels=3136, max_pixels=12_845_056)


def test_masks_are_those_of_the_plain_arithmetic(model: ConverSeg, bundle: Bundle) -> None:
    runtime = TorchRuntime(bundle.vision_path)
    preparer = ImagePreparer(bundle.mllm_image, bundle.vision.image_size, bundle.vision.fit)
    image = preparer.prepare(scene(2), "sha256:2").vision
    assert np.array_equal(image.pixels, square(scene(2)))
    [embedding] = runtime.encode([image])
    found = []
    for prompt in ("the red mug", "whatever is blue, and round"):
        text, end = plain_states(model, bundle.mllm_path, scene(2), prompt)
        logits, score = plain_logits(model, scene(2), text, end)
        sentence = Sentence(text.float().numpy(), end.float().numpy())
        [decoded] = runtime.decode([DecodeItem(embedding, None, image.size, sentence=sentence)])
        assert logits.min() < 0 < logits.max()
        np.testing.assert_allclose(decoded.mask_logits, logits, atol=2e-3 * logits.std())
        assert decoded.iou == pytest.approx(score, abs=1e-3)
        found.append(logits)
    assert np.abs(found[0] - found[1]).max() > 0.1 * found[0].std(), (
        "what the prompt says makes no difference"
    )


@pytest.fixture
def files(model: ConverSeg, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(model.folder, tmp_path / "published"))


@pytest.mark.parametrize("name", [ADAPTER, SAM, f"{LORA}/adapter_config.json"])
def test_a_missing_file_is_named(model: ConverSeg, files: Path, tmp_path: Path, name: str) -> None:
    (files / name).unlink()
    refused(files, model.base, tmp_path, r"holds 0 of .*, and must hold one")


def test_files_of_two_steps_are_refused(model: ConverSeg, files: Path, tmp_path: Path) -> None:
    shutil.copy(files / ADAPTER, files / "ConverSeg-Net_plm_80000.torch")
    refused(files, model.base, tmp_path, r"holds 2 of _plm_")


@pytest.mark.parametrize("name", [ADAPTER, SAM, f"{LORA}/adapter_model.safetensors"])
def test_a_truncated_file_is_named(model: ConverSeg, files: Path, tmp_path: Path, name: str) -> None:
    whole = (files / name).read_bytes()
    (files / name).write_bytes(whole[: len(whole) // 2])
    refused(files, model.base, tmp_path, rf"{Path(name).name}: (truncated|not a whole)")


class Harm:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("harm-was-done"),))


def test_pickled_code_is_not_run(
    model: ConverSeg, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (files / SAM).write_bytes(pickle.dumps({"model": Harm()}, protocol=2))
    refused(files, model.base, tmp_path, r"no code of it is run|truncated or damaged")
    assert not (tmp_path / "harm-was-done").exists()


def test_a_base_of_another_size_is_named(model: ConverSeg, files: Path, tmp_path: Path) -> None:
    state = torch.load(files / ADAPTER)
    state["plm"]["to_sparse.weight"] = torch.zeros(32, 64)
    torch.save(state, files / ADAPTER)
    refused(
        files, model.base, tmp_path, "of another size: its states have 128 numbers, those of the adapter 64"
    )


def test_a_lora_for_another_base_is_named(model: ConverSeg, files: Path, tmp_path: Path) -> None:
    file = files / LORA / "adapter_model.safetensors"
    state = load_file(file)
    name = next(name for name in state if name.endswith("lora_A.weight"))
    save_file({**state, name: torch.zeros(4, 64)}, file)
    refused(files, model.base, tmp_path, r"of another size: .* is \(\d+, \d+\), in the adapter \(\d+, 64\)")
    other = name.replace("layers.0", "layers.77").replace("blocks.0", "blocks.77")
    halves = {
        other.replace("lora_A", half): state[name.replace("lora_A", half)].clone()
        for half in ("lora_A", "lora_B")
    }
    save_file({**state, **halves}, file)
    refused(files, model.base, tmp_path, r"the base model has no .*\.77\.")


def test_what_is_not_the_adapters_is_listed(model: ConverSeg, files: Path, tmp_path: Path) -> None:
    state = torch.load(files / ADAPTER)
    state["plm"]["gate.weight"] = torch.zeros(1)
    del state["plm"]["temp"]
    torch.save(state, files / ADAPTER)
    refused(files, model.base, tmp_path, r"lacks of the adapter: temp")
    state["plm"]["temp"] = torch.ones(())
    torch.save(state, files / ADAPTER)
    refused(files, model.base, tmp_path, r"not the adapter's: gate\.weight")


def test_another_kind_of_adapter_is_refused(model: ConverSeg, files: Path, tmp_path: Path) -> None:
    file = files / LORA / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"use_dora": True}))
    refused(files, model.base, tmp_path, "use_dora is True: no plain LoRA")
    file.write_text(json.dumps(config | {"r": 8}))
    refused(files, model.base, tmp_path, "not of rank 8")


def refused(files: Path, base: Path, tmp_path: Path, fault: str) -> None:
    """The import names the fault and leaves nothing behind."""
    out = tmp_path / "out" / "converseg"
    with pytest.raises(CheckpointError, match=fault):
        make(files, base, out)
    assert not out.parent.exists() or not list(out.parent.iterdir())
