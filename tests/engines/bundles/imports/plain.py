"""The published systems' arithmetic written out plainly, on transformers' models and the published files' tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoProcessor, SamModel

from engines.vision.model import VisionModel
from tests.engines.bundles.imports.published import build_vision, hugging_face_config, hugging_face_names

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SIDE = 64


def scene(number: int) -> Image.Image:
    """A picture of a few shapes, another for every number."""
    image = Image.new("RGB", (120 + 24 * number, 100), (230, 225, 210))
    draw = ImageDraw.Draw(image)
    for i, colour in enumerate(("red", "blue", "green", "orange")):
        x, y = 26 * ((i + number) % 4) + 8, 22 * ((i * (number + 1)) % 4) + 6
        shape = draw.ellipse if (i + number) % 2 else draw.rectangle
        shape((x, y, x + 30 + 4 * number, y + 26), fill=colour)
    return image


class PlainSam:
    """transformers' SAM with the weights of a published one."""

    def __init__(self, vector_dim: int | None) -> None:
        source = self.source(vector_dim)
        self.head = {n: v for n, v in source.state_dict().items() if n.startswith("heatmap_head.")}
        self.sam = SamModel(hugging_face_config()).eval()
        self.sam.load_state_dict(hugging_face_names(source))

    @staticmethod
    def source(vector_dim: int | None) -> VisionModel:
        """The model whose weights are published."""
        return build_vision(vector_dim)

    def embedding(self, image: Image.Image) -> tuple[Tensor, tuple[int, int]]:
        """SAM's own preprocessing, then its encoder: (1, C, g, g) and the valid (h, w)."""
        scale = SIDE / max(image.size)
        width, height = (int(side * scale + 0.5) for side in image.size)
        resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)
        pixels = torch.from_numpy((resized - np.array(MEAN, np.float32)) / np.array(STD, np.float32))
        padded = F.pad(pixels.permute(2, 0, 1), (0, SIDE - width, 0, SIDE - height))
        with torch.no_grad():
            return self.sam.get_image_embeddings(padded[None]), (height, width)

    @torch.no_grad()
    def coprs(self, image: Image.Image, vector: Tensor) -> Tensor:
        """CoPRS, section 3: scores of four heads, fused, upsampled, −50 in the padding, as SAM's mask prompt."""
        embedding, (height, width) = self.embedding(image)
        query = (self.head["heatmap_head.q_proj.weight"] @ vector).view(4, -1)
        keys = F.conv2d(embedding, self.head["heatmap_head.k_proj.weight"])[0].unflatten(0, (4, -1))
        scores = torch.einsum("hd,hdyx->hyx", query, keys) / query.shape[1] ** 0.5
        hidden = F.silu(F.conv2d(scores[None], *self._fuser(0), padding=1))
        prior = F.interpolate(
            F.conv2d(hidden, *self._fuser(2), padding=1), scale_factor=4, mode="bilinear", align_corners=False
        )
        stride = SIDE // prior.shape[-1]
        prior[..., -(-height // stride) :, :] = -50
        prior[..., -(-width // stride) :] = -50
        return self._decode(embedding, masks=prior)

    @torch.no_grad()
    def box(self, image: Image.Image, box: tuple[float, float, float, float]) -> Tensor:
        """SAM's mask of a box, given as shares of the picture's sides."""
        embedding, (height, width) = self.embedding(image)
        corners = torch.tensor([[[box[0] * width, box[1] * height, box[2] * width, box[3] * height]]])
        return self._decode(embedding, boxes=corners)

    def _fuser(self, layer: int) -> tuple[Tensor, Tensor]:
        name = f"heatmap_head.fuser.{layer}"
        return self.head[f"{name}.weight"], self.head[f"{name}.bias"]

    def _decode(
        self, embedding: Tensor, *, masks: Tensor | None = None, boxes: Tensor | None = None
    ) -> Tensor:
        sparse, dense = self.sam.prompt_encoder(None, None, boxes, masks)
        positions = self.sam.get_image_wide_positional_embeddings()
        logits, *_ = self.sam.mask_decoder(
            image_embeddings=embedding,
            image_positional_embeddings=positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        mask: Tensor = logits[0, 0, 0]
        return mask


class PlainMllm:
    """The language model in transformers, without any cache."""

    def __init__(self, model: torch.nn.Module, folder: Path) -> None:
        self._model = model.eval()
        self._processor = AutoProcessor.from_pretrained(folder)

    def inputs(
        self, image: Image.Image, size: tuple[int, int], user: str, assistant: str
    ) -> dict[str, Tensor]:
        """`size` (width, height) is that of the language model's picture."""
        text = (
            f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{user}<|im_end|>\n"
            f"<|im_start|>assistant\n{assistant}"
        )
        pixels = image.resize(size, Image.Resampling.BICUBIC)
        return dict(self._processor(text=[text], images=[pixels], return_tensors="pt"))

    @staticmethod
    def continued(inputs: dict[str, Tensor], tokens: list[int]) -> dict[str, Tensor]:
        """The same with more of the assistant's tokens behind it."""
        longer = dict(inputs)
        for name, value in (
            ("input_ids", torch.tensor([tokens])),
            ("attention_mask", torch.ones(1, len(tokens))),
        ):
            longer[name] = torch.cat([inputs[name], value.to(inputs[name].dtype)], dim=1)
        if "mm_token_type_ids" in inputs:
            kinds = inputs["mm_token_type_ids"]
            longer["mm_token_type_ids"] = torch.cat([kinds, kinds.new_zeros(1, len(tokens))], dim=1)
        return longer

    def texts(self) -> list[str]:
        """Every token's text, by id; special tokens have none."""
        tokenizer = self._processor.tokenizer
        marks = set(tokenizer.all_special_ids)
        return ["" if token in marks else tokenizer.decode([token]) for token in range(len(tokenizer))]

    def token(self, text: str) -> int:
        """The id of a text that is one token."""
        [token] = self._processor.tokenizer.encode(text, add_special_tokens=False)
        return int(token)

    @torch.no_grad()
    def states(self, inputs: dict[str, Tensor]) -> Tensor:
        """The last hidden states, float32 (T, D)."""
        states: Tensor = self._model(**inputs, output_hidden_states=True).hidden_states[-1][0].float()
        return states

    @torch.no_grad()
    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Every position's logits, float32 (T, vocabulary)."""
        logits: Tensor = self._model(**inputs).logits[0].float()
        return logits
