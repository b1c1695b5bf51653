"""What is asked: pictures with prompts, from a folder or drawn by the demo, and ways to make a picture a new one."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from engines.demo.language import ask
from engines.demo.scenes import render_scene
from engines.errors import InvalidInput
from engines.evaluation.datasets.demo import encode_png

FIRST_SCENE = 60_000_000
PROMPTS_FILE = "prompts.txt"
FORMATS = ("PNG", "JPEG")
PNG_END = 12
"""Bytes of a PNG's last chunk, IEND."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file and prompts that fit it."""

    data: bytes
    prompts: tuple[str, ...]

    def prompt(self, number: int) -> str:
        """One of them, round and round."""
        return self.prompts[number % len(self.prompts)]


def demo_pictures(count: int, prompts: int, first: int = FIRST_SCENE) -> list[Picture]:
    """So many of the demo's scenes, with so many prompts each."""
    found = []
    for seed in range(first, first + count):
        scene = render_scene(seed)
        queries = ask(scene, random.Random(seed), prompts)
        found.append(Picture(encode_png(scene.image), tuple(query.prompt for query in queries)))
    return found


def folder_pictures(folder: Path) -> list[Picture]:
    """The PNG and JPEG files of a folder, all with the prompts in its ``prompts.txt``, one a line.

    Raises:
        InvalidInput: there is no picture or no prompt, or a file is no picture of these kinds.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is no folder")
    listed = folder / PROMPTS_FILE
    try:
        lines = listed.read_text("utf-8").splitlines() if listed.exists() else []
    except ValueError as error:
        raise InvalidInput(f"{listed} is no text in UTF-8: {error}") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise InvalidInput(f"{listed} must hold at least one prompt, one a line")
    files = sorted(file for file in folder.iterdir() if file.is_file() and file != listed)
    if not files:
        raise InvalidInput(f"{folder} holds no images: a scenario needs at least one")
    return [Picture(_checked(file), tuple(prompts)) for file in files]


def _checked(file: Path) -> bytes:
    data = file.read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS):
            return data
    except Image.DecompressionBombError as error:
        raise InvalidInput(f"{file}: {error}") from error
    except (UnidentifiedImageError, OSError) as error:
        raise InvalidInput(f"{file} is neither a PNG nor a JPEG file") from error


def as_new(data: bytes, mark: str) -> bytes:
    """The same picture as a file that nobody has seen: `mark` is put into it as a comment."""
    comment = b"Comment\0" + mark.encode("latin-1")
    if data.startswith(b"\x89PNG"):
        chunk = b"tEXt" + comment
        chunk = struct.pack(">I", len(comment)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        return data[:-PNG_END] + chunk + data[-PNG_END:]
    return data[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + data[2:]


def rotated(pictures: Sequence[Picture], by: int) -> list[Picture]:
    """The pictures, begun at another one, so that several sources do not ask about the same at once."""
    return list(islice(cycle(pictures), by % len(pictures), by % len(pictures) + len(pictures)))
