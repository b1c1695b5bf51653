"""Compiled engines on disk: whole or not there, built once, and never somebody else's."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from engines.errors import CacheFailed, EngineRefused
from engines.vision import engine_cache
from engines.vision.engine_cache import EngineCache, EngineIdentity

HERE = EngineIdentity({"tensorrt": "11.4.0.106", "gpu": "NVIDIA H200", "driver": "580.65.06", "graphs": "ab"})
FILES = {"encoder.plan": b"engine", "decoder.plan": b"another"}


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def test_what_was_stored_is_found_again(cache: EngineCache) -> None:
    assert cache.find(HERE) is None
    folder = cache.store(HERE, FILES)
    assert cache.find(HERE) == folder
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES


@pytest.mark.parametrize("fact", HERE.facts)
def test_every_fact_counts(cache: EngineCache, fact: str) -> None:
    cache.store(HERE, FILES)
    assert cache.find(EngineIdentity({**HERE.facts, fact: "another"})) is None


def test_an_engine_of_another_version_under_our_name_is_refused(cache: EngineCache) -> None:
    folder = cache.store(HERE, FILES)
    file = folder / "identity.json"
    stored = json.loads(file.read_text())
    stored["facts"]["tensorrt"] = "10.13.0"
    file.write_text(json.dumps(stored))
    with pytest.raises(EngineRefused, match=r"made for tensorrt '10\.13\.0', here it is '11\.4\.0\.106'"):
        cache.find(HERE)


@pytest.mark.parametrize(
    ("name", "content"),
    [("encoder.plan", b"engin"), ("decoder.plan", None), ("identity.json", b"{"), ("identity.json", b"[]")],
)
def test_damage_is_named(cache: EngineCache, name: str, content: bytes | None) -> None:
    folder = cache.store(HERE, FILES)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(EngineRefused, match=rf"{name}: .*delete"):
        cache.find(HERE)


def test_a_folder_that_others_may_enter_is_refused(cache: EngineCache, tmp_path: Path) -> None:
    folder = cache.store(HERE, FILES)
    folder.chmod(0o755)
    with pytest.raises(CacheFailed, match="this user's alone"):
        cache.find(HERE)
    (tmp_path / "engines").chmod(0o777)
    with pytest.raises(CacheFailed, match="this user's alone"):
        EngineCache(tmp_path / "engines")
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(CacheFailed, match="this user's alone"):
        EngineCache(tmp_path / "link")


def test_a_full_disk_leaves_nothing(
    cache: EngineCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = engine_cache._write

    def fill(path: Path, content: bytes) -> None:
        if path.name in ("decoder.plan", f"timings.{os.getpid()}"):
            path.write_bytes(content[:2])
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(engine_cache, "_write", fill)
    with pytest.raises(CacheFailed, match="No space left on device"):
        cache.store(HERE, FILES)
    with pytest.raises(CacheFailed, match="No space left on device"):
        cache.keep_timings(b"measured")
    assert list((tmp_path / "engines").iterdir()) == []
    assert cache.timings() == b""


def test_of_two_builders_one_works(cache: EngineCache) -> None:
    built: list[str] = []

    def builder(name: str) -> None:
        with cache.building(HERE):
            if cache.find(HERE) is None:
                built.append(name)
                cache.store(HERE, FILES)

    threads = [threading.Thread(target=builder, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(built) == 1


def test_a_builder_that_hangs_is_not_waited_for_without_end(cache: EngineCache) -> None:
    with cache.building(HERE):
        with (
            pytest.raises(CacheFailed, match="another process has been building"),
            cache.building(HERE, seconds=0.1),
        ):
            pass
        with cache.building(EngineIdentity({"gpu": "another"}), seconds=0.1):
            pass


def test_timings_are_kept(cache: EngineCache) -> None:
    cache.keep_timings(b"measured")
    assert cache.timings() == b"measured"
