"""The reference runtime: the torch modules themselves, in float32 on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from engines.vision.buckets import CPU_BUCKETS, Buckets
from engines.vision.config import VisionConfig
from engines.vision.model import VisionModel
from engines.vision.preprocess import Prepared
from engines.vision.runtimes import base


class TorchRuntime:
    """Slow and plain; the other runtimes are held against it."""

    def __init__(self, vision_dir: Path, threads: int | None = None) -> None:
        """Load the model. `threads` sets torch's thread count, which is the whole process's."""
        if threads is not None:
            torch.set_num_threads(threads)
        self._model = VisionModel.load(vision_dir)

    @property
    def config(self) -> VisionConfig:
        """The sizes of the model that runs."""
        return self._model.config

    @torch.inference_mode()
    def encode(self, images: Sequence[Prepared]) -> list[base.Embedding]:
        """One embedding for each image, in order."""
        base.check_images(images, self.config)
        if not images:
            return []
        pixels = torch.from_numpy(np.stack([image.pixels for image in images]))
        sizes = torch.tensor([image.size for image in images])
        return base.split_embeddings([level.numpy() for level in self._model.features(pixels, sizes)])

    @torch.inference_mode()
    def decode(self, items: Sequence[base.DecodeItem]) -> list[base.Decoded]:
        """One result for each item, in order."""
        return base.decode_all(items, self.config, self._decode)

    def _decode(
        self, batch: base.DecodeBatch, prompts: base.SparseBatch | base.SentenceBatch | None
    ) -> list[base.Decoded]:
        embeddings, *levels = map(torch.from_numpy, batch.features())
        fine, owners = tuple(levels), torch.from_numpy(batch.owners)
        if isinstance(prompts, base.SentenceBatch):
            states, ends = torch.from_numpy(prompts.states), torch.from_numpy(prompts.ends)
            found = self._model.decode_sentences(embeddings, states, ends, owners, fine)
            masks, scores = (output.numpy() for output in found)
            return base.split_outputs(base.no_priors(masks), masks, scores)
        vectors, sizes = torch.from_numpy(batch.vectors), torch.from_numpy(batch.sizes)
        if prompts is None:
            outputs = self._model.decode(embeddings, vectors, sizes, owners)
        else:
            guided, points = torch.from_numpy(prompts.guided), torch.from_numpy(prompts.points)
            labels = torch.from_numpy(prompts.labels)
            outputs = self._model.decode_prompted(
                embeddings, vectors, sizes, owners, guided, points, labels, fine
            )
        prior, mask, iou = (output.numpy() for output in outputs)
        return base.split_outputs(prior, mask, iou)

    def warm_up(self, buckets: Buckets | None = None) -> None:
        """Run encoder and decoder at these batch sizes; no other needs making ready."""
        base.warm_up(self, buckets or CPU_BUCKETS)

    def info(self) -> dict[str, str | int]:
        """Name, version, precision and threads."""
        return {
            "runtime": "torch",
            "version": torch.__version__,
            "device": "CPU",
            "encoder_precision": "fp32",
            "decoder_precision": "fp32",
            "threads": torch.get_num_threads(),
        }

    def close(self) -> None:
        """Free the weights."""
        self._model.to("meta")
