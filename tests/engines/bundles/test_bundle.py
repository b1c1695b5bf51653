"""Bundles: a whole one loads, and each fault is named with its file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from engines.bundles import Bundle, write_manifest
from engines.errors import BundleError
from engines.mllm.answer import AnswerFormat
from engines.mllm.image import MllmImageConfig
from engines.vision.config import DecoderConfig, EncoderConfig, HeatmapConfig, VisionConfig
from engines.vision.model import VisionModel

IMAGE = MllmImageConfig(min_pixels=3136, max_pixels=50176, factor=28)
WIDTH = 24
COLOURS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}


def tiny_vision() -> VisionConfig:
    """The smallest vision model that has every part."""
    encoder = EncoderConfig(
        image_size=32,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        mlp_dim=16,
        window_size=2,
        global_attn_indexes=(0,),
        output_channels=16,
    )
    decoder = DecoderConfig(transformer_dim=16, depth=1, num_heads=2, mlp_dim=16, iou_head_hidden_dim=16)
    return VisionConfig(encoder=encoder, decoder=decoder, heatmap=HeatmapConfig(vector_dim=WIDTH))


def tokenizer(specials: tuple[str, ...]) -> Tokenizer:
    """A byte-level tokenizer with these special tokens."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made = Tokenizer(models.BPE({letter: index for index, letter in enumerate(sorted(alphabet))}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True) for token in specials])
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with nothing wrong; its language model is a config and one small tensor."""
    path = tmp_path_factory.mktemp("bundle")
    VisionModel.from_config(tiny_vision()).save(path / "vision")
    mllm = path / "mllm"
    mllm.mkdir()
    (mllm / "config.json").write_text(json.dumps({"text_config": {"hidden_size": WIDTH}}))
    processor = {"min_pixels": 3136, "max_pixels": 50176, "patch_size": 14, "merge_size": 2, **COLOURS}
    (mllm / "preprocessor_config.json").write_text(json.dumps(processor))
    tokenizer(AnswerFormat().tokens.required()).save(str(mllm / "tokenizer.json"))
    save_file({"weight": torch.zeros(4)}, mllm / "model.safetensors")
    write_manifest(path, name="tiny", answer=AnswerFormat(), mllm_image=IMAGE)
    return path


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    """A copy of the whole bundle, to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


def rewrite(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the JSON object in a file."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def sign(bundle: Path) -> None:
    """Write the manifest anew, so that only what does not fit is wrong."""
    write_manifest(bundle, name="tiny", answer=AnswerFormat(), mllm_image=IMAGE)


def test_a_whole_bundle_loads(whole: Path) -> None:
    loaded = Bundle.load(whole)
    assert (loaded.name, loaded.grounder, loaded.mask_threshold) == ("tiny", "coprs", 0.0)
    assert loaded.vision == tiny_vision()
    assert loaded.answer == AnswerFormat()
    assert loaded.mllm_image == IMAGE
    assert loaded.mllm_path.is_dir()
    assert loaded.vision_path.is_dir()


def test_progress_ends_at_the_size_of_all_files(whole: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    Bundle.load(whole, progress=lambda *call: calls.append(call))
    total = sum(
        file.stat().st_size for file in whole.rglob("*") if file.name != "bundle.json" and file.is_file()
    )
    assert calls[-1][1:] == (total, total)
    assert [call[1] for call in calls] == sorted(call[1] for call in calls)


@pytest.mark.parametrize("name", ["vision/model.safetensors", "mllm/model.safetensors"])
def test_a_flipped_byte_is_found_by_digest_only(bundle: Path, name: str) -> None:
    file = bundle / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=f"{name}: its digest is sha256:"):
        Bundle.load(bundle)
    Bundle.load(bundle, verify=False)


MANIFEST_FAULTS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda m: m.update(format_version=2), "format_version: Input should be 1"),
    (lambda m: m.pop("format_version"), "format_version: Field required"),
    (lambda m: m.update(grounder="oracle"), "grounder: Input should be 'coprs', 'egm' or 'converseg'"),
    (lambda m: m.update(grounder="egm"), "answer.boxes goes with the grounder egm"),
    (lambda m: m.update(colour="red"), "colour: Extra inputs are not permitted"),
    (lambda m: m.update(name=""), "name: "),
    (lambda m: m["mllm_image"].update(factor=0), "mllm_image.factor: "),
    (lambda m: m["answer"].update(user="no field"), "user must hold {prompt} exactly once"),
    (lambda m: m["files"].update({"mllm/config.json": "md5:00"}), "not sha256:"),
]


@pytest.mark.parametrize(("change", "message"), MANIFEST_FAULTS)
def test_a_fault_in_the_manifest_names_its_field(
    bundle: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    rewrite(bundle / "bundle.json", change)
    with pytest.raises(BundleError) as caught:
        Bundle.load(bundle)
    assert str(bundle / "bundle.json") in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "mllm/../../secret",
        "mllm/./x",
        "mllm//x",
        "mllm\\..\\x",
        "C:/x",
        "mllm",
        "bundle.json",
    ],
)
def test_a_path_out_of_the_bundle_is_refused(bundle: Path, name: str) -> None:
    rewrite(bundle / "bundle.json", lambda manifest: manifest["files"].update({name: "sha256:" + "0" * 64}))
    with pytest.raises(BundleError, match="is not a plain path below"):
        Bundle.load(bundle)


