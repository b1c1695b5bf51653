"""Settings: the environment, what is given on top of it, and what is refused."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

import pytest
from pydantic import ValidationError

from server.reading import SettingsInvalid, chosen, read_settings
from server.settings import DEMO_BUNDLE, Settings


def test_the_environment_is_read_and_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R2SM_PORT", "9000")
    monkeypatch.setenv("R2SM_HOST", "localhost")
    monkeypatch.setenv("R2SM_VLLM__DTYPE", "float32")
    monkeypatch.setenv("R2SM_VLLM__CPU_THREADS", "3")
    settings = read_settings(port=9001, bundle=None, vllm=chosen(tensor_parallel_size=2, cpu_threads=None))
    assert (settings.port, settings.host, settings.bundle) == (9001, "localhost", DEMO_BUNDLE)
    assert (settings.vllm.dtype, settings.vllm.cpu_threads, settings.vllm.tensor_parallel_size) == (
        "float32",
        3,
        2,
    )


A, B = "http://a:8100", "https://b/vllm"


@pytest.mark.parametrize("given", [f"{A},{B}", f" {A}/ , {B},", f'["{A}", "{B}"]'])
def test_several_servers_of_a_role(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("R2SM_REASON_URL", given)
    monkeypatch.setenv("R2SM_CONCENTRATE_URL", A)
    settings = read_settings()
    assert (settings.reason_url, settings.concentrate_url) == ((A, B), (A,))
    assert read_settings(reason_url=[B]).reason_url == (B,)


@pytest.mark.parametrize("url", ["vllm:8100", "ftp://x", "http://", "http://x:port", "[1"])
def test_a_server_that_is_no_url_is_named(url: str) -> None:
    with pytest.raises(SettingsInvalid, match="reason_url"):
        read_settings(reason_url=url, concentrate_url=A)


@pytest.mark.parametrize("given", ["a.example, b.example", '["a.example", "b.example"]'])
def test_hosts_of_images_are_named_as_servers_are(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("R2SM_IMAGE_URL_HOSTS", given)
    assert read_settings().image_url_hosts == {"a.example", "b.example"}


@pytest.mark.parametrize("name", ["R2SM_VLLM__FLAGS", "R2SM_VLLM"])
def test_a_variable_that_is_no_json_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "--quantization fp8")
    with pytest.raises(SettingsInvalid, match=r"^vllm: a value of it is not the JSON"):
        read_settings()


@pytest.mark.parametrize(
    "url", ["http://me:s3cret@host:8100", "https://me@host/vllm", f"{A},http://:s3cret@host"]
)
def test_a_server_is_named_without_a_user(url: str) -> None:
    """Nothing could be asked there: aiohttp takes no such URL."""
    with pytest.raises(
        SettingsInvalid, match=r"concentrate_url.*//…@host.* has a user or a password"
    ) as caught:
        read_settings(reason_url=A, concentrate_url=url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "htp://me:s3cret@host",
        "http://me:s3cret@host:port",
        "http://me:s3cret/5@host",
        "http://me:x/s3cret@host",
        "me:s3cret@host",
    ],
)
def test_a_password_in_a_wrong_url_is_not_told(url: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"…@host") as caught:
        read_settings(reason_url=url, concentrate_url=A)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [{"port": 70_000}, {"max_in_flight": 0}, {"vision": "onnx"}, {"prot": 1}],
)
def test_bad_settings_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(given)
    with pytest.raises(SettingsInvalid, match=r"reason_url|port|max_in_flight|vision|prot"):
        read_settings(**given)


def test_limits_are_in_bytes_and_pixels() -> None:
    settings = Settings(bundle=Path("x"), max_image_mb=1.5, max_megapixels=2, batch_wait_ms=3)
    assert settings.upload_limits.image.max_bytes == 1_500_000
    assert settings.upload_limits.image.max_pixels == 2_000_000
    assert settings.pipeline_limits.decode.max_wait == 0.003


MIB = 2**20


@pytest.mark.parametrize(
    ("field", "given", "derived", "limit"),
    [
        ("max_header_kib", 8, "wire_limits.header_bytes", 8192),
        ("header_seconds", 1.5, "wire_limits.header_seconds", 1.5),
        ("stall_seconds", 7.0, "wire_limits.stall_seconds", 7.0),
        ("max_connections", 9, "wire_limits.connections", 9),
        ("upload_seconds", 5.0, "upload_limits.seconds", 5.0),
        ("upload_bytes_per_second", 300.0, "upload_limits.bytes_per_second", 300.0),
        ("heartbeat_seconds", 3.0, "stream_limits.heartbeat_seconds", 3.0),
        ("stall_seconds", 7.0, "stream_limits.stall_seconds", 7.0),
        ("stream_buffer_kib", 2, "stream_limits.buffer", 2048),
        ("redis_budget_ms", 20.0, "redis_limits.budget", 0.02),
        ("redis_max_value_mib", 0.5, "redis_limits.max_value", MIB // 2),
        ("embedding_ttl_seconds", 60.0, "redis_limits.value_seconds", 60.0),
        ("embedding_lease_seconds", 1.0, "redis_limits.lease_seconds", 1.0),
        ("embedding_cache_mib", 3, "pipeline_limits.embedding_bytes", 3 * MIB),
        ("encode_batch", 4, "pipeline_limits.encode.max_size", 4),
        ("decode_batch", 5, "pipeline_limits.decode.max_size", 5),
        ("batch_wait_ms", 3.0, "pipeline_limits.encode.max_wait", 0.003),
        ("finish_threads", 6, "pipeline_limits.finish_threads", 6),
        ("drafts_up_to", 3, "pipeline_limits.drafts.up_to", 3),
        ("drafts_share", 0.25, "pipeline_limits.drafts.share", 0.25),
    ],
)
def test_a_setting_becomes_the_limit_that_it_names(
    field: str, given: float, derived: str, limit: float
) -> None:
    read = attrgetter(derived)
    assert read(Settings()) != limit
    assert read(Settings.model_validate({field: given})) == limit
