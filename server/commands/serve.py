"""``r2sm serve``: the gateway, and the vLLM servers behind it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
import uvloop

from engines.errors import EngineError
from engines.mllm.launcher import ServerStatus
from engines.vision.runtimes import RuntimeName
from server.client import SegmentFailed
from server.reading import SettingsInvalid, chosen, read_settings, unknown_variables
from server.running import RunningGateway, run_gateway
from server.settings import Settings
from server.telemetry.logs import LogFormat, start_logging
from server.watching import stamps, watch

START_SECONDS = 1800.0

logger = logging.getLogger(__name__)


def serve(
    config: Annotated[Path | None, typer.Option(help="A TOML file with settings.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="The bundle to serve; the demo's by default.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on. [127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on. [8000]")] = None,
    api_keys_file: Annotated[Path | None, typer.Option(help="A file of API keys (`r2sm keys new`).")] = None,
    insecure_no_keys: Annotated[
        bool | None, typer.Option("--insecure-no-keys", help="Listen beyond this machine without keys.")
    ] = None,
    redis_url: Annotated[str | None, typer.Option(help="The Redis that all replicas share.")] = None,
    vision: Annotated[RuntimeName | None, typer.Option(help="The vision runtime. [auto]")] = None,
    vision_threads: Annotated[int | None, typer.Option(help="CPU threads of the vision runtime.")] = None,
    reason_url: Annotated[
        list[str] | None, typer.Option(help="A vLLM server that runs elsewhere; can be given many times.")
    ] = None,
    concentrate_url: Annotated[
        list[str] | None, typer.Option(help="A vLLM pooling server elsewhere; can be given many times.")
    ] = None,
    concentrate: Annotated[
        Literal["server", "tap"] | None,
        typer.Option(help="A second vLLM server for hidden states, or a tap in the first one. [server]"),
    ] = None,
    image_tower: Annotated[
        Literal["auto", "gateway", "vllm"] | None,
        typer.Option(help="Who runs the language model's image tower. [auto]"),
    ] = None,
    tensor_parallel_size: Annotated[int | None, typer.Option(help="Devices for each vLLM server.")] = None,
    dtype: Annotated[str | None, typer.Option(help="The language model's dtype. [bfloat16]")] = None,
    memory_share: Annotated[
        float | None, typer.Option(help="Memory share of each vLLM server, 0..1.")
    ] = None,
    kv_cache_gib: Annotated[float | None, typer.Option(help="KV cache of each vLLM server.")] = None,
    cpu_threads: Annotated[int | None, typer.Option(help="CPU threads of each vLLM server.")] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Longest sequence, in tokens.")] = None,
    speculative_tokens: Annotated[
        int | None, typer.Option(help="Tokens guessed at once from earlier answers, 12 for one. [0]")
    ] = None,
    max_in_flight: Annotated[int | None, typer.Option(help="Requests worked on at once. [16]")] = None,
    max_queued: Annotated[int | None, typer.Option(help="Requests that may wait. [64]")] = None,
    log_level: Annotated[Literal["debug", "info", "warning", "error"] | None, typer.Option()] = None,
    log_format: Annotated[LogFormat | None, typer.Option(help="JSON unless it is a terminal. [auto]")] = None,
    log_prompts: Annotated[bool | None, typer.Option("--log-prompts", help="Also log the prompts.")] = None,
    log_dir: Annotated[Path | None, typer.Option(help="Also write vLLM's logs to files here.")] = None,
) -> None:
    """Serve a bundle over HTTP until SIGINT or SIGTERM. Starts the vLLM servers it needs unless URLs are given.

    Every option, and more, can also be set as an environment variable (R2SM_PORT, R2SM_VLLM__DTYPE, ...) or in a
    TOML file; `r2sm config` shows what is in force.
    """
    given = {
        "config": config,
        "api_keys_file": api_keys_file,
        "insecure_no_keys": insecure_no_keys,
        "redis_url": redis_url,
        "bundle": bundle,
        "host": host,
        "port": port,
        "vision": vision,
        "vision_threads": vision_threads,
        "reason_url": reason_url or None,
        "concentrate_url": concentrate_url or None,
        "concentrate": concentrate,
        "image_tower": image_tower,
        "max_in_flight": max_in_flight,
        "max_queued": max_queued,
        "log_level": log_level,
        "log_format": log_format,
        "log_prompts": log_prompts,
        "log_dir": log_dir,
        "vllm": chosen(
            tensor_parallel_size=tensor_parallel_size,
            dtype=dtype,
            memory_share=memory_share,
            kv_cache_gib=kv_cache_gib,
            cpu_threads=cpu_threads,
            max_model_len=max_model_len,
            speculative_tokens=speculative_tokens,
        ),
    }
    settings = settings_or_exit(**given)
    start_logging(settings.log_level, settings.log_format)
    try:
        uvloop.run(serve_until_signalled(settings, lambda: read_settings(**given)))
    except (EngineError, OSError) as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(1) from error
    except asyncio.CancelledError:  # a signal came before there was anything to stop
        raise typer.Exit(130) from None


def settings_or_exit(**given: object) -> Settings:
    """The settings, or the end of the command: a sentence for each that is wrong, and exit code 2."""
    try:
        settings = read_settings(**given)
    except SettingsInvalid as error:
        for fault in error.faults:
            typer.echo(f"r2sm: {fault}", err=True)
        raise typer.Exit(2) from error
    for sentence in unknown_variables():
        typer.echo(f"r2sm: warning: {sentence}", err=True)
    return settings


async def serve_until_signalled(settings: Settings, read: Callable[[], Settings]) -> None:
    """Run the gateway until SIGINT or SIGTERM; the second of them does not wait for requests under way.

    SIGHUP, or a change of the files that the settings name, reads the settings anew.
    """
    loop = asyncio.get_running_loop()
    this = asyncio.current_task()
    assert this is not None
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, this.cancel)
    loop.add_signal_handler(signal.SIGHUP, asked.set)
    before = stamps(named_files(settings))
    async with run_gateway(settings) as gateway:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, gateway.stop)
        logger.info("%s listens at %s", gateway.engines.name, gateway.url)
        in_force = _InForce(settings, gateway, read)
        loop.add_signal_handler(signal.SIGHUP, in_force.renew)
        if asked.is_set():  # while the engines were loaded
            in_force.renew()
        beside = [
            asyncio.create_task(report_start(gateway)),
            asyncio.create_task(watch(in_force.files, in_force.renew, before)),
        ]
        await gateway.wait_stopped()
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        logger.info("stopped")


@dataclass(slots=True)
class _InForce:
    """The settings that a gateway goes by, and how they are read anew."""

    settings: Settings
    gateway: RunningGateway
    read: Callable[[], Settings]

    def files(self) -> list[Path]:
        return named_files(self.settings)

    def renew(self) -> None:
        self.settings = self.gateway.reload(self.read) or self.settings


def named_files(settings: Settings) -> list[Path]:
    """The files whose change changes the settings."""
    return [file for file in (settings.config, settings.api_keys_file) if file is not None]


async def report_start(gateway: RunningGateway) -> None:
    """Log how the vLLM servers come up. One that fails is started again, and that is logged where it happens."""
    seen: dict[str, str] = {}

    def progress(status: tuple[ServerStatus, ...]) -> None:
        for one in status:
            if seen.get(one.role) != one.stage:
                seen[one.role] = one.stage
                logger.info("vLLM (%s) is %s", one.role, one.stage)

    try:
        await gateway.wait_ready(START_SECONDS, progress)
        logger.info("ready")
    except (EngineError, SegmentFailed) as error:
        logger.warning("not ready: %s", error)
