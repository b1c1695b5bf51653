"""Plain COCO: modal instances with categories, one JSON file for all pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines.evaluation.datasets.annotated import AnnotatedPicture, Instance, questions_by_name
from engines.evaluation.datasets.fields import Entry, field, key, number, rows, size, text
from engines.evaluation.datasets.files import find_picture, picture_folders, read_json, read_picture
from engines.evaluation.datasets.masks import BadMask, to_mask
from engines.evaluation.metrics import Mask
from engines.evaluation.questions import Fault, FaultyData, Reading


class Coco:
    """COCO's instances. Each category in a picture makes one modal query, meaning all its instances.

    Pixels of crowds, whose members nobody told apart, are ignored when masks are compared.
    """

    def __init__(self, root: Path, split: str | None = None) -> None:
        """`split` is a part of the annotation file's name, such as ``val2017``.

        Raises:
            FaultyData: there is no such file, or it is not COCO's.
        """
        paths = sorted([*root.glob("instances*.json"), *root.glob("annotations/instances*.json")])
        chosen = [path for path in paths if split is None or split in path.stem]
        if not chosen:
            raise FaultyData(Fault("unreadable_file", str(root), "no instances*.json here"))
        content, where = read_json(chosen[0]), chosen[0].name
        self._folders = picture_folders(root)
        self._images = {str(key(each, "id", where)): each for each in rows(content, "images", where)}
        categories = rows(content, "categories", where)
        self._names = {key(each, "id", where): text(each, "name", where) for each in categories}
        self._members: dict[str, list[Entry]] = {}
        for entry in rows(content, "annotations", where):
            self._members.setdefault(str(key(entry, "image_id", where)), []).append(entry)

    def pictures(self) -> Sequence[str]:
        """The ids of the pictures."""
        return list(self._images)

    def annotated(self, picture: str) -> AnnotatedPicture:
        """One picture with its instances; of each the visible part only is known."""
        image = self._images[picture]
        name, shape = text(image, "file_name", picture), size(image, "height", "width", picture)
        opened = read_picture(find_picture(name, self._folders), picture, shape)
        instances, faults, crowds = [], [], np.zeros(shape, dtype=np.bool_)
        for entry in self._members.get(picture, []):
            where = f"{picture}.annotation {entry.get('id')}"
            try:
                mask = to_mask(field(entry, "segmentation", where), shape)
                if entry.get("iscrowd"):
                    crowds |= mask
                else:
                    name_of = self._name(entry, where)
                    instances.append(Instance(number(entry, "id", where), name_of, mask, mask))
            except BadMask as error:
                faults.append(Fault("bad_mask", where, str(error)))
            except FaultyData as error:
                faults.append(error.fault)
        return AnnotatedPicture(picture, name, opened, tuple(instances), _unless_empty(crowds), tuple(faults))

    def read(self, picture: str) -> Reading:
        """The questions about one picture, made of its categories."""
        try:
            scene = self.annotated(picture)
        except FaultyData as error:
            return Reading(faults=(error.fault,))
        return Reading(questions_by_name(scene, amodal=False), scene.faults)

    def _name(self, entry: Entry, where: str) -> str:
        category = key(entry, "category_id", where)
        if category not in self._names:
            raise FaultyData(Fault("wrong_class", where, f"there is no category {category}"))
        return self._names[category]


def _unless_empty(mask: Mask) -> Mask | None:
    return mask if mask.any() else None
