"""R2SM (Shih et al., 2025): modal and amodal queries that name instances of COCO-style amodal annotations.

The files themselves could not be had. What the paper's figures show is here; every name of a file or a field is in
`R2smFields`, which a user can change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from engines.evaluation.datasets.annotated import AnnotatedPicture, Instance, make_question
from engines.evaluation.datasets.fields import Entry, as_rows, field, is_whole, key, rows, size, text
from engines.evaluation.datasets.fields import query as words_of
from engines.evaluation.datasets.files import find_picture, picture_folders, read_json, read_picture
from engines.evaluation.datasets.masks import BadMask, to_mask
from engines.evaluation.questions import Fault, FaultyData, Question, Reading

FIELDS_FILE = "fields.json"
NEXT = r"[;\n]|[,.]?\s*(?:and\s+)?instance\s+id\s+is"
NAMED = re.compile(
    rf"instance\s+id\s+is\s+(\d+)(?:\s*,\s*class\s+name\s+is\s+((?:(?!{NEXT}).)+))?", re.IGNORECASE
)
NOTHING = re.compile(r"\s*(no|none|no (such )?(object|instance)s?)?\s*\.?\s*", re.IGNORECASE)


class R2smFields(BaseModel):
    """What files and fields are called. ``fields.json`` beside the data replaces any of these names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    annotations_file: str = "annotations.json"
    queries_file: str = "queries.json"
    images: str = "images"
    image_id: str = "id"
    file_name: str = "file_name"
    height: str = "height"
    width: str = "width"
    annotations: str = "annotations"
    annotation_id: str = "id"
    annotation_image: str = "image_id"
    category: str = "category_id"
    is_occluded: str = "is_occluded"
    amodal: str = "polygon"
    modal: str = "visible_mask"
    queries: str = "queries"
    query_image: str = "image_id"
    query_text: str = "query"
    query_type: str = "mask_type"
    query_answer: str = "answer"

    @classmethod
    def load(cls, path: Path) -> R2smFields:
        """Names from a JSON file.

        Raises:
            FaultyData: it is not there, or names something that is not a field here.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            message = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise FaultyData(Fault("missing_field", str(path), message)) from error


def parse_answer(answer: Any) -> list[tuple[int, str | None]]:
    """The instances that an answer names, with the class name if it gives one; none for "no object" or [].

    An answer is a list of ids, or text: ``instance id is 3, class name is cup; instance id is …``. A name goes up to
    the next instance, since names of classes are free text; `calls` tells whether it is one.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(answer, list):
        return [(_whole(each), None) for each in answer]
    found = [(int(number), name.strip() or None) for number, name in NAMED.findall(str(answer))]
    if not found and not NOTHING.fullmatch(str(answer)):
        raise ValueError(f"the answer {answer!r} names no instance and does not say that there is none")
    return found


def calls(said: str, name: str) -> bool:
    """Whether what an answer says of an instance's class begins with that class's name."""
    return re.match(rf"{re.escape(name)}(?!\w)", said, re.IGNORECASE) is not None


