"""Settings: the one place that reads the environment (``R2SM_…``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

import engines
from engines.assembly import PipelineLimits
from engines.batching import BatchLimits
from engines.mllm.vllm_config import VllmConfig
from engines.vision.runtimes import RuntimeName
from server.images import MEGA, ImageLimits
from server.uploads import UploadLimits

MIB = 1024 * 1024
DEMO_BUNDLE = Path(engines.__file__).parent / "demo" / "bundle"


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds of event streams.

    A stream that has been silent for `heartbeat_seconds` is given a sign of life; a client that takes nothing for
    `stall_seconds` is cut off. `buffer` characters of events wait for a slow one.
    """

    heartbeat_seconds: float = 15.0
    stall_seconds: float = 20.0
    buffer: int = 1 << 20


class Settings(BaseSettings):
    """What a gateway needs to know.

    Each field is also an environment variable with the prefix ``R2SM_``; those of `vllm` are
    ``R2SM_VLLM__TENSOR_PARALLEL_SIZE`` and so on. Without URLs the gateway starts both vLLM servers itself.
    """

    model_config = SettingsConfigDict(
        env_prefix="R2SM_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    bundle: Path = DEMO_BUNDLE
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    shutdown_seconds: PositiveInt = 10
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_dir: Path | None = None

    vision: RuntimeName = "auto"
    vision_threads: PositiveInt | None = None
    cache_dir: Path | None = None

    reason_url: str | None = None
    concentrate_url: str | None = None
    vllm: VllmConfig = VllmConfig()

    max_in_flight: PositiveInt = 16
    max_queued: NonNegativeInt = 64
    default_timeout_ms: PositiveInt = 60_000
    upload_seconds: PositiveFloat = 30.0
    max_image_mb: PositiveFloat = 20.0
    max_megapixels: PositiveFloat = 40.0
    image_threads: PositiveInt = 2
    image_cache_mib: NonNegativeInt = 128

    stored_images_mib: NonNegativeInt = 512
    stored_image_seconds: PositiveFloat = 3600.0
    image_url_hosts: frozenset[str] = frozenset()
    image_url_seconds: PositiveFloat = 10.0

    heartbeat_seconds: PositiveFloat = 15.0
    stall_seconds: PositiveFloat = 20.0
    stream_buffer_kib: PositiveInt = 1024
    max_sockets: PositiveInt = 256

    embedding_cache_mib: NonNegativeInt = 512
    encode_batch: PositiveInt = 1
    decode_batch: PositiveInt = 16
    batch_wait_ms: float = Field(2.0, ge=0)
    finish_threads: PositiveInt = 2
    drafts_up_to: NonNegativeInt = 1

    @property
    def upload_limits(self) -> UploadLimits:
        """Bounds of what a client may send."""
        image = ImageLimits(int(self.max_image_mb * MEGA), int(self.max_megapixels * MEGA))
        return UploadLimits(image, self.upload_seconds)

    @property
    def stream_limits(self) -> StreamLimits:
        """Bounds of event streams."""
        buffer = self.stream_buffer_kib * 1024
        return StreamLimits(self.heartbeat_seconds, self.stall_seconds, buffer)

    @property
    def pipeline_limits(self) -> PipelineLimits:
        """Bounds of what requests share."""
        wait = self.batch_wait_ms / 1000
        pending = 32 * (self.max_in_flight + self.max_queued)  # 8 objects, both masks, twice over
        return PipelineLimits(
            encode=BatchLimits(self.encode_batch, wait, pending),
            decode=BatchLimits(self.decode_batch, wait, pending),
            embedding_bytes=self.embedding_cache_mib * MIB,
            finish_threads=self.finish_threads,
            drafts_up_to=self.drafts_up_to,
        )
