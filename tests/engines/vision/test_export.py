"""The exported graphs against the torch modules: every batch size, every recipe, and what a graph must not hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from engines.errors import CacheFailed
from engines.vision import onnx_cache
from engines.vision.config import DecoderConfig, EncoderConfig, HeatmapConfig, VisionConfig
from engines.vision.export import export
from engines.vision.lowering import apply
from engines.vision.model import VisionModel
from engines.vision.onnx_cache import DECODER_FILE, ENCODER_FILE, GRAPH_FILES, PROMPTED_DECODER_FILE, exported
from engines.vision.recipe import ExportRecipe
from engines.vision.runtimes.openvino_core import process_core
from tests.engines.vision.conftest import random_pixels, randomise

DEMO = Path(__file__).parents[3] / "engines" / "demo" / "bundle" / "vision"
VIT_B = EncoderConfig(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    mlp_dim=3072,
    global_attn_indexes=(2, 5, 8, 11),
)

Inputs = dict[str, Any]
Run = Callable[[Inputs], list[Any]]


@dataclass(frozen=True)
class Exported:
    """A model and the graphs that were made of it."""

    model: VisionModel
    graphs: Path

    def images(self, batch: int) -> Inputs:
        """Inputs of the encoder."""
        pixels, sizes = random_pixels(batch, self.model.config.image_size, seed=batch)
        return {"pixels": pixels, "sizes": sizes}

    def prompts(self, batch: int) -> Inputs:
        """Inputs of the decoder: `batch` prompts on two embeddings."""
        config = self.model.config
        generator = torch.Generator().manual_seed(batch)
        shape = (2, config.decoder.transformer_dim, config.grid, config.grid)
        _, sizes = random_pixels(batch, config.image_size, seed=batch)
        return {
            "embeddings": torch.randn(shape, generator=generator),
            "vectors": torch.randn((batch, config.vector_dim), generator=generator),
            "sizes": sizes,
            "owners": torch.arange(batch) % 2,
        }

    def points(self, batch: int) -> Inputs:
        """Inputs of the prompted decoder besides those of the other: three points, guided or not by turns."""
        generator = torch.Generator().manual_seed(batch)
        return {
            "guided": torch.arange(batch) % 2 == 0,
            "points": torch.rand((batch, 3, 2), generator=generator) * self.model.config.image_size,
            "labels": torch.tensor([[1, 2, 3]]).expand(batch, 3).contiguous(),
        }


@pytest.fixture(scope="module")
def tiny(vision_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(VisionModel.load(vision_dir), exported(vision_dir, tmp_path_factory.mktemp("graphs")))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(VisionModel.load(DEMO), exported(DEMO, tmp_path_factory.mktemp("graphs")))


def in_openvino(graph: Path) -> Run:
    compiled = process_core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: list(compiled({name: value.numpy() for name, value in inputs.items()}).values())


def in_reference(graph: Path) -> Run:
    evaluator = ReferenceEvaluator(str(graph))
    return lambda inputs: evaluator.run(None, {name: value.numpy() for name, value in inputs.items()})


@torch.no_grad()
def assert_same(run: Run, function: Callable[..., Any], inputs: Inputs, tolerance: float) -> None:
    """Every output within `tolerance` times the reference's own spread."""
    expected = function(**inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for found, wanted in zip(run(inputs), expected, strict=True):
        assert wanted.shape[0] == len(next(reversed(inputs.values()))), "one result for each input"
        spread = max(wanted.std().item(), 1e-2) if wanted.numel() > 1 else 1.0
        np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=tolerance * spread)


@pytest.mark.parametrize("name", ["tiny", "demo"])
def test_graphs_equal_the_modules_at_every_batch_size(name: str, request: pytest.FixtureRequest) -> None:
    case: Exported = request.getfixturevalue(name)
    model = case.model
    encoder, decoder, prompted = (in_openvino(case.graphs / file) for file in GRAPH_FILES)
    for batch in (1, 3, 8):
        assert_same(encoder, model.encode, case.images(batch), 1e-3)
        assert_same(decoder, model.decode, case.prompts(batch), 1e-3)
        assert_same(prompted, model.decode_prompted, case.prompts(batch) | case.points(batch), 1e-3)


def test_onnx_itself_agrees(tiny: Exported) -> None:
    """By onnx's own evaluator, which shares no code with the runtimes."""
    assert_same(in_reference(tiny.graphs / ENCODER_FILE), tiny.model.encode, tiny.images(3), 1e-3)
    assert_same(in_reference(tiny.graphs / DECODER_FILE), tiny.model.decode, tiny.prompts(3), 1e-3)


