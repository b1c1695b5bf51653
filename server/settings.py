"""Settings: the one place that reads the environment (``R2SM_…``)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

import engines
from engines.assembly import PipelineLimits
from engines.batching import BatchLimits
from engines.draft_budget import DraftLimits
from engines.mllm.vllm_config import VllmConfig
from engines.near import is_loopback
from engines.vision.runtimes import RuntimeName
from server.admission.keys import KeyRing, read_keys
from server.admission.limits import Limits, parse_limits
from server.cache.redis_level import RedisLimits
from server.images import MEGA, ImageLimits
from server.setting_types import Hosts, RateLimit, RedisUrl, Urls
from server.telemetry.logs import LogFormat
from server.uploads import UploadLimits
from server.wire import WireLimits

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

    A value comes from the command line, else from the environment (``R2SM_PORT``, ``R2SM_VLLM__DTYPE``), else from
    the TOML file, else it is the default. Without URLs the gateway starts both vLLM servers itself.
    """

    model_config = SettingsConfigDict(
        env_prefix="R2SM_", env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    config: Path | None = Field(None, description="a TOML file with settings")
    bundle: Path = Field(DEMO_BUNDLE, description="the bundle to serve; the demo's by default")
    host: str = Field("127.0.0.1", description="the address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="the port to listen on; 0: any that is free")
    shutdown_seconds: PositiveInt = Field(
        10, description="how long requests under way may go on after SIGTERM"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged")
    log_format: LogFormat = Field("auto", description="`json` or `text`; `auto` is text on a terminal only")
    log_prompts: bool = Field(False, description="whether prompts are logged")
    log_dir: Path | None = Field(None, description="a folder into which vLLM's logs are written too")

    metrics: Literal["open", "local"] = Field(
        "open", description="who may read `/metrics`: all, or this machine"
    )
    tracing: bool | None = Field(
        None, description="whether requests are traced; unset, whether `OTEL_EXPORTER_OTLP_ENDPOINT` is set"
    )

    api_keys_file: Path | None = Field(
        None, description="a file of API keys, one `name:sha256[:limits[:priority]]` a line"
    )
    api_keys: SecretStr | None = Field(None, description="such lines themselves, apart by white space")
    insecure_no_keys: bool = Field(False, description="listen beyond this machine without API keys")
    rate_limit: RateLimit = Field(
        "", description="how often one caller may ask: `60/minute`, `10/second;1000/hour`"
    )

    redis_url: RedisUrl | None = Field(
        None, repr=False, exclude=True, description="the Redis that all replicas share"
    )
    redis_prefix: str = Field("r2sm:", description="what its keys begin with")
    redis_budget_ms: PositiveFloat = Field(50.0, description="how long one operation on it may take")
    redis_max_value_mib: PositiveFloat = Field(9.0, description="the largest value kept in it")
    embedding_ttl_seconds: PositiveFloat = Field(3600.0, description="how long it keeps an image's embedding")
    embedding_lease_seconds: PositiveFloat = Field(
        3.0, description="how soon the others take over from a replica that died while it encoded an image"
    )

    vision: RuntimeName = Field(
        "auto", description="the vision runtime; `auto` takes the best that this machine has"
    )
    vision_threads: PositiveInt | None = Field(None, description="CPU threads of the vision runtime")
    cache_dir: Path | None = Field(None, description="where exported and compiled networks are kept")

    reason_url: Urls = Field(
        (), description="vLLM servers that run elsewhere, between commas; of all roles or of none"
    )
    concentrate_url: Urls = Field((), description="vLLM pooling servers that run elsewhere, between commas")
    image_tower: Literal["auto", "gateway", "vllm"] = Field(
        "auto",
        description="who runs the language model's image tower: each vLLM server, or the gateway, once for all; "
        "auto: the gateway, where it starts them on a CPU and knows the tower",
    )
    concentrate: Literal["server", "tap"] = Field(
        "server",
        description="where hidden states come from: a second vLLM `server`, or a `tap` in the one that reasons, which "
        "must be started here, on a CPU",
    )
    vllm: VllmConfig = VllmConfig()

    max_in_flight: PositiveInt = Field(16, description="requests worked on at once")
    max_queued: NonNegativeInt = Field(64, description="requests that may wait; more are refused with 503")
    default_timeout_ms: PositiveInt = Field(60_000, description="the deadline of requests that name none")
    upload_seconds: PositiveFloat = Field(30.0, description="how long a request's body may take to arrive")
    upload_bytes_per_second: PositiveFloat = Field(
        1000.0, description="how slow it may come after its first 5 s"
    )
    max_image_mb: PositiveFloat = Field(20.0, description="the largest image file")
    max_megapixels: PositiveFloat = Field(40.0, description="the largest image")
    image_threads: PositiveInt = Field(2, description="threads that decode images")
    image_cache_mib: NonNegativeInt = Field(128, description="memory for decoded images")

    max_connections: PositiveInt = Field(4096, description="open connections; more are closed at once")
    max_header_kib: PositiveInt = Field(32, description="the largest header of a request")
    header_seconds: PositiveFloat = Field(10.0, description="how long a header may take to arrive")

    stored_images_mib: NonNegativeInt = Field(512, description="memory for uploaded images")
    stored_image_seconds: PositiveFloat = Field(3600.0, description="how long an uploaded image is kept")
    image_url_hosts: Hosts = Field(
        frozenset(), description="hosts that images may be fetched from, with commas between them"
    )
    image_url_seconds: PositiveFloat = Field(10.0, description="how long a fetch may take")

    heartbeat_seconds: PositiveFloat = Field(
        15.0, description="a silent stream shows a sign of life so often"
    )
    stall_seconds: PositiveFloat = Field(
        20.0, description="a client that takes nothing for so long is cut off"
    )
    stream_buffer_kib: PositiveInt = Field(1024, description="events that wait for a slow client")
    max_sockets: PositiveInt = Field(256, description="open WebSockets")

    embedding_cache_mib: NonNegativeInt = Field(512, description="memory for image embeddings")
    encode_batch: PositiveInt = Field(1, description="images encoded together")
    decode_batch: PositiveInt = Field(16, description="masks decoded together")
    batch_wait_ms: float = Field(2.0, ge=0, description="how long one may wait for others to join its batch")
    finish_threads: PositiveInt = Field(2, description="threads that finish masks")
    drafts_up_to: NonNegativeInt = Field(
        1, description="requests under way up to which masks are drafted; 0: never"
    )
    drafts_share: NonNegativeFloat = Field(
        0.1, description="engines' time for drafts, as a share of a request's time to its mask"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line, environment, TOML file; raises OSError and `TOMLDecodeError` for a file that is none."""
        file = init_settings().get("config") or os.environ.get("R2SM_CONFIG")
        if not file:
            return init_settings, env_settings
        if not Path(file).is_file():
            raise FileNotFoundError(f"config: there is no file {file}")
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, Path(file))

    @model_validator(mode="after")
    def _open_to_nobody_unknown(self) -> Self:
        if not (self.insecure_no_keys or self.keyed or is_loopback(self.host)):
            raise ValueError(
                f"host: {self.host} can be reached from elsewhere: set api_keys_file or api_keys"
                " (`r2sm keys new NAME` makes one), or insecure_no_keys if all who can reach it may use it"
            )
        return self

    @model_validator(mode="after")
    def _tapped_where_it_is_started(self) -> Self:
        if self.concentrate == "tap" and (self.reason_url or self.concentrate_url):
            raise ValueError(
                "concentrate: only a vLLM server that is started here can be tapped: "
                "leave reason_url and concentrate_url out"
            )
        return self

    @property
    def keyed(self) -> bool:
        """Whether callers need an API key."""
        return self.api_keys_file is not None or self.api_keys is not None

    @property
    def keys(self) -> KeyRing | None:
        """The API keys as they are now; None: none is asked for. Reads the file. Raises `KeysInvalid`."""
        entries = self.api_keys.get_secret_value() if self.api_keys is not None else None
        return read_keys(self.api_keys_file, entries)

    @property
    def limits(self) -> Limits:
        """How often a caller may ask whose key does not say."""
        return parse_limits(self.rate_limit) if self.rate_limit else ()

    @property
    def wire_limits(self) -> WireLimits:
        """Bounds of connections."""
        return WireLimits(
            header_bytes=self.max_header_kib * 1024,
            header_seconds=self.header_seconds,
            stall_seconds=self.stall_seconds,
            connections=self.max_connections,
            upload_seconds=self.upload_seconds,
        )

    @property
    def upload_limits(self) -> UploadLimits:
        """Bounds of what a client may send."""
        image = ImageLimits(int(self.max_image_mb * MEGA), int(self.max_megapixels * MEGA))
        return UploadLimits(image, self.upload_seconds, self.upload_bytes_per_second)

    @property
    def stream_limits(self) -> StreamLimits:
        """Bounds of event streams."""
        buffer = self.stream_buffer_kib * 1024
        return StreamLimits(self.heartbeat_seconds, self.stall_seconds, buffer)

    @property
    def redis_limits(self) -> RedisLimits:
        """What Redis is allowed."""
        return RedisLimits(
            budget=self.redis_budget_ms / 1000,
            value_seconds=self.embedding_ttl_seconds,
            lease_seconds=self.embedding_lease_seconds,
            max_value=int(self.redis_max_value_mib * MIB),
        )

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
            drafts=DraftLimits(self.drafts_up_to, self.drafts_share),
        )
