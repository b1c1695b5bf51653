"""The reference: transformers' `generate` and SAM in torch, as the papers describe it and one thing after another."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from engines.bundles import Bundle
from engines.errors import BundleError
from engines.events import Rle
from engines.mllm.answer import MAX_OBJECTS
from engines.vision.masks import finish
from engines.vision.model import VisionModel
from engines.vision.preprocess import prepare

TAIL_TOKENS = MAX_OBJECTS + 3
"""Behind the reasoning: its closing, the decision, a token for each object, the end."""


class Reference:
    """Segments with a `coprs` bundle: the model writes its whole answer, each ``<REF_POS>`` state grows into a mask."""

    name = "reference"

    def __init__(self, bundle: Path) -> None:
        """Raises BundleError for a bundle of another grounder."""
        loaded = Bundle.load(bundle, verify=False)
        self._answer = loaded.answer
        if loaded.grounder != "coprs" or loaded.answer.tokens.reference is None:
            raise BundleError(
                f"{bundle}: the reference is written for coprs bundles, this is {loaded.grounder}"
            )
        self._threshold = loaded.mask_threshold
        self._processor: Any = AutoProcessor.from_pretrained(loaded.mllm_path)
        self._model: Any = AutoModelForImageTextToText.from_pretrained(loaded.mllm_path, dtype="auto").eval()
        self._vision = VisionModel.load(loaded.vision_path)
        self._token: int = self._processor.tokenizer.convert_tokens_to_ids(loaded.answer.tokens.reference)
        self._end: int = self._processor.tokenizer.convert_tokens_to_ids(loaded.answer.tokens.end)

    @torch.inference_mode()
    def segment(self, files: Sequence[bytes], prompts: Sequence[str]) -> list[list[Rle]]:
        """The masks of each picture; several are answered as one batch of the language model."""
        images = [ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB") for file in files]
        vectors = self._vectors(images, prompts)
        return [self._masks(image, found) for image, found in zip(images, vectors, strict=True)]

    def _vectors(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Tensor]:
        """Each picture's states at its reference tokens, float32 (K, D)."""
        inputs = self._processor(
            text=[self._text(prompt) for prompt in prompts],
            images=list(images),
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        written = self._model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=self._answer.budget("full") + TAIL_TOKENS,
            eos_token_id=self._end,
            return_dict_in_generate=True,
            output_hidden_states=True,
        )
        tokens = written.sequences[:, inputs["input_ids"].shape[1] :]
        states = written.hidden_states  # a token's own state is made in the step after the one that chose it
        width = states[0][-1].shape[-1]
        found = []
        for row, ids in enumerate(tokens.tolist()):
            places = [place for place, id in enumerate(ids) if id == self._token and place + 1 < len(states)]
            rows = [states[place + 1][-1][row, -1].float() for place in places[:MAX_OBJECTS]]
            found.append(torch.stack(rows) if rows else torch.zeros(0, width))
        return found

    def _text(self, prompt: str) -> str:
        user = [{"type": "image"}, {"type": "text", "text": self._answer.user_text(prompt)}]
        messages = [
            {"role": "user", "content": user},
            {"role": "assistant", "content": self._answer.opened()},
        ]
        text: str = self._processor.apply_chat_template(messages, tokenize=False, continue_final_message=True)
        return text

    def _masks(self, image: Image.Image, vectors: Tensor) -> list[Rle]:
        """SAM encodes the picture and decodes one mask for each vector."""
        picture = prepare(np.asarray(image), self._vision.config.image_size)
        sizes = torch.tensor([picture.size])
        embedding = self._vision.encode(torch.from_numpy(picture.pixels)[None], sizes)
        if len(vectors) == 0:
            return []
        owners = torch.zeros(len(vectors), dtype=torch.int64)
        _, logits, _ = self._vision.decode(embedding, vectors, sizes[owners], owners)
        return [finish(one[0].numpy(), picture.size, picture.original, self._threshold).rle for one in logits]
