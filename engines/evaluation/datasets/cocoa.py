"""COCOA (Zhu et al., Semantic Amodal Segmentation, 2017): regions with a depth order and their hidden parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines.evaluation.datasets.annotated import AnnotatedPicture, Instance, questions_by_name
from engines.evaluation.datasets.files import (
    field,
    find_picture,
    picture_folders,
    read_json,
    read_picture,
)
from engines.evaluation.datasets.masks import BadMask, to_mask
from engines.evaluation.questions import Fault, FaultyData, Reading


class Cocoa:
    """COCOA as published (``images`` and ``annotations`` with ``regions``), or one such annotation a picture.

    A region's ``segmentation`` is its complete shape; ``visible_mask`` the part in sight, where some is hidden.
    COCOA has no queries: each name in a picture makes one, and one for the complete shape where it is occluded.
    """

    def __init__(self, root: Path, split: str | None = None) -> None:
        """`split` picks ``val`` or ``train`` of the published files.

        Raises:
            FaultyData: there are no annotations, or they are not COCOA's.
        """
        self._entries: dict[str, tuple[Path | None, Any]] = {}
        self._folders = picture_folders(root)
        for path in sorted([*root.glob("*.json"), *root.glob("annotations/*.json")]):
            content = read_json(path)
            if isinstance(content, dict) and "regions" in content:
                self._entries[path.stem] = (_beside(path), content)
            elif _is_published(content) and (split is None or split in path.stem):
                self._add_published(content, str(path))
        if not self._entries:
            raise FaultyData(Fault("unreadable_file", str(root), "no COCOA annotations (regions) here"))

    def pictures(self) -> Sequence[str]:
        """The names of the annotations: the file's, or the picture's id."""
        return list(self._entries)

    def annotated(self, picture: str) -> AnnotatedPicture:
        """One picture with its regions, front to back."""
        path, entry = self._entries[picture]
        opened = read_picture(path, picture)
        instances, faults = [], []
        regions = field(entry, "regions", picture)
        for place, region in enumerate(sorted(regions, key=lambda each: each.get("order") or 0), 1):
            where = f"{picture}.region {region.get('order', place)}"
            try:
                instances.append(_instance(place, region, opened.shape, where))
            except BadMask as error:
                faults.append(Fault("bad_mask", where, str(error)))
            except FaultyData as error:
                faults.append(error.fault)
        name = path.name if path else ""
        return AnnotatedPicture(picture, name, opened, tuple(instances), faults=tuple(faults))

    def read(self, picture: str) -> Reading:
        """The questions about one picture, made of its regions' names."""
        try:
            scene = self.annotated(picture)
        except FaultyData as error:
            return Reading(faults=(error.fault,))
        return Reading(questions_by_name(scene, amodal=True), scene.faults)

    def _add_published(self, content: Any, where: str) -> None:
        files = {field(each, "id", where): field(each, "file_name", where) for each in content["images"]}
        for entry in content["annotations"]:
            number = field(entry, "image_id", where)
            name = str(number) if str(number) not in self._entries else f"{number}.{entry.get('id')}"
            file = files.get(number)
            self._entries[name] = (find_picture(file, self._folders) if file else None, entry)


def _is_published(content: Any) -> bool:
    entries = content.get("annotations") if isinstance(content, dict) else None
    return bool(entries) and isinstance(entries, list) and "regions" in entries[0] and "images" in content


def _beside(path: Path) -> Path | None:
    return next((path.with_suffix(end) for end in (".jpg", ".png") if path.with_suffix(end).is_file()), None)


def _instance(place: int, region: Any, shape: tuple[int, int], where: str) -> Instance:
    amodal = to_mask(field(region, "segmentation", where), shape)
    modal = to_mask(region["visible_mask"], shape) if region.get("visible_mask") else amodal
    return Instance(
        int(region.get("order", place)), " ".join(field(region, "name", where).split()), modal, amodal
    )
