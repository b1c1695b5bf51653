"""The embedded default: OpenVINO on the CPU, the encoder in bfloat16 where the processor has it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov

from engines.errors import EngineRefused, GraphRejected
from engines.vision.buckets import CPU_BUCKETS, Buckets
from engines.vision.config import VisionConfig, load_config
from engines.vision.engine_cache import EngineCache, EngineIdentity
from engines.vision.onnx_cache import (
    DECODER_FILE,
    ENCODER_FILE,
    PROMPTED_DECODER_FILE,
    SENTENCE_DECODER_FILE,
    exported,
    feature_names,
)
from engines.vision.preprocess import Prepared
from engines.vision.runtimes import base
from engines.vision.runtimes.openvino_core import (
    Inputs,
    Precision,
    Settings,
    Shared,
    best_precision,
    process_core,
    settings_for,
)


class OpenVinoRuntime:
    """Runs the exported graphs: the encoder image by image, which is faster on a CPU than a batch, and the
    decoders, always in float32, for a whole batch of prompts.
    """

    def __init__(
        self,
        vision_dir: Path,
        cache_dir: Path,
        threads: int | None = None,
        encoder_precision: Precision | None = None,
    ) -> None:
        """Export the model where `cache_dir` does not hold it yet, and compile it.

        Args:
            vision_dir: a bundle's ``vision`` directory.
            cache_dir: where exported and compiled graphs are kept.
            threads: CPU threads for each call; None leaves it to OpenVINO.
            encoder_precision: None takes bfloat16 where the processor has it.
        """
        self._config = load_config(vision_dir)
        core = process_core()
        self._encoder_precision = encoder_precision or best_precision(core)
        settings = {ENCODER_FILE: settings_for(self._encoder_precision, threads)}
        if self._config.heatmap is not None:
            settings[DECODER_FILE] = settings_for("fp32", threads)
        if self._config.adapter is not None:
            settings[SENTENCE_DECODER_FILE] = settings_for("fp32", threads)
        settings[PROMPTED_DECODER_FILE] = settings_for("fp32", threads)
        graphs = _open_graphs(core, exported(vision_dir, cache_dir), cache_dir, settings, self._config)
        self._encoder = Shared(graphs[ENCODER_FILE])
        self._decoder = Shared(graphs[DECODER_FILE]) if DECODER_FILE in graphs else None
        self._prompted_decoder = Shared(graphs[PROMPTED_DECODER_FILE])
        sentences = graphs.get(SENTENCE_DECODER_FILE)
        self._sentence_decoder = Shared(sentences) if sentences is not None else None

    @property
    def config(self) -> VisionConfig:
        """The sizes of the model that runs."""
        return self._config

    def encode(self, images: Sequence[Prepared]) -> list[base.Embedding]:
        """One embedding for each image, in order."""
        base.check_images(images, self._config)
        return [embedding for image in images for embedding in self._encode(image)]

    def _encode(self, image: Prepared) -> list[base.Embedding]:
        inputs: Inputs = {"pixels": image.pixels[None], "sizes": np.array([image.size], dtype=np.int64)}
        return base.split_embeddings(self._encoder(inputs, feature_names(self._config)))

    def decode(self, items: Sequence[base.DecodeItem]) -> list[base.Decoded]:
        """One result for each item, in order."""
        return base.decode_all(items, self._config, self._decode)

    def _decode(
        self, batch: base.DecodeBatch, prompts: base.SparseBatch | base.SentenceBatch | None
    ) -> list[base.Decoded]:
        inputs: Inputs = dict(zip(feature_names(self._config), batch.features(), strict=True))
        inputs |= {"owners": batch.owners}
        if isinstance(prompts, base.SentenceBatch):
            assert self._sentence_decoder is not None, "without an adapter no item has a sentence"
            inputs |= {"states": prompts.states, "ends": prompts.ends}
            masks, scores = self._sentence_decoder(inputs, ["mask_logits", "iou"])
            return base.split_outputs(base.no_priors(masks), masks, scores)
        inputs |= {"vectors": batch.vectors, "sizes": batch.sizes}
        decoder = self._decoder
        if prompts is not None:
            decoder = self._prompted_decoder
            inputs |= {"guided": prompts.guided, "points": prompts.points, "labels": prompts.labels}
        assert decoder is not None, "without a heatmap head every item has points"
        prior, mask, iou = decoder(inputs, ["prior_logits", "mask_logits", "iou"])
        return base.split_outputs(prior, mask, iou)

    def warm_up(self, buckets: Buckets | None = None) -> None:
        """Run encoder and decoder at these batch sizes; no other needs making ready."""
        base.warm_up(self, buckets or CPU_BUCKETS)

    def info(self) -> dict[str, str | int]:
        """Name, version, precision and threads."""
        return {
            "runtime": "openvino",
            "version": ov.get_version(),
            "device": "CPU",
            "encoder_precision": self._encoder_precision,
            "decoder_precision": "fp32",
            "threads": self._encoder.threads,
        }

    def close(self) -> None:
        """Free the compiled graphs."""
        del self._encoder, self._decoder, self._prompted_decoder, self._sentence_decoder


def _open_graphs(
    core: ov.Core, folder: Path, cache_dir: Path, settings: dict[str, Settings], config: VisionConfig
) -> dict[str, ov.CompiledModel]:
    """The graphs in `folder` compiled, each with its settings: by an earlier start on this processor, or now."""
    cache = EngineCache(cache_dir / "openvino")
    identity = EngineIdentity(
        {
            "graphs": folder.name,
            "openvino": ov.get_version(),
            "processor": str(core.get_property("CPU", "FULL_DEVICE_NAME")),
            "capabilities": json.dumps(sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))),
            "settings": json.dumps(settings, sort_keys=True),
        }
    )
    with cache.building(identity):
        kept = cache.find(identity)
        if kept is None:
            graphs = {name: _compile(core, folder / name, one, config) for name, one in settings.items()}
            cache.store(
                identity, {f"{name}.blob": graph.export_model().getvalue() for name, graph in graphs.items()}
            )
            return graphs
    return {name: _import(core, kept / f"{name}.blob", one) for name, one in settings.items()}


def _compile(core: ov.Core, file: Path, settings: Settings, config: VisionConfig) -> ov.CompiledModel:
    try:
        graph = core.read_model(file)
        if file.name == ENCODER_FILE:  # images are encoded one by one
            graph.reshape({"pixels": [1, config.image_size, config.image_size, 3], "sizes": [1, 2]})
        return core.compile_model(graph, "CPU", settings)
    except RuntimeError as error:
        raise GraphRejected(f"{file}: OpenVINO cannot compile it: {error}") from error


def _import(core: ov.Core, file: Path, settings: Settings) -> ov.CompiledModel:
    try:
        return core.import_model(file.read_bytes(), "CPU", settings)
    except RuntimeError as error:
        raise EngineRefused(f"{file}: OpenVINO does not load it: {error}; delete {file.parent}") from error