@pytest.mark.parametrize("name", ["tiny", "demo"])
def test_the_encoder_asks_for_no_shapes(name: str, request: pytest.FixtureRequest) -> None:
    case: Exported = request.getfixturevalue(name)
    for file, forbidden in ((ENCODER_FILE, {"Shape", "GatherND"}), (DECODER_FILE, {"GatherND"})):
        graph = onnx.load(case.graphs / file).graph
        assert not forbidden & {node.op_type for node in graph.node}
    pixels = onnx.load(case.graphs / ENCODER_FILE).graph.input[0].type.tensor_type
    assert pixels.elem_type == onnx.TensorProto.UINT8
    assert pixels.shape.dim[0].dim_param, "the batch is dynamic"


def test_positions_can_be_added_to_the_scores_instead(
    tiny: Exported, vision_dir: Path, tmp_path: Path
) -> None:
    """In windows only, so that the graph mixes both forms."""
    export(VisionModel.load(vision_dir), tmp_path, ExportRecipe(window_positions="added"))

    assert_same(in_openvino(tmp_path / ENCODER_FILE), tiny.model.encode, tiny.images(3), 1e-3)
    concatenated = {node.op_type for node in onnx.load(tmp_path / ENCODER_FILE).graph.node}
    assert "Shape" not in concatenated


@torch.no_grad()
@pytest.mark.parametrize(
    "recipe", [ExportRecipe(window_positions="added"), ExportRecipe(global_positions="added")]
)
def test_each_kind_of_layer_has_its_own_form(tiny: Exported, vision_dir: Path, recipe: ExportRecipe) -> None:
    changed = VisionModel.load(vision_dir)
    apply(recipe, changed)

    encoder: Any = changed.image_encoder
    forms = [layer.attn.positions for layer in encoder.layers]
    window, whole = recipe.window_positions, recipe.global_positions
    assert forms == [window, whole, window]
    inputs = tiny.images(2)
    torch.testing.assert_close(changed.encode(**inputs), tiny.model.encode(**inputs), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_blocks_in_bfloat16_stay_close(tiny: Exported, vision_dir: Path, tmp_path: Path) -> None:
    """In the graph only attention and MLP are bfloat16; every norm and the residuals are float32."""
    lowered = VisionModel.load(vision_dir)
    export(lowered, tmp_path, ExportRecipe(block_precision="bf16"))

    inputs = tiny.images(2)
    expected = tiny.model.encode(**inputs)
    error = (lowered.encode(**inputs) - expected).abs()
    assert 0 < error.mean() < 0.02 * expected.std()
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / ENCODER_FILE)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.output]}
    kinds = {kind: {types[node.output[0]] for node in graph.node if node.op_type == kind} for kind in KINDS}
    assert kinds["LayerNormalization"] == {onnx.TensorProto.FLOAT}
    assert kinds["Softmax"] == kinds["Gelu"] == {onnx.TensorProto.BFLOAT16}


KINDS = ("LayerNormalization", "Softmax", "Gelu")


def test_large_weights_lie_beside_the_graph(
    tiny: Exported, vision_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.vision.export.INLINE_BYTES", 1000)
    export(VisionModel.load(vision_dir), tmp_path)

    assert {file.name for file in tmp_path.iterdir()} == {
        name for file in GRAPH_FILES for name in (file, f"{file}.data")
    }
    assert_same(in_openvino(tmp_path / DECODER_FILE), tiny.model.decode, tiny.prompts(3), 1e-3)


def test_a_full_disk_leaves_nothing(
    vision_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(model: VisionModel, directory: Path, recipe: ExportRecipe) -> None:
        (directory / PROMPTED_DECODER_FILE).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engines.vision.export.export", fill)
    with pytest.raises(CacheFailed, match="No space left on device"):
        exported(vision_dir, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_recipes_do_not_share_graphs(
    vision_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_cache, "export_to", lambda directory, *_: directory.mkdir())
    assert exported(vision_dir, tmp_path) != exported(vision_dir, tmp_path, ExportRecipe("bf16"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sam_vit_b(tmp_path: Path) -> None:
    config = VisionConfig(encoder=VIT_B, decoder=DecoderConfig(), heatmap=HeatmapConfig(vector_dim=64))
    torch.manual_seed(5)
    model = VisionModel.from_config(config).eval()
    randomise(model.image_encoder.neck)
    export(model, tmp_path)
    case = Exported(model, tmp_path)

    assert_same(in_openvino(tmp_path / ENCODER_FILE), model.encode, case.images(1), 1e-3)
    for batch in (1, 3, 8):
        assert_same(in_openvino(tmp_path / DECODER_FILE), model.decode, case.prompts(batch), 1e-3)
