"""The probe for a compiler, with real and missing ones."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.mllm.compiler import compiler_works


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    compiler_works.cache_clear()
    yield
    compiler_works.cache_clear()


def test_a_real_compiler_is_found() -> None:
    if shutil.which("g++") is None or not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("no g++ with Python's headers on this machine")
    assert compiler_works()


def test_a_missing_one_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    assert not compiler_works()


def test_a_machine_without_room_for_the_probe_compiles_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert not compiler_works()


def test_headers_that_are_missing_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("engines.mllm.compiler.sysconfig.get_path", lambda _: str(tmp_path))
    assert not compiler_works()
