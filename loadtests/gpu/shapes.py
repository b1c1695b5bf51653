"""Published sizes of language models, and what they bound: the bytes that one token must read, and so its time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from transformers import Qwen2_5_VLConfig

from engines.mllm.image import MllmImageConfig
from engines.vision.config import DecoderConfig, EncoderConfig, HeatmapConfig, VisionConfig

Precision = Literal["bf16", "fp8"]

SIGHT: Mapping[str, object] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "tokens_per_second": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
"""The image tower of Qwen2.5-VL, the same in both sizes."""
WIDE = 2  # bytes of a number in bfloat16
NARROW: Mapping[Precision, int] = {"bf16": WIDE, "fp8": 1}
"""Bytes of a number of the layers' matrices; embeddings, norms, biases and the last matrix stay in bfloat16."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen2.5-VL and the SAM beside it; `sections` are M-RoPE's, half of a head together."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool
    sections: tuple[int, int, int] = (16, 24, 24)
    sight: Mapping[str, object] = field(default_factory=lambda: SIGHT)
    image: MllmImageConfig = field(default_factory=MllmImageConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    @property
    def matrices(self) -> int:
        """Numbers in the layers' matrices."""
        head = self.hidden // self.heads
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.key_value_heads * head
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def rest(self) -> int:
        """What else one token reads: biases, norms and the matrix that gives the logits."""
        biases = self.hidden + 2 * self.key_value_heads * self.hidden // self.heads
        return self.layers * (biases + 2 * self.hidden) + self.hidden + self.vocabulary * self.hidden

    def bytes_read(self, precision: Precision) -> int:
        """Bytes of weights that the step to the next token reads, however many sequences take it together."""
        return self.matrices * NARROW[precision] + self.rest * WIDE

    def token_ms(self, precision: Precision, bandwidth: float) -> float:
        """The least time of a token, in ms, at so many TB/s: all its weights come from memory once."""
        return self.bytes_read(precision) / (bandwidth * 1e12) * 1e3

    def language_config(self, tokens: Mapping[str, int]) -> Qwen2_5_VLConfig:
        """The language model's ``config.json``; `tokens` maps special tokens to ids."""
        text = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "max_position_embeddings": 128_000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1_000_000.0,
                "mrope_section": list(self.sections),
            },
            "tie_word_embeddings": self.tied,
            "bos_token_id": None,
            "eos_token_id": tokens["<|im_end|>"],
            "pad_token_id": tokens["<|endoftext|>"],
        }
        return Qwen2_5_VLConfig(
            text_config=text,
            vision_config={**self.sight, "out_hidden_size": self.hidden},
            image_token_id=tokens["<|image_pad|>"],
            video_token_id=tokens["<|video_pad|>"],
            vision_start_token_id=tokens["<|vision_start|>"],
            vision_end_token_id=tokens["<|vision_end|>"],
            tie_word_embeddings=self.tied,
            architectures=["Qwen2_5_VLForConditionalGeneration"],
        )

    def vision_config(self) -> VisionConfig:
        """The vision model's."""
        return VisionConfig(
            encoder=self.encoder, decoder=self.decoder, heatmap=HeatmapConfig(vector_dim=self.hidden)
        )


SHAPES: Mapping[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("7b", 3584, 18_944, 28, 28, 4, 152_064, tied=False),
        Shape("3b", 2048, 11_008, 36, 16, 2, 151_936, tied=True),
    )
}
"""Qwen2.5-VL-7B and 3B beside SAM ViT-H."""
