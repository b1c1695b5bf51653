"""Tiny random models in the file layouts that their authors publish."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import Qwen2_5_VLForConditionalGeneration, SamConfig

from engines.vision.config import DecoderConfig, EncoderConfig, HeatmapConfig, VisionConfig
from engines.vision.model import VisionModel
from tests.engines.vision.sam_names import to_transformers

ENCODER = EncoderConfig(
    image_size=64,
    patch_size=8,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    mlp_dim=64,
    window_size=3,
    global_attn_indexes=(1,),
    output_channels=32,
)
DECODER = DecoderConfig(transformer_dim=32, num_heads=8, mlp_dim=64, iou_head_hidden_dim=32)
CORE = ("prompt_encoder.", "mask_decoder.")


def build_vision(vector_dim: int | None, seed: int = 3) -> VisionModel:
    """A SAM, with a heatmap head if there is a `vector_dim`; every weight drawn, none too small to matter."""
    torch.manual_seed(seed)
    heatmap = HeatmapConfig(vector_dim=vector_dim, num_heads=4) if vector_dim else None
    model = VisionModel.from_config(VisionConfig(encoder=ENCODER, decoder=DECODER, heatmap=heatmap))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for mlp in model.mask_decoder.output_hypernetworks_mlps:
            mlp.get_parameter("layers.2.weight").mul_(8)
    return model.eval()


def segment_anything_names(model: VisionModel) -> dict[str, Tensor]:
    """The state of a SAM as ``sam_vit_*.pth`` names it."""
    renames = (
        ("image_encoder.patch_embed.projection.", "image_encoder.patch_embed.proj."),
        ("image_encoder.layers.", "image_encoder.blocks."),
        ("image_encoder.neck.conv1.", "image_encoder.neck.0."),
        ("image_encoder.neck.layer_norm1.", "image_encoder.neck.1."),
        ("image_encoder.neck.conv2.", "image_encoder.neck.2."),
        ("image_encoder.neck.layer_norm2.", "image_encoder.neck.3."),
        (".layer_norm", ".norm"),
    )
    state = {}
    for name, value in model.state_dict().items():
        if name.startswith("heatmap_head."):
            continue
        for old, new in renames if name.startswith("image_encoder.") else ():
            name = name.replace(old, new)
        state[name] = value.clone()
    return state


def write_sam(model: VisionModel, file: Path) -> Path:
    """A SAM as segment-anything publishes it."""
    torch.save(segment_anything_names(model), file)
    return file


def hugging_face_config() -> SamConfig:
    """The sizes of the same SAM for transformers."""
    sides = {"image_size": ENCODER.image_size, "patch_size": ENCODER.patch_size}
    return SamConfig(
        vision_config={
            **sides,
            "hidden_size": ENCODER.hidden_size,
            "num_hidden_layers": ENCODER.num_hidden_layers,
            "num_attention_heads": ENCODER.num_attention_heads,
            "mlp_dim": ENCODER.mlp_dim,
            "window_size": ENCODER.window_size,
            "global_attn_indexes": list(ENCODER.global_attn_indexes),
            "output_channels": ENCODER.output_channels,
            "num_pos_feats": DECODER.transformer_dim // 2,
        },
        prompt_encoder_config={**sides, "hidden_size": DECODER.transformer_dim},
        mask_decoder_config={
            "hidden_size": DECODER.transformer_dim,
            "mlp_dim": DECODER.mlp_dim,
            "iou_head_hidden_dim": DECODER.iou_head_hidden_dim,
        },
    )


def hugging_face_names(model: VisionModel) -> dict[str, Tensor]:
    """The state of a SAM as ``facebook/sam-vit-*`` names it."""
    own = model.state_dict()
    state = {
        name.replace("image_encoder.", "vision_encoder.", 1): value
        for name, value in own.items()
        if name.startswith("image_encoder.")
    }
    state |= to_transformers({name: value for name, value in own.items() if name.startswith(CORE)})
    positions = state["prompt_encoder.shared_embedding.positional_embedding"]
    return state | {"shared_image_embedding.positional_embedding": positions.clone()}


def write_hugging_face_sam(model: VisionModel, folder: Path) -> Path:
    """A SAM as ``facebook/sam-vit-*`` has it."""
    folder.mkdir(parents=True)
    state = {name: value.contiguous() for name, value in hugging_face_names(model).items()}
    save_file(state, folder / "model.safetensors")
    return folder


def coprs_state(base: Path, vision: VisionModel, seed: int = 5) -> dict[str, Tensor]:
    """A whole CoPRS state: a trained language model with one row more than its base's, and the vision parts."""
    llm = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    llm.resize_token_embeddings(llm.get_input_embeddings().num_embeddings + 1, mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in llm.state_dict().items():
        noise = torch.randn(value.shape, generator=generator) * 0.02 if value.ndim > 1 else 0.0
        state[f"llm.{name}"] = value + noise
    if "llm.lm_head.weight" in state:  # one matrix under two names
        state["llm.lm_head.weight"] = state["llm.model.language_model.embed_tokens.weight"]
    parts = ("heatmap_head.", *CORE)
    return state | {n: v.clone() for n, v in vision.state_dict().items() if n.startswith(parts)}


def write_shards(
    state: dict[str, Tensor],
    folder: Path,
    world: int,
    placement: Placement = Shard(0),
    *,
    heads: bool = False,
) -> Path:
    """The state as CoPRS's ranks save it, in torch's older file format.

    The language model is sharded; buffers and, unless `heads` are sharded too, the vision parts are whole in every
    file, for the training wraps them without sharding. The files are of GPUs and of torch 2.6, as it pins.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for rank in range(world):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
        try:
            mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("fsdp",))
            shard = {
                name: _piece(value, rank, world, mesh, placement)
                if name.startswith("llm.") or (heads and "positional_encoding" not in name)
                else value
                for name, value in state.items()
            }
            file = folder / f"model_world_size_{world}_rank_{rank}.pt"
            with (
                patch.object(DeviceMesh, "__getstate__", _mesh_on_gpus),
                patch.object(DTensorSpec, "__getstate__", _spec_of_torch_2_6, create=True),
            ):
                torch.save(shard, file, _use_new_zipfile_serialization=False)
        finally:
            dist.destroy_process_group()
    whole = {name: value for name, value in state.items() if not name.startswith("llm.")}
    torch.save(whole, folder / "refseg_modules.pt")
    return folder


def _piece(value: Tensor, rank: int, world: int, mesh: DeviceMesh, placement: Placement) -> Tensor:
    dim = placement.dim if isinstance(placement, Shard) else 0
    rows = -(-value.shape[dim] // world)
    local = value.narrow(dim, min(rank * rows, value.shape[dim]), _rows(value.shape[dim], rank, rows)).clone()
    if not isinstance(placement, Shard):
        local = value.clone()
    return DTensor.from_local(
        local, mesh, [placement], run_check=False, shape=value.shape, stride=value.stride()
    )


def _rows(length: int, rank: int, rows: int) -> int:
    return max(0, min(rows, length - rank * rows))


def _mesh_on_gpus(mesh: DeviceMesh) -> dict[str, object]:
    """What torch 2.6 pickles of a mesh of GPUs."""
    ranks = mesh.mesh.flatten().tolist()
    return {
        "device_type": "cuda",
        "mesh": mesh.mesh.clone(),
        "mesh_dim_names": ("fsdp",),
        "_flatten_mesh_list": tuple(ranks),
        "_thread_id": None,
        "_dim_group_infos": [("", ranks, "default_pg")],
        "_coordinate_on_dim": [dist.get_rank()],
    }


def _spec_of_torch_2_6(spec: DTensorSpec) -> dict[str, object]:
    """What torch 2.6 pickles of a tensor's place on a mesh."""
    return {"mesh": spec.mesh, "placements": spec.placements, "tensor_meta": spec.tensor_meta, "_hash": None}
