"""The README's table of what published models need, counted anew from their sizes: their weights are not needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import (
    PretrainedConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from engines.bundles import Bundle
from engines.bundles.grounders import Grounder
from engines.bundles.imports import converseg, coprs, egm
from engines.bundles.requirements import requirements
from engines.mllm.answer import AnswerFormat
from engines.mllm.image import MllmImageConfig
from engines.vision.config import (
    AdapterConfig,
    DecoderConfig,
    EncoderConfig,
    HeatmapConfig,
    HieraConfig,
    VisionConfig,
)
from engines.vision.model import VisionModel
from loadtests.gpu.shapes import SHAPES

README = Path(__file__).parents[3] / "README.md"
GIB = 2**30
IDS = {f"<|{name}|>": n for n, name in enumerate(("im_end", "endoftext", "image_pad", "video_pad"))} | {
    "<|vision_start|>": 4,
    "<|vision_end|>": 5,
}
SAM_H = VisionConfig(encoder=EncoderConfig(), decoder=DecoderConfig())
HIERA_L = HieraConfig(
    widths=(144, 288, 576, 1152),
    depths=(2, 6, 36, 4),
    num_heads=(2, 4, 8, 16),
    window_sizes=(8, 4, 16, 8),
    global_attn_indexes=(23, 33, 43),
    fit="centre",
)


@dataclass(frozen=True)
class Row:
    """One model of the table, by its sizes."""

    grounder: Grounder
    answer: AnswerFormat
    image: MllmImageConfig
    language: PretrainedConfig
    vision: VisionConfig


def qwen3(hidden: int, intermediate: int, sight: Mapping[str, object], *, tied: bool) -> PretrainedConfig:
    """Qwen3-VL as EGM's ``config.json`` has it."""
    text = {
        "vocab_size": 151_936,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    }
    seen = {"num_heads": 16, "patch_size": 16, "num_position_embeddings": 2304, "out_hidden_size": hidden}
    return Qwen3VLConfig(text_config=text, vision_config={**seen, **sight}, tie_word_embeddings=tied)


SIGHT_4B = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "deepstack_visual_indexes": [5, 11, 17],
}
SIGHT_8B = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "deepstack_visual_indexes": [8, 16, 24],
}
EGM_IMAGE = MllmImageConfig(min_pixels=egm.MIN_PIXELS, max_pixels=egm.MAX_PIXELS, factor=32)
ROWS = {
    "EGM-4B, SAM ViT-H": Row("egm", egm.ANSWER, EGM_IMAGE, qwen3(2560, 9728, SIGHT_4B, tied=True), SAM_H),
    "EGM-8B, SAM ViT-H": Row("egm", egm.ANSWER, EGM_IMAGE, qwen3(4096, 12_288, SIGHT_8B, tied=False), SAM_H),
    "CoPRS-7B, SAM ViT-H": Row(
        "coprs",
        coprs.ANSWER,
        MllmImageConfig(min_pixels=coprs.MIN_PIXELS, max_pixels=coprs.MAX_PIXELS),
        SHAPES["7b"].language_config(IDS),
        SAM_H.model_copy(update={"heatmap": HeatmapConfig(vector_dim=3584)}),
    ),
    "ConverSeg-Net-3B, SAM 2 Hiera-L": Row(
        "converseg",
        converseg.ANSWER,
        MllmImageConfig(min_pixels=252**2, max_pixels=252**2, square=True),
        SHAPES["3b"].language_config(IDS),
        VisionConfig(
            encoder=HIERA_L, decoder=DecoderConfig(kind="sam2"), adapter=AdapterConfig(state_dim=2048)
        ),
    ),
}


def write_sizes(file: Path, weights: Mapping[str, torch.Tensor], kind: str, width: int) -> None:
    """A .safetensors file of these weights' sizes, all hole behind its header: it takes no room on the disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    header, end = {}, 0
    for name, weight in weights.items():
        start, end = end, end + weight.numel() * width
        header[name] = {"dtype": kind, "shape": list(weight.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.truncate(8 + len(text) + end)


@pytest.mark.parametrize("name", ROWS)
def test_the_table_says_what_is_counted(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    kind = (
        Qwen3VLForConditionalGeneration
        if row.language.model_type == "qwen3_vl"
        else Qwen2_5_VLForConditionalGeneration
    )
    with torch.device("meta"):
        language = dict(kind(row.language).named_parameters())  # one that is tied is there once
        vision = VisionModel(row.vision).state_dict()
    write_sizes(tmp_path / "mllm" / "model.safetensors", language, "BF16", 2)
    write_sizes(tmp_path / "vision" / "model.safetensors", vision, "F32", 4)
    row.language.save_pretrained(tmp_path / "mllm")
    needs = requirements(
        Bundle(tmp_path, "model", row.grounder, row.answer, row.image, 0.0, row.vision, vision_digest="")
    )
    bytes_ = (needs.language, needs.kv_token * needs.tokens, needs.vision, needs.least())
    cells = [name, str(needs.servers), *(f"{size / GIB:.1f} GiB" for size in bytes_)]
    line = f"| {' | '.join(cells)} | {', '.join(map(str, needs.parallel))} |"
    assert line in README.read_text(encoding="utf-8").splitlines()
