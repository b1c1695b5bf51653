"""Compiled engines on disk: each under the digest of everything that matters to it, and never one from elsewhere."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engines.errors import CacheFailed, EngineRefused
from engines.vision.onnx_cache import storing, unfinished

IDENTITY_FILE = "identity.json"
TIMINGS_FILE = "timings.bin"
LOCK_SECONDS = 3600.0
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """What a set of engines was made of, by and for; all of it is in the name of its folder."""

    facts: Mapping[str, str]

    @property
    def key(self) -> str:
        """A digest of all facts."""
        return hashlib.sha256(json.dumps(dict(self.facts), sort_keys=True).encode()).hexdigest()[:32]


class EngineCache:
    """A folder that only its owner may enter or change.

    Raises `CacheFailed` where it is somebody else's, or open to others, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with storing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_private(folder)

    def find(self, identity: EngineIdentity) -> Path | None:
        """The folder with the engines of this identity, if they are here.

        Raises:
            EngineRefused: they are damaged, or were made for something else.
            CacheFailed: somebody else could have changed them.
        """
        folder = self._folder / identity.key
        if not folder.exists():
            return None
        _require_private(folder)
        stored = _read_identity(folder)
        for name, value in identity.facts.items():
            if stored["facts"].get(name) != value:
                raise EngineRefused(
                    f"{folder}: made for {name} {stored['facts'].get(name)!r}, here it is {value!r}; delete it"
                )
        for name, digest in stored["files"].items():
            if _digest(folder / name) != digest:
                raise EngineRefused(f"{folder / name}: damaged; delete {folder}")
        return folder

    @contextmanager
    def building(self, identity: EngineIdentity, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Hold the right to build these engines: of several builders one works, the others wait, then find them.

        Raises:
            CacheFailed: another process has held it for so many seconds.
        """
        path = self._folder / f".{identity.key}.lock"
        with storing(path):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _lock(file, path, seconds)
            yield
        finally:
            os.close(file)

    def store(self, identity: EngineIdentity, files: Mapping[str, bytes]) -> Path:
        """Write the engines of one identity: all of them, or nothing.

        Raises:
            CacheFailed: the disk is full, or cannot be written.
        """
        folder = self._folder / identity.key
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        with unfinished(folder) as work:
            for name, content in files.items():
                _write(work / name, content)
            stored = {"facts": dict(identity.facts), "files": digests}
            _write(work / IDENTITY_FILE, json.dumps(stored, indent=2).encode())
        return folder

    def timings(self) -> bytes:
        """What earlier builds measured on this machine; empty where there were none."""
        try:
            return (self._folder / TIMINGS_FILE).read_bytes()
        except FileNotFoundError:
            return b""

    def keep_timings(self, content: bytes) -> None:
        """Remember what a build measured."""
        path = self._folder / TIMINGS_FILE
        partial = path.with_suffix(f".{os.getpid()}")
        with storing(path):
            try:
                _write(partial, content)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)


def _lock(file: int, path: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise CacheFailed(f"{path}: another process has been building for {seconds:.0f} s") from None
            time.sleep(POLL_SECONDS)
        else:
            return


def _require_private(folder: Path) -> None:
    with storing(folder):
        state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o077:
        raise CacheFailed(
            f"{folder}: must be a folder of this user's alone (chmod 700); engines in it are code"
        )


def _read_identity(folder: Path) -> dict[str, dict[str, str]]:
    try:
        stored = json.loads((folder / IDENTITY_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise EngineRefused(f"{folder / IDENTITY_FILE}: cannot be read; delete {folder}") from error
    if not isinstance(stored, dict) or not {"facts", "files"} <= stored.keys():
        raise EngineRefused(f"{folder / IDENTITY_FILE}: not an engine's identity; delete {folder}")
    return stored


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise EngineRefused(f"{file}: {error.strerror}; delete {file.parent}") from error


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
