"""Reading a data set's files: JSON and pictures, with faults that say where."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from engines.evaluation.questions import Fault, FaultyData
from engines.upright import DAMAGE, upright_size


def read_json(path: Path) -> Any:
    """The content of a JSON file, in UTF-8 or, as some of ReasonSeg's are, in code page 1252.

    Raises:
        FaultyData: it is not there, or no JSON.
    """
    try:
        data = path.read_bytes()
        try:
            return json.loads(data)
        except UnicodeDecodeError:
            return json.loads(data.decode("cp1252"))
    except FileNotFoundError:
        raise FaultyData(Fault("unreadable_file", str(path), "the file is not there")) from None
    except (OSError, ValueError) as error:
        raise FaultyData(Fault("unreadable_file", str(path), f"no JSON: {error}")) from error


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture with its upright size (H, W)."""

    data: bytes
    shape: tuple[int, int]


def read_picture(path: Path | None, where: str, annotated: tuple[int, int] | None = None) -> Picture:
    """A picture file, as it is; `annotated` is the size (H, W) that the annotations are about.

    Raises:
        FaultyData: it is not there, no picture, or of another size.
    """
    if path is None or not path.is_file():
        message = f"the picture {path.name} is not there" if path else "the picture is not there"
        raise FaultyData(Fault("missing_image", where, message))
    picture = parse_picture(path.read_bytes(), where)
    if annotated is not None and picture.shape != annotated:
        message = f"{path.name} is {picture.shape}, the annotations say {annotated}"
        raise FaultyData(Fault("wrong_size", where, message))
    return picture


def parse_picture(data: bytes, where: str) -> Picture:
    """An encoded picture with its size. No pixel is decoded, but for a PNG's, where EXIF might come after them.

    Raises:
        FaultyData: it is no picture.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            width, height = upright_size(opened)
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise FaultyData(Fault("unreadable_image", where, f"the picture cannot be read: {error}")) from error
    return Picture(data, (height, width))


def find_picture(name: str, folders: Iterable[Path]) -> Path | None:
    """The first file of that name in the folders, also without the folders that the name itself carries.

    A name that leads out of the folders is not followed.
    """
    path = Path(name)
    names = [Path(path.name)] if path.is_absolute() or ".." in path.parts else [path, Path(path.name)]
    for folder in folders:
        for candidate in names:
            if (folder / candidate).is_file():
                return folder / candidate
    return None


def picture_folders(root: Path) -> list[Path]:
    """Where data sets keep their pictures below `root`."""
    names = ("", "images", "val2014", "train2014", "test2014", "val2017", "train2017")
    inner = [root / name for name in names] + [root / "images" / name for name in names[2:]]
    return [folder for folder in [*inner, root / "images/mscoco/images/train2014"] if folder.is_dir()]
