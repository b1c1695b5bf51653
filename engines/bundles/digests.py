"""Digests of a bundle's files, streamed, with progress for the large ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from engines.errors import BundleError

CHUNK = 4 * 1024 * 1024

HashProgress = Callable[[str, int, int], None]
"""Called while hashing with the file's name, the bytes read so far and the bytes of all files together."""


def digest_files(root: Path, names: Iterable[str], progress: HashProgress | None = None) -> dict[str, str]:
    """``sha256:<hex>`` of each named file below `root`, by name, reading no more than `CHUNK` bytes at a time.

    Raises:
        BundleError: a file is missing or cannot be read.
    """
    names = list(names)
    total = sum(_size(root / name) for name in names)
    read = 0
    digests = {}
    for name in names:
        sha256 = hashlib.sha256()
        try:
            with (root / name).open("rb") as file:
                while chunk := file.read(CHUNK):
                    sha256.update(chunk)
                    read += len(chunk)
                    if progress is not None:
                        progress(name, read, total)
        except OSError as error:
            raise BundleError(f"{root / name}: cannot be read: {error.strerror}") from error
        digests[name] = f"sha256:{sha256.hexdigest()}"
    return digests


def _size(path: Path) -> int:
    if not path.is_file():
        raise BundleError(f"{path}: the file is missing")
    return path.stat().st_size
