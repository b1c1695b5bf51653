"""Puts a pipeline together from its engines, and takes it apart again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from engines.batching import BatchLimits, MicroBatcher, in_executor
from engines.box_pipeline import BoxPipeline
from engines.cache.observer import CacheObserver
from engines.draft_budget import DraftLimits
from engines.embeddings import Embeddings, SharedEmbeddings, rounded
from engines.finishing import Finisher
from engines.mllm.answer import AnswerFormat
from engines.mllm.interface import Mllm
from engines.observers import NoPipelineObserver, PipelineObserver
from engines.pipeline import Pipeline
from engines.reading_pipeline import ReadingPipeline
from engines.vision.preprocess import Prepared
from engines.vision.runtimes.base import Decoded, DecodeItem, Embedding, VisionRuntime


@dataclass(frozen=True, slots=True)
class PipelineLimits:
    """Bounds of what requests share: batches, remembered embeddings (bytes), threads for finishing masks, drafts.

    Images are encoded one by one unless `encode` says otherwise: on a CPU a batch is slower for everybody in it.
    """

    encode: BatchLimits = field(default_factory=lambda: BatchLimits(max_size=1, max_wait=0.0, max_pending=64))
    decode: BatchLimits = field(default_factory=lambda: BatchLimits(max_size=16, max_pending=512))
    embedding_bytes: int = 512 * 1024 * 1024
    finish_threads: int = 2
    drafts: DraftLimits = field(default_factory=DraftLimits)


@asynccontextmanager
async def open_pipeline(
    answer: AnswerFormat,
    mask_threshold: float,
    mllm: Mllm,
    vision: VisionRuntime,
    limits: PipelineLimits | None = None,
    pipeline_observer: PipelineObserver | None = None,
    shared: SharedEmbeddings | None = None,
    observer: CacheObserver | None = None,
) -> AsyncIterator[Pipeline]:
    """A pipeline for one bundle; on the way out its work is stopped. The engines stay the caller's to close.

    With `shared` its embeddings are shared with other replicas; `observer` hears of every look-up, and
    `pipeline_observer` of everything else.
    """
    limits = limits or PipelineLimits()
    watched = pipeline_observer or NoPipelineObserver()
    with (
        ThreadPoolExecutor(1, "encode") as encode_thread,
        ThreadPoolExecutor(1, "decode") as decode_thread,
        ThreadPoolExecutor(limits.finish_threads, "finish") as finish_threads,
    ):
        encoder: MicroBatcher[Prepared, Embedding] = MicroBatcher(
            in_executor(rounded(vision.encode), encode_thread),
            limits.encode,
            partial(watched.batch, "encode"),
        )
        decoder: MicroBatcher[DecodeItem, Decoded] = MicroBatcher(
            in_executor(vision.decode, decode_thread), limits.decode, partial(watched.batch, "decode")
        )
        embeddings = Embeddings(encoder, limits.embedding_bytes, shared, observer)
        try:
            finisher = Finisher(finish_threads, mask_threshold)
            yield _kind(answer)(answer, mllm, embeddings, decoder, finisher, limits.drafts, watched)
        finally:
            await embeddings.aclose()
            await decoder.aclose()


def _kind(answer: AnswerFormat) -> type[Pipeline]:
    if answer.boxes is not None:
        return BoxPipeline
    return Pipeline if answer.reading is None else ReadingPipeline
