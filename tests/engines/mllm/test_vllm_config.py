"""The flags and the environment that the two vLLM servers are started with."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import pytest
from pydantic import ValidationError

from engines.errors import BackendUnavailable
from engines.mllm import vllm_config
from engines.mllm.vllm_config import (
    Device,
    Role,
    VllmConfig,
    arguments,
    environment,
    installed_device,
    yielding,
)

MODEL = Path("/models/demo")


def flags(config: VllmConfig, role: Role = "reason", device: Device = "cpu") -> dict[str, str]:
    """The command line as a mapping; a flag without a value maps to nothing."""
    words = arguments(config, role, device, MODEL, 8100)
    assert words[:2] == ["-m", "vllm.entrypoints.openai.api_server"]
    found: dict[str, str] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            found[word] = "" if following.startswith("--") else following
    return found


def test_both_roles_share_the_model_and_are_heard_on_the_loopback_only() -> None:
    for role in ("reason", "concentrate"):
        found = flags(VllmConfig(), role)
        assert found["--model"] == str(MODEL)
        assert (found["--host"], found["--port"]) == ("127.0.0.1", "8100")
        assert found["--generation-config"] == "vllm"
        assert "--enable-prefix-caching" in found


def test_flags_of_ones_own_stand_last_and_some_are_for_the_reason_server_alone() -> None:
    config = VllmConfig(flags=("--no-enable-prefix-caching",), reason_flags=("--speculative-config", "{}"))
    reason, concentrate = (arguments(config, role, "cuda", MODEL, 8100) for role in ("reason", "concentrate"))
    assert reason[-3:] == ["--no-enable-prefix-caching", "--speculative-config", "{}"]
    assert concentrate[-1] == "--no-enable-prefix-caching"
    assert "--speculative-config" not in concentrate


def test_a_server_that_does_not_see_takes_features() -> None:
    for role in ("reason", "concentrate"):
        assert "--enable-mm-embeds" in arguments(VllmConfig(), role, "cpu", MODEL, 8100, sees=False)
        assert "--enable-mm-embeds" not in arguments(VllmConfig(), role, "cpu", MODEL, 8100)


def test_each_role_has_its_runner() -> None:
    reason, concentrate = flags(VllmConfig(stream_interval=3)), flags(VllmConfig(), "concentrate")
    assert reason["--stream-interval"] == "3"
    assert "--runner" not in reason
    assert (concentrate["--runner"], concentrate["--convert"]) == ("pooling", "embed")
    assert concentrate["--pooler-config"] == '{"pooling_type": "LAST", "use_activation": false}'


def test_a_concentrate_server_gives_every_tokens_state_where_that_is_wanted() -> None:
    words = arguments(VllmConfig(), "concentrate", "cpu", MODEL, 8100, "all")
    pooler = '{"task": "token_embed", "pooling_type": "ALL", "use_activation": false}'
    assert words[words.index("--pooler-config") + 1] == pooler


def test_the_configuration_reaches_the_command_line() -> None:
    config = VllmConfig(
        tensor_parallel_size=2,
        dtype="float32",
        memory_share=0.3,
        kv_cache_gib=0.25,
        max_model_len=512,
        max_sequences=9,
    )
    found = flags(config)
    assert found["--tensor-parallel-size"] == "2"
    assert found["--dtype"] == "float32"
    assert found["--gpu-memory-utilization"] == "0.3"
    assert found["--kv-cache-memory-bytes"] == str(2**28)
    assert found["--max-model-len"] == "512"
    assert found["--max-num-seqs"] == "9"
    assert flags(VllmConfig())["--max-model-len"] == "auto"


def test_a_cpu_runs_one_process_with_the_threads_it_was_given() -> None:
    config = VllmConfig(cpu_threads=3)
    assert flags(config)["--distributed-executor-backend"] == "uni"
    found = environment(config, "reason", "cpu", {"PATH": "/bin", "OMP_NUM_THREADS": "64"})
    assert found["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert (found["OMP_NUM_THREADS"], found["PATH"]) == ("3", "/bin")


def compiles(config: VllmConfig, role: Role, device: Device = "cpu") -> bool:
    """What the command line says of it; on a CPU the environment must say the same."""
    asked = "--enforce-eager" not in flags(config, role, device)
    allowed = "TORCH_COMPILE_DISABLE" not in environment(config, role, device, {})
    assert device == "cuda" or asked == allowed
    return asked


def test_a_cpu_compiles_the_model_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    for works in (True, False):
        monkeypatch.setattr(vllm_config, "compiler_works", lambda works=works: works)
        config = VllmConfig().for_roles(2, "cpu")
        assert compiles(config, "reason") == compiles(config, "concentrate") == works
        assert not compiles(VllmConfig(compile=False).for_roles(2, "cpu"), "reason")
        assert not compiles(VllmConfig(tensor_parallel_size=2).for_roles(2, "cpu"), "reason")


def test_a_model_that_is_only_read_is_not_compiled_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_config, "compiler_works", lambda: True)
    config = VllmConfig().for_roles(1, "cpu")
    assert "--enforce-eager" in arguments(config, "concentrate", "cpu", Path("model"), 1, "all")
    assert "--enforce-eager" not in arguments(config, "concentrate", "cuda", Path("model"), 1, "all")
    assert environment(config, "concentrate", "cpu", {}, "all")["TORCH_COMPILE_DISABLE"] == "1"


def test_a_model_that_cannot_be_compiled_though_it_should_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_config, "compiler_works", lambda: False)
    with pytest.raises(BackendUnavailable, match=r"vllm\.compile: .*install g\+\+"):
        VllmConfig(compile=True).for_roles(2, "cpu")


def test_on_a_cpu_the_concentrate_server_gives_way() -> None:
    assert yielding("reason", "cpu") == []
    assert yielding("reason", "cpu", sees=False) == yielding("concentrate", "cpu") == ["nice", "-n", "9"]
    assert yielding("concentrate", "cpu", sees=False) == ["nice", "-n", "18"]
    assert yielding("reason", "cuda", sees=False) == yielding("concentrate", "cuda", sees=False) == []


def test_on_a_cpu_memory_is_kept_for_the_next_picture_unless_told_otherwise() -> None:
    kept = environment(VllmConfig(), "reason", "cpu", {"MALLOC_TRIM_THRESHOLD_": "1"})
    assert kept["MALLOC_TRIM_THRESHOLD_"] == "1"
    assert int(kept["MALLOC_MMAP_THRESHOLD_"]) == 2**25
    assert "MALLOC_MMAP_THRESHOLD_" not in environment(VllmConfig(), "reason", "cuda", {})


def test_a_gpu_compiles_unless_told_not_to() -> None:
    for role in ("reason", "concentrate"):
        assert compiles(VllmConfig().for_roles(2, "cuda"), role, "cuda")
        assert not compiles(VllmConfig(compile=False).for_roles(2, "cuda"), role, "cuda")


def test_tensor_parallel_ranks_on_a_cpu_get_cores_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    config = VllmConfig(tensor_parallel_size=2, cpu_threads=2)
    assert flags(config)["--distributed-executor-backend"] == "mp"
    reason, concentrate = (environment(config, role, "cpu", {}) for role in ("reason", "concentrate"))
    assert reason["VLLM_CPU_OMP_THREADS_BIND"] == "0,1|2,3"
    assert concentrate["VLLM_CPU_OMP_THREADS_BIND"] == "4,5|6,7"
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in reason


def test_ranks_share_cores_where_there_are_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 6})
    config = VllmConfig(tensor_parallel_size=2)
    assert environment(config, "concentrate", "cpu", {})["VLLM_CPU_OMP_THREADS_BIND"] == "4|6"


def test_a_gpu_keeps_its_graphs_and_shares_its_memory() -> None:
    found = flags(VllmConfig(), device="cuda")
    assert "--enforce-eager" not in found
    assert "--kv-cache-memory-bytes" not in found
    assert float(found["--gpu-memory-utilization"]) * 2 < 1.0
    assert "TORCH_COMPILE_DISABLE" not in environment(VllmConfig(), "reason", "cuda", {})


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_goes_to_the_network(device: Device) -> None:
    found = environment(VllmConfig(), "reason", device, {"HF_HUB_OFFLINE": "0"})
    assert (found["HF_HUB_OFFLINE"], found["VLLM_NO_USAGE_STATS"], found["DO_NOT_TRACK"]) == ("1", "1", "1")


@pytest.mark.parametrize(("installed", "device"), [("vllm-cpu", "cpu"), ("vllm", "cuda")])
def test_the_device_is_the_installed_vllms(
    installed: str, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, installed)
    assert installed_device() == device


def test_without_vllm_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "")
    with pytest.raises(BackendUnavailable, match=r"\[cpu\]"):
        installed_device()


def pretend(monkeypatch: pytest.MonkeyPatch, installed: str) -> None:
    """Let only one distribution be installed."""

    def version(name: str) -> str:
        if name != installed:
            raise metadata.PackageNotFoundError(name)
        return "0.32.0"

    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.parametrize(
    "fault", [{"memory_share": 0.0}, {"kv_cache_gib": -1}, {"cores": "0"}, {"dtype": "int8"}]
)
def test_a_configuration_that_cannot_work_is_refused(fault: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        VllmConfig.model_validate(fault)
