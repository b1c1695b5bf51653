"""A tiny random ConverSeg-Net in its published files, and its arithmetic written out plainly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from PIL import Image
from torch import Tensor, nn
from transformers import AutoProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Sam2Model

from tests.engines.bundles.imports.published_sam2 import CHANNELS, build_sam2, write_original

SIDE = 1024
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class LanguageAdapter(nn.Module):
    """The parts of the published module of that name, under their names."""

    def __init__(self, backbone: PeftModel, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.to_sparse = nn.Linear(width, CHANNELS)
        self.to_dense = nn.Sequential(nn.Linear(width, CHANNELS), nn.SiLU(), nn.Linear(CHANNELS, CHANNELS))
        self.scale = nn.Parameter(torch.tensor(1.3))
        self.txt_norm = nn.LayerNorm(width)
        self.temp = nn.Parameter(torch.tensor(0.7))


@dataclass(frozen=True)
class ConverSeg:
    """The model, and the folder with its files."""

    folder: Path
    base: Path
    plm: LanguageAdapter
    sam: Sam2Model


def build_converseg(base: Path, folder: Path, seed: int = 13) -> ConverSeg:
    """Draw one around the Qwen2.5-VL in `base` and write it, in bfloat16 where the published one is."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, dtype=torch.bfloat16)
    settings = LoraConfig(
        r=4, lora_alpha=8, target_modules=TARGETS, bias="none", task_type=TaskType.FEATURE_EXTRACTION
    )
    backbone = get_peft_model(model, settings)
    plm = LanguageAdapter(backbone, model.config.text_config.hidden_size).eval()
    with torch.no_grad():
        for name, parameter in plm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
            elif name.startswith("txt_norm"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif name.startswith(("to_sparse", "to_dense")):
                parameter.normal_(std=0.2)
    plm.to(torch.bfloat16)
    sam = build_sam2(SIDE)
    torch.save({"plm": plm.state_dict()}, folder / "ConverSeg-Net_plm_90000.torch")
    write_original(sam, folder / "ConverSeg-Net_sam2_90000.torch.torch")
    backbone.save_pretrained(str(folder / "lora_plm_adapter_90000"))
    return ConverSeg(folder, base, plm, sam)


def square(image: Image.Image) -> NDArray[np.uint8]:
    """The longer side to 1024, black on both sides of the rest."""
    pixels = np.asarray(image)
    scale = SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    resized = cv2.resize(
        pixels, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    bottom, right = SIDE - height - top, SIDE - width - left
    padded: NDArray[np.uint8] = cv2.copyMakeBorder(
        resized, top, bottom, left, right, borderType=cv2.BORDER_CONSTANT, value=(0, 0, 0)
    )
    return padded


@torch.no_grad()
def plain_states(
    model: ConverSeg,
    processor_path: Path,
    image: Image.Image,
    prompt: str,
    size: tuple[int, int] | None = (252, 252),
) -> tuple[Tensor, Tensor]:
    """The final states of the text's tokens (T, D), and of the end of the turn (D,); the LoRA beside the weights.

    `size` (width, height) is that of the language model's picture; without it the processor chooses.
    """
    processor = AutoProcessor.from_pretrained(processor_path)
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{prompt}<|im_end|>\n"
    )
    small = image.resize(size, Image.Resampling.BICUBIC) if size else image
    inputs = processor(text=[text], images=[small], return_tensors="pt")
    states = model.plm.backbone(**inputs, output_hidden_states=True).hidden_states[-1][0]
    ids = inputs["input_ids"][0]
    tokenizer = AutoTokenizer.from_pretrained(processor_path)
    marks = torch.tensor(tokenizer.all_special_ids)
    end = int((ids == tokenizer.eos_token_id).nonzero().max())
    plain = ~torch.isin(ids, marks)
    plain[end] = False
    return states[plain], states[end]


@torch.no_grad()
def plain_logits(
    model: ConverSeg, image: Image.Image, text: Tensor, end: Tensor
) -> tuple[NDArray[np.float32], float]:
    """The mask logits [256, 256] of the likeliest of three masks, and its predicted IoU."""
    pixels = (square(image).astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    fine, middle, embedding = model.sam.get_image_embeddings(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    )
    plm = model.plm
    for part in (plm.txt_norm, plm.to_sparse, plm.to_dense):
        part.float()
    sparse = plm.to_sparse(plm.txt_norm(text.float())) * plm.scale
    bias = plm.to_dense(plm.txt_norm(end.float())) * plm.temp.clamp(min=0.01)
    masks, scores, *_ = model.sam.mask_decoder(
        image_embeddings=embedding,
        image_positional_embeddings=model.sam.get_image_wide_positional_embeddings(),
        sparse_prompt_embeddings=sparse[None, None],
        dense_prompt_embeddings=bias[None, :, None, None].expand_as(embedding),
        multimask_output=True,
        high_resolution_features=[fine, middle],
    )
    best = int(scores[0, 0].argmax())
    return masks[0, 0, best].numpy(), float(scores[0, 0, best])