class R2sm:
    """One split of R2SM: annotations, queries and pictures in a folder, named as `R2smFields` says."""

    def __init__(self, root: Path, split: str | None = None, fields: Path | None = None) -> None:
        """`split` is a folder below `root`, such as ``cocoa-cls``; `fields` a file of names.

        Raises:
            FaultyData: a file or a field that all the rest depends on is missing.
        """
        folder = root / split if split else root
        own = folder / FIELDS_FILE
        path = fields or (own if own.is_file() else None)
        self.fields = names = R2smFields.load(path) if path else R2smFields()
        self._folders = picture_folders(folder) + picture_folders(root)
        content = read_json(folder / names.annotations_file)
        where = names.annotations_file
        self._images = {
            str(key(each, names.image_id, where)): each for each in rows(content, names.images, where)
        }
        classes = rows(content, "categories", where) if "categories" in content else []
        self._classes = {key(each, "id", where): text(each, "name", where) for each in classes}
        self._members: dict[str, list[Entry]] = {}
        for entry in rows(content, names.annotations, where):
            self._members.setdefault(str(key(entry, names.annotation_image, where)), []).append(entry)
        self._asked: dict[str, list[tuple[int, Entry]]] = {}
        where = names.queries_file
        listed = read_json(folder / where)
        for place, query in enumerate(
            as_rows(listed if isinstance(listed, list) else field(listed, names.queries, where), where)
        ):
            image = str(key(query, names.query_image, f"{where}[{place}]"))
            self._asked.setdefault(image, []).append((place, query))

    def pictures(self) -> Sequence[str]:
        """The ids of the pictures that are asked about, those that are not there too."""
        return list(self._asked)

    def annotated(self, picture: str) -> AnnotatedPicture:
        """One picture with its instances."""
        names = self.fields
        if picture not in self._images:
            fault = Fault("missing_image", picture, "the annotations know no such picture")
            raise FaultyData(fault)
        image = self._images[picture]
        name = text(image, names.file_name, picture)
        shape = size(image, names.height, names.width, picture)
        opened = read_picture(find_picture(name, self._folders), picture, shape)
        instances, faults = [], []
        for entry in self._members.get(picture, []):
            where = f"{picture}.instance {entry.get(names.annotation_id)}"
            try:
                instances.append(self._instance(entry, shape, where))
            except BadMask as error:
                faults.append(Fault("bad_mask", where, str(error)))
            except FaultyData as error:
                faults.append(error.fault)
        return AnnotatedPicture(picture, name, opened, tuple(instances), faults=tuple(faults))

    def read(self, picture: str) -> Reading:
        """The queries about one picture."""
        try:
            scene = self.annotated(picture)
        except FaultyData as error:
            return Reading(faults=(error.fault,))
        questions, faults = [], list(scene.faults)
        for place, query in self._asked[picture]:
            try:
                questions.append(self._question(scene, place, query))
            except FaultyData as error:
                faults.append(error.fault)
        return Reading(tuple(questions), tuple(faults))

    def _instance(self, entry: Entry, shape: tuple[int, int], where: str) -> Instance:
        names = self.fields
        amodal = to_mask(field(entry, names.amodal, where), shape)
        if entry.get(names.modal) is None and entry.get(names.is_occluded):
            raise FaultyData(
                Fault("missing_field", where, f"occluded, but the field {names.modal!r} is missing")
            )
        seen = entry.get(names.modal)
        modal = amodal if seen is None else to_mask(seen, shape, may_be_empty=True)
        category = key(entry, names.category, where)
        name = str(self._classes.get(category, category))
        try:
            return Instance(_whole(field(entry, names.annotation_id, where)), name, modal, amodal)
        except ValueError as error:
            raise FaultyData(Fault("wrong_field", where, str(error))) from error

    def _question(self, scene: AnnotatedPicture, place: int, query: Entry) -> Question:
        names, where = self.fields, f"{scene.name}.query {place}"
        prompt = words_of(field(query, names.query_text, where), where)
        mask_type = field(query, names.query_type, where)
        if mask_type not in ("modal", "amodal"):
            raise FaultyData(Fault("unknown_type", where, f"{mask_type!r} is neither modal nor amodal"))
        try:
            named = parse_answer(field(query, names.query_answer, where))
        except ValueError as error:
            raise FaultyData(Fault("bad_answer", where, str(error))) from error
        targets = [_target(scene, number, name, where) for number, name in named]
        if unseen := [each.id for each in targets if mask_type == "modal" and not each.modal.any()]:
            message = f"the query is modal, and nothing can be seen of instance {unseen[0]}"
            raise FaultyData(Fault("bad_answer", where, message))
        return make_question(where, scene, prompt, mask_type, targets, mask_type)


def _whole(value: Any) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if not is_whole(value):
        raise ValueError(f"{value!r} is no instance id")
    return int(value)


def _target(scene: AnnotatedPicture, number: int, name: str | None, where: str) -> Instance:
    target = next((each for each in scene.instances if each.id == number), None)
    if target is None:
        message = f"the answer names instance {number}, which is not there or has no mask"
        raise FaultyData(Fault("dangling_instance", where, message))
    if name is not None and not calls(name, target.name):
        message = f"the answer calls instance {number} {name!r}, it is {target.name!r}"
        raise FaultyData(Fault("wrong_class", where, message))
    return target