@pytest.mark.parametrize("name", ["mllm/pytorch_model.bin", "vision/sam.pth"])
def test_pickles_are_refused(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"\x80\x04.")
    with pytest.raises(BundleError, match="may hold pickled code"):
        sign(bundle)


def test_a_manifest_that_is_missing_or_broken_is_named(bundle: Path) -> None:
    (bundle / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match=r"bundle\.json: content: Invalid JSON"):
        Bundle.load(bundle)
    (bundle / "bundle.json").unlink()
    with pytest.raises(BundleError, match=r"bundle\.json: cannot be read: No such file"):
        Bundle.load(bundle)


def test_a_missing_file_is_named(bundle: Path) -> None:
    (bundle / "mllm" / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"mllm/tokenizer\.json: the file is missing"):
        Bundle.load(bundle)


def test_a_file_that_every_bundle_needs_must_be_listed(bundle: Path) -> None:
    rewrite(bundle / "bundle.json", lambda manifest: manifest["files"].pop("vision/config.json"))
    with pytest.raises(BundleError, match=r"vision/config\.json: the bundle has no such file"):
        Bundle.load(bundle)
    (bundle / "mllm" / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"mllm: the language model has no \.safetensors weights"):
        sign(bundle)


def test_a_file_that_nobody_signed_is_refused(bundle: Path) -> None:
    (bundle / "mllm" / "generation_config.json").write_text("{}")
    with pytest.raises(BundleError, match=r"generation_config\.json: the file is not in the manifest"):
        Bundle.load(bundle)


def test_weights_must_fit_the_config(bundle: Path) -> None:
    file = bundle / "vision" / "model.safetensors"
    weights = load_file(file)
    save_file({**weights, "heatmap_head.q_proj.weight": torch.zeros(16, 7)}, file)
    sign(bundle)
    with pytest.raises(BundleError, match=r"heatmap_head\.q_proj\.weight is \(16, 7\), not \(16, 24\)"):
        Bundle.load(bundle)
    save_file({**weights, "stray": torch.zeros(1)}, file)
    sign(bundle)
    with pytest.raises(BundleError, match="has no place for: stray"):
        Bundle.load(bundle)
    dropped = {name: value for name, value in weights.items() if not name.startswith("mask_decoder.")}
    save_file(dropped, file)
    sign(bundle)
    with pytest.raises(BundleError, match=r"lacks mask_decoder\..* and \d+ more"):
        Bundle.load(bundle)


@pytest.mark.parametrize("name", ["vision/model.safetensors", "mllm/model.safetensors"])
def test_truncated_weights_are_named(bundle: Path, name: str) -> None:
    file = bundle / name
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(BundleError, match=f"{name}: not a whole .safetensors file"):
        Bundle.load(bundle, verify=False)


def test_every_token_with_a_meaning_must_be_one_token(bundle: Path) -> None:
    known = tuple(token for token in AnswerFormat().tokens.required() if token != "<AMODAL>")
    tokenizer(known).save(str(bundle / "mllm" / "tokenizer.json"))
    with pytest.raises(BundleError, match=r"tokenizer\.json: <AMODAL> is 8 tokens, not one"):
        Bundle.load(bundle, verify=False)
    (bundle / "mllm" / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json: not a tokenizer"):
        Bundle.load(bundle, verify=False)


def test_vectors_must_be_as_wide_as_the_heatmap_head_takes_them(bundle: Path) -> None:
    rewrite(bundle / "mllm" / "config.json", lambda config: config["text_config"].update(hidden_size=32))
    with pytest.raises(BundleError, match=r"config\.json: hidden_size is 32, .* vectors of 24"):
        Bundle.load(bundle, verify=False)
    (bundle / "mllm" / "config.json").write_text("[]")
    with pytest.raises(BundleError, match=r"mllm/config\.json: not a JSON object"):
        Bundle.load(bundle, verify=False)


def test_both_image_processors_must_agree(bundle: Path) -> None:
    file = bundle / "mllm" / "preprocessor_config.json"
    rewrite(file, lambda processor: processor.update(max_pixels=1))
    with pytest.raises(BundleError, match=r"its max_pixels is 1, but bundle\.json says 50176"):
        Bundle.load(bundle, verify=False)
    sizes = {"size": {"shortest_edge": 3136, "longest_edge": 50176}, "patch_size": 14, "merge_size": 2}
    file.write_text(json.dumps({**sizes, **COLOURS}))
    Bundle.load(bundle, verify=False)


@pytest.mark.parametrize("name", ["image_mean", "image_std"])
def test_the_image_processor_must_state_its_colours(bundle: Path, name: str) -> None:
    rewrite(bundle / "mllm" / "preprocessor_config.json", lambda processor: processor.pop(name))
    with pytest.raises(BundleError, match=rf"preprocessor_config\.json: {name} must hold three numbers"):
        Bundle.load(bundle, verify=False)


def test_a_broken_vision_config_is_named(bundle: Path) -> None:
    rewrite(bundle / "vision" / "config.json", lambda config: config["encoder"].update(image_size=30))
    with pytest.raises(BundleError, match=r"(?s)vision/config\.json: .*multiple of patch_size"):
        Bundle.load(bundle, verify=False)


def test_a_manifest_is_written_whole_or_not_at_all(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (bundle / "bundle.json").read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        sign(bundle)
    assert (bundle / "bundle.json").read_bytes() == before
    assert [file.name for file in bundle.iterdir() if file.is_file()] == ["bundle.json"]
