"""The trainable whole: both demo models, the packed forward pass, and dense labels that teach to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from engines.demo.models import MERGE
from engines.demo.training.answers import PackedScene
from engines.demo.training.attention import SceneAttention
from engines.demo.training.losses import dense_loss, owner_loss
from engines.demo.training.samples import CLASSES, SceneSample, View, patchify
from engines.vision.config import VisionConfig
from engines.vision.model import VisionModel

EARLY_LAYERS = 2


@dataclass(frozen=True, slots=True)
class Towers:
    """What the two image towers see in a batch of scenes.

    `embeddings` [B, C, g, g] by SAM; `tokens` [sum of image tokens, D] by Qwen2.5-VL, scene after scene;
    `loss` is the dense labels' loss.
    """

    embeddings: Tensor
    tokens: Tensor
    loss: Tensor


class Learner(nn.Module):
    """Both models and the linear heads of the dense labels, which are thrown away after training."""

    def __init__(self, language: Qwen2_5_VLConfig, vision: VisionConfig) -> None:
        super().__init__()
        self.mllm = Qwen2_5_VLForConditionalGeneration(language)
        self.vision = VisionModel.from_config(vision)
        width = language.text_config.hidden_size
        self.cell_head = nn.Linear(vision.encoder.output_channels, 2 * CLASSES)
        self.token_head = nn.Linear(width, 2 * CLASSES)
        self.state_head = nn.Linear(width, 2 * CLASSES + 2)
        self.token_owner_head = nn.Linear(width, 2)
        self.state_owner_head = nn.Linear(width, 2)
        self.centre_head = nn.Linear(width, 2)

    def start_from(self, bundle: Path) -> None:
        """Take both models' weights from a shipped bundle; the dense labels' heads begin anew."""
        shipped = Qwen2_5_VLForConditionalGeneration.from_pretrained(bundle / "mllm", dtype=torch.float32)
        self.mllm.load_state_dict(shipped.state_dict())
        self.vision.load_state_dict(VisionModel.load(bundle / "vision").state_dict())

    def glance(self, views: Sequence[View]) -> tuple[Tensor, Tensor]:
        """Qwen2.5-VL's tower alone: image tokens [sum of tokens, D], view after view, and the dense labels' loss."""
        patches = torch.as_tensor(np.concatenate([patchify(view.pixels) for view in views]))
        grids = torch.tensor([(1, *view.grid) for view in views])
        tokens: Tensor = self.mllm.model.visual(patches, grid_thw=grids).pooler_output
        labels = torch.as_tensor(np.concatenate([view.tokens for view in views]))
        owned = owner_loss(self.token_owner_head(tokens), _owners(views))
        return tokens, dense_loss(self.token_head(tokens), labels) + owned

    def look(self, samples: Sequence[SceneSample]) -> Towers:
        """Both towers over a batch of scenes."""
        pixels = torch.as_tensor(np.stack([sample.pixels for sample in samples]))
        sizes = torch.tensor([sample.size for sample in samples])
        embeddings = self.vision.encode(pixels, sizes)
        cells = torch.as_tensor(np.stack([sample.cells for sample in samples]))
        by_sam = dense_loss(self.cell_head(embeddings.flatten(2).transpose(1, 2)), cells)
        tokens, by_qwen = self.glance([sample.view for sample in samples])
        return Towers(embeddings, tokens, by_sam + by_qwen)

    def read(
        self, scenes: Sequence[PackedScene], image_tokens: Tensor, grids: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Read the packed scenes, their images' tokens put in place.

        Returns the normed last hidden states and the states after `EARLY_LAYERS` layers, both [sum of L, D].
        """
        text = self.mllm.model.language_model
        states = text.embed_tokens(torch.as_tensor(np.concatenate([scene.ids for scene in scenes])))
        states = states.to(image_tokens.dtype).index_copy(0, image_rows(scenes, grids), image_tokens)
        positions = torch.as_tensor(np.concatenate([scene.positions for scene in scenes], axis=1))
        cos, sin = text.rotary_emb(states[None], positions[:, None])
        attention = SceneAttention(scenes, cos[0], sin[0])
        early = states
        for number, layer in enumerate(text.layers, start=1):
            states = states + attention(layer.self_attn, layer.input_layernorm(states))
            states = states + layer.mlp(layer.post_attention_layernorm(states))
            early = states if number == EARLY_LAYERS else early
        return text.norm(states), early

    def state_loss(self, early: Tensor, views: Sequence[View]) -> Tensor:
        """Dense labels and places, asked of the language model's early states at its image tokens.

        What an image token is, where it stands and which object it belongs to must be there early, or later
        layers cannot look it up.
        """
        normed = F.rms_norm(early, early.shape[-1:])
        predicted = self.state_head(normed)
        labels = torch.as_tensor(np.concatenate([view.tokens for view in views]))
        places = torch.as_tensor(np.concatenate([_places(view.grid) for view in views]))
        position = F.mse_loss(predicted[:, -2:].float(), places)
        owned = owner_loss(self.state_owner_head(normed), _owners(views))
        return dense_loss(predicted[:, :-2], labels) + 4 * position + owned


def image_rows(scenes: Sequence[PackedScene], grids: Sequence[tuple[int, int]]) -> Tensor:
    """Where the image tokens of each packed scene stand in the concatenation of all of them."""
    rows, offset = [], 0
    for scene, (height, width) in zip(scenes, grids, strict=True):
        start = offset + scene.image_start
        rows.append(torch.arange(start, start + height * width // MERGE**2))
        offset += len(scene.ids)
    return torch.cat(rows)


def _owners(views: Sequence[View]) -> Tensor:
    return torch.as_tensor(np.concatenate([view.owners for view in views]))


def _places(grid: tuple[int, int]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """The (y, x) in 0..1 of each image token."""
    rows, columns = grid[0] // MERGE, grid[1] // MERGE
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    return np.stack([(y + 0.5) / rows, (x + 0.5) / columns], axis=-1).reshape(-1, 2)
