"""``r2sm config``: what wins, what is wrong, what is masked, and the README's table."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engines.bundles import Bundle
from engines.bundles.requirements import requirements
from server.admission.keys import new_key
from server.cli import app
from server.commands.config import BEGIN, END, as_table, as_toml, with_table
from server.fitting import GIB, Machine, misfits
from server.reading import SettingsInvalid, read_settings, unknown_variables, variables
from server.settings import Settings
from tests.tiny_bundle import build_tiny_bundle

README = Path(__file__).parents[3] / "README.md"
RUN = CliRunner()


def test_the_readmes_table_is_made_from_the_code() -> None:
    text = README.read_text(encoding="utf-8")
    assert with_table(text) == text, "make settings-table"


def test_the_table_is_made_anew_and_nothing_else_is_touched(tmp_path: Path) -> None:
    file = tmp_path / "settings.md"
    file.write_text(f"# Ours é\n{BEGIN}\nof yore\n{END}\nmore\n", encoding="utf-8")
    assert RUN.invoke(app, ["config", "--write", str(file)]).exit_code == 0
    wanted = f"# Ours é\n{BEGIN}\n{as_table(Settings)}\n{END}\nmore\n"
    assert file.read_text(encoding="utf-8") == wanted


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        (".", " cannot be written: Is a directory"),
        ("away/settings.md", " cannot be written: No such file"),
        ("file/settings.md", " cannot be written: Not a directory"),
        ("none.md", " cannot be read: No such file"),
        ("file", ": the marks"),
        ("latin-1", ": 'utf-8' codec can't decode"),
    ],
)
def test_a_file_that_takes_no_table_is_a_usage_error(place: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no marks")
    (tmp_path / "latin-1").write_bytes(b"\xe9")
    path = tmp_path / place
    result = RUN.invoke(app, ["config", "--write", str(path)], env={"COLUMNS": "300"})
    assert result.exit_code == 2, result.output
    assert f"--write: {path}{fault}" in result.stderr
    assert (tmp_path / "file").read_text() == "no marks"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "latin-1"]


def test_every_setting_is_described_and_in_the_table() -> None:
    table = as_table(Settings)
    for variable, _ in variables(Settings):
        row = next(line for line in table.splitlines() if f"`{variable}`" in line)
        assert len(row.split("|")[3].strip()) > 5, variable
        assert "None" not in row


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "r2sm.toml"
    path.write_text('port = 1\nmax_queued = 2\nstall_seconds = 3.0\n[vllm]\ndtype = "float16"\n')
    return path


def test_command_line_then_environment_then_file_then_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R2SM_PORT", "10")
    monkeypatch.setenv("R2SM_MAX_QUEUED", "20")
    monkeypatch.setenv("R2SM_VLLM__CPU_THREADS", "4")
    settings = read_settings(config=file, port=100)
    assert (settings.port, settings.max_queued, settings.stall_seconds) == (100, 20, 3.0)
    assert settings.max_in_flight == Settings.model_fields["max_in_flight"].default
    assert (settings.vllm.dtype, settings.vllm.cpu_threads) == ("float16", 4)


def test_the_environment_names_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R2SM_CONFIG", str(file))
    assert read_settings().port == 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("port = 70000", "port"),
        ("prot = 1", "prot"),
        ("max_queued = -1\nmax_in_flight = 0", "max_in_flight"),
        ('rate_limit = "often"', "rate_limit"),
        ('[vllm]\ndtype = "int3"', "vllm.dtype"),
        ("port =", "config"),
        ('host = "0.0.0.0"', "host"),
        ('api_keys = "ann:secret"', "api_keys"),
        ('api_keys = ""', "api_keys"),
        ('api_keys_file = "/nowhere/keys"', "/nowhere/keys"),
        ('reason_url = "x"', "reason_url"),
    ],
)
def test_a_wrong_setting_is_named_and_ends_in_2(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "r2sm.toml"
    path.write_text(text)
    with pytest.raises(SettingsInvalid) as caught:
        read_settings(config=path)
    assert any(named in fault for fault in caught.value.faults)
    for command in (["config", "--config", str(path), "--check"], ["serve", "--config", str(path)]):
        result = RUN.invoke(app, command)
        assert result.exit_code == 2
        assert named in result.output
        assert "Traceback" not in result.output
        assert "secret" not in result.output


def test_every_wrong_setting_has_its_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R2SM_PORT", "x")
    monkeypatch.setenv("R2SM_MAX_IN_FLIGHT", "0")
    monkeypatch.setenv("R2SM_MAX_IN_FLIHGT", "4")
    result = RUN.invoke(app, ["config", "--check"])
    assert result.exit_code == 2
    assert [line.partition(":")[0] for line in result.output.splitlines()] == [
        "port", "max_in_flight", "R2SM_MAX_IN_FLIHGT",
    ]  # fmt: skip
    assert "did you mean R2SM_MAX_IN_FLIGHT?" in result.output


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"none\.toml"):
        read_settings(config=tmp_path / "none.toml")


def test_variables_that_do_nothing_are_found() -> None:
    known = {"R2SM_PORT": "1", "R2SM_VLLM__DTYPE": "auto", "R2SM_API_KEY": "x", "OTHER": "x"}
    assert unknown_variables(known) == []
    assert len(unknown_variables({**known, "R2SM_VLLM__DTIPE": "auto"})) == 1


def test_what_is_in_force_is_toml_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = new_key("ann")[1]
    monkeypatch.setenv("R2SM_API_KEYS", entry)
    monkeypatch.setenv("R2SM_REDIS_URL", "redis://user:hunter2@cache:6379/0")
    result = RUN.invoke(app, ["config"])
    assert result.exit_code == 0
    shown = tomllib.loads(result.output)
    assert shown["redis_url"] == "redis://user:********@cache:6379/0"
    assert entry not in result.output
    assert "hunter2" not in result.output
    assert shown["vllm"]["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://cache:6379/0?password=hunter2", "redis://cache:6379/0?password=********"),
        (
            "redis://cache:6379/0?username=ann&password=hunter2&db=1",
            "redis://cache:6379/0?username=ann&password=********&db=1",
        ),
        (
            "redis://ann:hunter2@cache:6379/0?password=hunter2%26&password=hunter2#hunter2",
            "redis://ann:********@cache:6379/0?password=********&password=********",
        ),
        (
            "rediss://cache:6379/0?ssl_keyfile=key.pem&ssl_password=hunter2",
            "rediss://cache:6379/0?ssl_keyfile=key.pem&ssl_password=********",
        ),
        ("redis://cache:6379/0?max_connections=9", "redis://cache:6379/0?max_connections=9"),
    ],
)
def test_a_password_in_the_query_is_masked_too(url: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R2SM_REDIS_URL", url)
    result = RUN.invoke(app, ["config"])
    assert result.exit_code == 0, result.output
    assert tomllib.loads(result.output)["redis_url"] == shown
    assert "hunter2" not in result.output


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    flags = ("--quantization", "fp8", "--enforce-eager")
    settings = read_settings(port=7, image_url_hosts=["b.example", "a.example"], vllm={"flags": flags})
    path = tmp_path / "r2sm.toml"
    path.write_text(as_toml(settings))
    assert read_settings(config=path) == settings.model_copy(update={"config": path})


@pytest.mark.parametrize(
    ("given", "ok"),
    [
        ({"host": "127.0.0.1"}, True),
        ({"host": "::1"}, True),
        ({"host": "localhost"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "gateway.example"}, False),
        ({"host": "0.0.0.0", "insecure_no_keys": True}, True),
        ({"host": "0.0.0.0", "api_keys": new_key("ann")[1]}, True),
    ],
)
def test_nobody_listens_beyond_this_machine_without_keys(given: dict[str, object], ok: bool) -> None:
    if ok:
        read_settings(**given)
        return
    with pytest.raises(SettingsInvalid, match="can be reached from elsewhere"):
        read_settings(**given)


def test_a_bundle_that_does_not_fit_is_said(tmp_path: Path) -> None:
    tiny, path = build_tiny_bundle(tmp_path / "bundle"), tmp_path / "r2sm.toml"
    needs = requirements(Bundle.load(tiny))

    def check(settings: str, gib: float) -> str:
        path.write_text(f'bundle = "{tiny}"\n{settings}')
        result = RUN.invoke(app, ["config", "--config", str(path), "--check", "--gpu-gib", str(gib)])
        assert result.exit_code == (0 if "are right" in result.output else 2)
        return result.output

    assert "are right" in check("", 8)
    assert "vllm.tensor_parallel_size: 3 does not divide" in check("[vllm]\ntensor_parallel_size = 3", 8)
    assert "are right" in check("[vllm]\ntensor_parallel_size = 4", 8)
    share = needs.server() / (8 * GIB)
    assert "vllm.memory_share" in check(f"[vllm]\nmemory_share = {share * 0.9:.9f}", 8)
    assert "are right" in check(f"[vllm]\nmemory_share = {share * 1.1:.9f}", 8)
    (tiny / "bundle.json").write_text("{}")
    assert "bundle: " in check("", 8)


def test_a_bundle_larger_than_the_memory_is_said(tmp_path: Path) -> None:
    tiny = build_tiny_bundle(tmp_path / "bundle")
    least = requirements(Bundle.load(tiny)).least()
    fits, too_small = (Machine("toaster", 1, least + more) for more in (1, -1))
    assert misfits(read_settings(bundle=tiny), fits) == []
    assert ["toaster" in fault for fault in misfits(read_settings(bundle=tiny), too_small)] == [True]


def test_where_vllm_runs_elsewhere_the_vision_model_alone_must_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, path = build_tiny_bundle(tmp_path / "bundle"), tmp_path / "r2sm.toml"
    here = "tensor_parallel_size = 4\nmemory_share = 0.5\n"
    urls = 'reason_url = ["http://a:8100"]\nconcentrate_url = ["http://a:8101"]\n'
    vision = requirements(Bundle.load(tiny)).vision

    def check(memory: int, settings: str, *more: str) -> str:
        path.write_text(f'bundle = "{tiny}"\n{settings}[vllm]\n{here}')
        monkeypatch.setattr("server.commands.config.this_machine", lambda: Machine("toaster", 1, memory))
        return RUN.invoke(app, ["config", "--config", str(path), "--check", *more]).output

    assert "toaster" in check(vision, "")
    assert "are right" in check(vision, urls)
    assert "toaster" in check(vision - 1, urls)
    here = "tensor_parallel_size = 3\n"
    assert "does not divide" in check(vision, urls)
    here = "memory_share = 0.000001\n"
    assert "vllm.memory_share" in check(vision, urls, "--gpu-gib", "8"), "asked about the machines over there"


def test_a_bundle_that_is_elsewhere_is_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "r2sm.toml"
    path.write_text('bundle = "/nowhere/bundle"')
    result = RUN.invoke(app, ["config", "--config", str(path), "--check"])
    assert result.exit_code == 0
    assert "was not looked at" in result.output
