"""Writes pictures, annotations and queries as the R2SM reader takes them, and the log of how they came about."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engines.evaluation.datasets.annotated import AnnotatedPicture
from engines.evaluation.metrics import box_of
from engines.evaluation.queries.cleaning import answer_of
from engines.evaluation.queries.generate import Asked
from engines.vision.masks import encode


class Export:
    """Collects a data set for a folder. The log is written at once, the rest when it is finished."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "images").mkdir(parents=True, exist_ok=True)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._queries: list[dict[str, Any]] = []
        self._classes: dict[str, int] = {}

    def add(self, scene: AnnotatedPicture, asked: Asked) -> None:
        """One picture with its queries."""
        number = len(self._images) + 1
        name = f"{number:06}{Path(scene.file_name).suffix or '.jpg'}"
        (self._folder / "images" / name).write_bytes(scene.picture.data)
        height, width = scene.picture.shape
        self._images.append({"id": number, "file_name": name, "height": height, "width": width})
        self._annotations += [self._annotation(number, scene, place) for place in range(len(scene.instances))]
        self._queries += [
            {
                "image_id": number,
                "query": draft.query,
                "mask_type": draft.mask_type,
                "answer": answer_of(draft, scene),
            }
            for draft in asked.drafts
        ]
        self.log({"picture": scene.name, "image_id": number, **asdict(asked)})

    def log(self, entry: dict[str, Any]) -> None:
        """Append a line to the log."""
        with (self._folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        """Write the annotations and the queries."""
        categories = [{"id": number, "name": name} for name, number in self._classes.items()]
        content = {"images": self._images, "annotations": self._annotations, "categories": categories}
        (self._folder / "annotations.json").write_text(json.dumps(content), "utf-8")
        text = json.dumps(self._queries, indent=1, ensure_ascii=False)
        (self._folder / "queries.json").write_text(text, "utf-8")

    def _annotation(self, image: int, scene: AnnotatedPicture, place: int) -> dict[str, Any]:
        instance = scene.instances[place]
        return {
            "id": instance.id,
            "image_id": image,
            "category_id": self._classes.setdefault(instance.name, len(self._classes) + 1),
            "bbox": list(box_of(instance.amodal) or (0, 0, 0, 0)),
            "polygon": encode(instance.amodal).rle,
            "visible_mask": encode(instance.modal).rle,
            "is_occluded": int(instance.occluded),
        }
