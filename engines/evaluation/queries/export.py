"""Writes pictures, annotations and queries as the R2SM reader takes them, and the log of how they came about."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import TypedDict

from engines.errors import InvalidInput
from engines.evaluation.datasets.annotated import AnnotatedPicture
from engines.evaluation.metrics import box_of
from engines.evaluation.queries.cleaning import answer_of
from engines.evaluation.queries.generate import Asked
from engines.events import Rle
from engines.vision.masks import encode

IMAGES, PARTS, LOG = "images", "parts.jsonl", "log.jsonl"
VERSION = 1

Annotation = TypedDict(
    "Annotation",
    {
        "id": int,
        "image_id": int,
        "class": str,
        "bbox": list[float],
        "polygon": Rle,
        "visible_mask": Rle,
        "is_occluded": int,
    },
)


class Origin(BaseModel):
    """The first line of the parts: what they are made from. A data set goes on only with the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = VERSION
    data: Path
    layout: str
    model: str


class Part(BaseModel):
    """One picture's part of the data set, a line each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    picture: str
    image: dict[str, int | str]
    annotations: list[Annotation]
    queries: list[dict[str, int | str]]
    short: bool = False
    """Not all queries that were wanted came: it is asked for again, and the last part counts."""


class Export:
    """Collects a data set in a folder, picture by picture, and goes on with what is there.

    Each picture's part and the log are written at once; the data set itself is made of the parts when it is finished.
    """

    def __init__(self, folder: Path, origin: Origin) -> None:
        """Read what is there, if anything is.

        Raises:
            InvalidInput: the folder belongs to a data set of another origin, or its parts cannot be read.
        """
        self._folder = folder
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        lines = _whole_lines(folder / PARTS)
        if lines:
            _check_origin(folder / PARTS, lines[0], origin)
        else:
            self._append(PARTS, origin.model_dump_json())
        self._parts = [_part(f"{folder / PARTS}:{number}", line) for number, line in enumerate(lines[1:], 2)]

    @property
    def known(self) -> set[str]:
        """The pictures that have their queries."""
        return {part.picture for part in self._parts if not part.short}

    def add(self, scene: AnnotatedPicture, asked: Asked) -> None:
        """One picture with its queries."""
        before = [part.image["id"] for part in self._parts if part.picture == scene.name]
        number = int(before[0]) if before else len(self._parts) + 1
        name = f"{number:06}{Path(scene.file_name).suffix or '.jpg'}"
        (self._folder / IMAGES / name).write_bytes(scene.picture.data)
        height, width = scene.picture.shape
        part = Part(
            picture=scene.name,
            image={"id": number, "file_name": name, "height": height, "width": width},
            annotations=[_annotation(number, scene, place) for place in range(len(scene.instances))],
            queries=[
                {
                    "image_id": number,
                    "query": draft.query,
                    "mask_type": draft.mask_type,
                    "answer": answer_of(draft, scene),
                }
                for draft in asked.drafts
            ],
            short=any(asked.missing.values()) or bool(asked.uncovered),
        )
        self.log({"picture": scene.name, "image_id": number, **asdict(asked)})
        self._append(PARTS, part.model_dump_json())
        self._parts.append(part)

    def log(self, entry: dict[str, Any]) -> None:
        """Append a line to the log."""
        self._append(LOG, json.dumps(entry, ensure_ascii=False))

    def finish(self) -> None:
        """Write the annotations and the queries of all parts, each file in one piece."""
        classes: dict[str, int] = {}
        annotations = []
        parts = list({part.picture: part for part in self._parts}.values())
        for annotation in (one for part in parts for one in part.annotations):
            category = classes.setdefault(annotation["class"], len(classes) + 1)
            annotations.append({**annotation, "category_id": category})
        content = {
            "images": [part.image for part in parts],
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in classes.items()],
        }
        self._replace("annotations.json", json.dumps(content))
        queries = [query for part in parts for query in part.queries]
        self._replace("queries.json", json.dumps(queries, indent=1, ensure_ascii=False))

    def _append(self, name: str, line: str) -> None:
        with (self._folder / name).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _replace(self, name: str, text: str) -> None:
        scratch = self._folder / f".{name}"
        scratch.write_text(text, "utf-8")
        os.replace(scratch, self._folder / name)


def _whole_lines(path: Path) -> list[bytes]:
    """The lines that were written whole; what a process that was killed has begun is cut off."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    return whole.splitlines()


def _check_origin(path: Path, head: bytes, origin: Origin) -> None:
    try:
        found = Origin.model_validate_json(head)
    except ValidationError as error:
        raise InvalidInput(f"{path}:1: the file does not begin as the parts of a data set do") from error
    there, now = found.model_dump(), origin.model_dump()
    if other := [f"{name} {there[name]}, not {now[name]}" for name in now if there[name] != now[name]]:
        raise InvalidInput(f"{path.parent} holds a data set made with {'; '.join(other)}")


def _part(where: str, line: bytes) -> Part:
    try:
        return Part.model_validate_json(line)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        words = [*filter(None, [".".join(map(str, fault["loc"]))]), fault["msg"]]
        raise InvalidInput(f"{where}: the line cannot be used: {': '.join(words)}") from error


def _annotation(image: int, scene: AnnotatedPicture, place: int) -> Annotation:
    instance = scene.instances[place]
    return {
        "id": instance.id,
        "image_id": image,
        "class": instance.name,
        "bbox": list(box_of(instance.amodal) or (0, 0, 0, 0)),
        "polygon": encode(instance.amodal).rle,
        "visible_mask": encode(instance.modal).rle,
        "is_occluded": int(instance.occluded),
    }
