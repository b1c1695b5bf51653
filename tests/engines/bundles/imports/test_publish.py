"""Bundles appear whole or not at all: when the disk is full, when the process is killed, and when it is run again."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engines.bundles import Bundle
from engines.bundles.imports.converseg import import_converseg
from engines.bundles.imports.coprs import import_coprs
from engines.bundles.imports.egm import import_egm
from engines.bundles.imports.publish import unfinished
from engines.errors import CheckpointError
from tests.engines.bundles.imports.published_converseg import build_converseg
from tests.tiny_qwen3 import build_tiny_qwen3

Import = Callable[[Path], Bundle]


@pytest.fixture(scope="module")
def imports(
    shards: Path, base: Path, sam_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Import]:
    """Every importer, on published files that are whole."""
    folder = tmp_path_factory.mktemp("published")
    build_tiny_qwen3(folder / "EGM-4B")
    conversational = build_converseg(base, folder / "ConverSeg-Net-3B")
    said: list[str] = []
    tell = said.append
    return {
        "coprs": lambda out: import_coprs(shards, str(base), str(sam_file), out, progress=tell),
        "egm": lambda out: import_egm(
            str(folder / "EGM-4B"), str(sam_file), out, max_pixels=256 * 256, progress=tell
        ),
        "converseg": lambda out: import_converseg(str(conversational.folder), str(base), out, progress=tell),
    }


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes, as on a disk that is full: whoever writes on is told so by the system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("system", ["coprs", "egm", "converseg"])
def test_a_full_disk_is_named_wherever_it_is_met(
    imports: dict[str, Import], system: str, tmp_path: Path
) -> None:
    """With room for nothing, for the first small files, for the tokenizer, and for all but the largest file."""
    make, out = imports[system], tmp_path / "out" / "bundle"
    out.parent.mkdir()
    whole = make(out)
    sizes = sorted(file.stat().st_size for file in whole.path.rglob("*") if file.is_file())
    manifest = (out / "bundle.json").read_bytes()
    for size in (0, *(size - 1 for size in sizes)):
        for at in (out, out.with_name("other")):
            with pytest.raises(CheckpointError, match="the disk is full"), room_for(size):
                make(at)
        assert [path.name for path in out.parent.iterdir()] == ["bundle"], "nothing half-written is left"
        assert (out / "bundle.json").read_bytes() == manifest, "what was there is as it was"
    Bundle.load(out)
    make(out.with_name("other"))


KILLED = """
import os, signal, sys
from pathlib import Path
from engines.bundles.imports.publish import unfinished
with unfinished(Path(sys.argv[1])) as folder:
    (folder / "mllm" / "model.safetensors").write_bytes(b"half of it")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("replacing", [False, True])
def test_what_a_killed_process_left_is_cleared_away(
    imports: dict[str, Import], tmp_path: Path, replacing: bool
) -> None:
    out = tmp_path / "out" / "bundle"
    out.parent.mkdir()
    if replacing:
        imports["egm"](out)
    done = subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(out.parent.iterdir())) == 1 + replacing, "the half-written folder is beside the bundle"
    if replacing:
        Bundle.load(out)
    imports["egm"](out)
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]


def test_a_bundle_that_was_set_aside_when_the_process_died_is_put_back(
    imports: dict[str, Import], tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    imports["egm"](out)
    out.rename(tmp_path / ".bundle.replaced")
    with pytest.raises(ZeroDivisionError), unfinished(out):
        raise ZeroDivisionError
    Bundle.load(out)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_link_to_a_bundle_goes_on_leading_to_it(imports: dict[str, Import], tmp_path: Path) -> None:
    there, link = tmp_path / "large disk" / "egm", tmp_path / "egm"
    there.parent.mkdir()
    imports["egm"](there)
    link.symlink_to(there)
    for _ in range(2):
        imports["egm"](link)
    assert link.is_symlink()
    assert Bundle.load(link).name == Bundle.load(there).name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["egm", "large disk"]
