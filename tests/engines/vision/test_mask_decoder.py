"""The prompt encoder and the batched mask decoder against transformers' SAM on the same weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from transformers.models.sam.configuration_sam import SamConfig, SamMaskDecoderConfig, SamPromptEncoderConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder

from engines.vision.config import VisionConfig
from engines.vision.model import VisionModel
from engines.vision.visual_prompt import NEGATIVE, NOT_A_POINT, POSITIVE
from tests.engines.vision.sam_names import to_transformers

assert_close = partial(torch.testing.assert_close, atol=2e-5, rtol=1e-4)


class _TheirSam(nn.Module):
    """transformers' two modules, sized as ours. Its decoder has one eps; segment-anything's norms have two."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        decoder = config.decoder
        sam = SamConfig(
            vision_config={
                "hidden_size": decoder.transformer_dim,
                "num_pos_feats": decoder.transformer_dim // 2,
            },
            prompt_encoder_config=SamPromptEncoderConfig(
                hidden_size=decoder.transformer_dim,
                image_size=config.image_size,
                patch_size=config.encoder.patch_size,
                mask_input_channels=decoder.mask_in_chans,
            ),
            mask_decoder_config=SamMaskDecoderConfig(
                hidden_size=decoder.transformer_dim,
                mlp_dim=decoder.mlp_dim,
                num_hidden_layers=decoder.depth,
                num_attention_heads=decoder.num_heads,
                iou_head_depth=decoder.iou_head_depth,
                iou_head_hidden_dim=decoder.iou_head_hidden_dim,
            ),
        )
        self.prompt_encoder = SamPromptEncoder(sam)
        self.mask_decoder = SamMaskDecoder(sam.mask_decoder_config)
        for module in self.mask_decoder.transformer.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-5

    def decode(
        self, embeddings: Tensor, sparse: Tensor | None, dense: Tensor, *, multimask: bool
    ) -> list[Tensor]:
        """One image at a time, as the published code does."""
        side = embeddings.shape[-1]
        pe = self.prompt_encoder.shared_embedding(_cell_centres(side)).permute(2, 0, 1)[None]
        outputs = [
            self.mask_decoder(
                image_embeddings=embeddings[i : i + 1],
                image_positional_embeddings=pe,
                sparse_prompt_embeddings=None if sparse is None else sparse[i : i + 1, None],
                dense_prompt_embeddings=dense[i : i + 1],
                multimask_output=multimask,
            )
            for i in range(len(embeddings))
        ]
        return [torch.cat([output[k][:, 0] for output in outputs]) for k in (0, 1)]


def _cell_centres(side: int) -> Tensor:
    centres = (torch.arange(side) + 0.5) / side
    return torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1)


@pytest.fixture(scope="module")
def their_sam(vision_model: VisionModel) -> _TheirSam:
    sam = _TheirSam(vision_model.config).eval()
    sam.load_state_dict(to_transformers(vision_model.state_dict()))  # strict: every name has its counterpart
    return sam


@torch.no_grad()
@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("batch", [1, 4])
def test_decoder_equals_transformers(
    vision_model: VisionModel, their_sam: _TheirSam, batch: int, multimask: bool
) -> None:
    torch.manual_seed(batch)
    embeddings = torch.randn(batch, 16, 8, 8)
    masks = 5 * torch.randn(batch, 1, 32, 32)
    boxes = torch.tensor([[3.0, 5.0, 40.0, 60.0]]) + torch.arange(batch)[:, None]
    prompts = vision_model.prompt_encoder

    sparse, dense = their_sam.prompt_encoder(None, None, boxes[:, None], masks)
    expected_masks, expected_iou = their_sam.decode(embeddings, sparse[:, 0], dense, multimask=multimask)
    logits, iou = vision_model.mask_decoder(
        embeddings,
        prompts.pe_layer.grid(8),
        prompts.embed_boxes(boxes),
        prompts.embed_masks(masks),
        multimask=multimask,
    )

    assert expected_masks.std() > 0.2
    assert logits.shape == (batch, 3 if multimask else 1, 32, 32)
    assert_close(logits, expected_masks)
    assert_close(iou, expected_iou)


@torch.no_grad()
def test_decoder_without_sparse_prompts_equals_transformers(
    vision_model: VisionModel, their_sam: _TheirSam
) -> None:
    embeddings, masks = torch.randn(2, 16, 8, 8), 5 * torch.randn(2, 1, 32, 32)
    prompts = vision_model.prompt_encoder

    _, dense = their_sam.prompt_encoder(None, None, None, masks)
    expected, _ = their_sam.decode(embeddings, None, dense, multimask=False)
    logits, _ = vision_model.mask_decoder(
        embeddings, prompts.pe_layer.grid(8), None, prompts.embed_masks(masks)
    )

    assert_close(logits, expected)


@torch.no_grad()
def test_points_equal_transformers(vision_model: VisionModel, their_sam: _TheirSam) -> None:
    points = torch.tensor([[[3.0, 50.0], [20.5, 7.0]], [[60.0, 1.0], [0.0, 0.0]]])
    labels = torch.tensor([[POSITIVE, NEGATIVE], [NEGATIVE, POSITIVE]])

    expected, _ = their_sam.prompt_encoder(points[:, None], labels[:, None], None, None)
    padded = torch.cat([points, torch.zeros(2, 1, 2)], dim=1)  # without a box, SAM adds one "no point"
    padded_labels = torch.cat([labels, torch.full((2, 1), NOT_A_POINT)], dim=1)
    tokens = vision_model.prompt_encoder.embed_points(padded, padded_labels)

    assert expected.std() > 0.1
    assert_close(tokens, expected[:, 0])


@torch.no_grad()
def test_no_mask_stands_in_for_a_mask_prompt(vision_model: VisionModel, their_sam: _TheirSam) -> None:
    boxes = torch.tensor([[3.0, 5.0, 40.0, 60.0]])

    _, expected = their_sam.prompt_encoder(None, None, boxes[:, None], None)

    assert_close(vision_model.prompt_encoder.no_mask().expand(1, -1, 8, 8), expected)
