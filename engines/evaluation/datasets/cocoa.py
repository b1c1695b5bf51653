"""COCOA (Zhu et al., Semantic Amodal Segmentation, 2017): regions with a depth order and their hidden parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.evaluation.datasets.annotated import AnnotatedPicture, Instance, questions_by_name
from engines.evaluation.datasets.fields import Entry, field, is_whole, key, rows, size, text
from engines.evaluation.datasets.files import find_picture, picture_folders, read_json, read_picture
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
        self._entries: dict[str, _Drawn] = {}
        self._folders = picture_folders(root)
        for path in sorted([*root.glob("*.json"), *root.glob("annotations/*.json")]):
            content = read_json(path)
            if isinstance(content, dict) and "regions" in content:
                self._entries[path.stem] = _Drawn(_beside(path), content)
            elif _is_published(content) and (split is None or split in path.stem):
                self._add_published(content, str(path))
        if not self._entries:
            raise FaultyData(Fault("unreadable_file", str(root), "no COCOA annotations (regions) here"))

    def pictures(self) -> Sequence[str]:
        """The names of the annotations: the file's, or the picture's id."""
        return list(self._entries)

    def annotated(self, picture: str) -> AnnotatedPicture:
        """One picture with its regions, front to back."""
        drawn = self._entries[picture]
        opened = read_picture(drawn.file, picture, drawn.size)
        instances, faults = [], []
        regions = rows(drawn.entry, "regions", picture)
        for place, region in enumerate(sorted(regions, key=lambda each: _order(each, 0)), 1):
            where = f"{picture}.region {region.get('order', place)}"
            try:
                instances.append(_instance(place, region, opened.shape, where))
            except BadMask as error:
                faults.append(Fault("bad_mask", where, str(error)))
            except FaultyData as error:
                faults.append(error.fault)
        name = drawn.file.name if drawn.file else ""
        return AnnotatedPicture(picture, name, opened, tuple(instances), faults=tuple(faults))

    def read(self, picture: str) -> Reading:
        """The questions about one picture, made of its regions' names."""
        try:
            scene = self.annotated(picture)
        except FaultyData as error:
            return Reading(faults=(error.fault,))
        return Reading(questions_by_name(scene, amodal=True), scene.faults)

    def _add_published(self, content: Any, where: str) -> None:
        images = {key(each, "id", where): each for each in rows(content, "images", where)}
        for entry in rows(content, "annotations", where):
            number = key(entry, "image_id", where)
            name = str(number) if str(number) not in self._entries else f"{number}.{entry.get('id')}"
            image = images.get(number, {})
            file = find_picture(text(image, "file_name", where), self._folders) if image else None
            annotated = size(image, "height", "width", where) if "height" in image else None
            self._entries[name] = _Drawn(file, entry, annotated)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """An annotation, the picture that it is about, and the size (H, W) that it says the picture has, if it does."""

    file: Path | None
    entry: Entry
    size: tuple[int, int] | None = None


def _is_published(content: Any) -> bool:
    entries = content.get("annotations") if isinstance(content, dict) else None
    first = entries[0] if isinstance(entries, list) and entries else None
    return isinstance(first, dict) and "regions" in first and "images" in content


def _beside(path: Path) -> Path | None:
    return next((path.with_suffix(end) for end in (".jpg", ".png") if path.with_suffix(end).is_file()), None)


def _instance(place: int, region: Entry, shape: tuple[int, int], where: str) -> Instance:
    amodal = to_mask(field(region, "segmentation", where), shape)
    seen = region.get("visible_mask")
    modal = amodal if seen is None else to_mask(seen, shape, may_be_empty=True)
    return Instance(_order(region, place), " ".join(text(region, "name", where).split()), modal, amodal)


def _order(region: Entry, otherwise: int) -> int:
    value = region.get("order")
    return int(value) if value is not None and is_whole(value) else otherwise
