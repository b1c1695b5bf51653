"""RefCOCO, RefCOCO+ and RefCOCOg: as their authors publish them, and as tables on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines.errors import BackendUnavailable
from engines.evaluation.datasets.fields import Entry, as_rows, field, key, query, rows, size
from engines.evaluation.datasets.fields import text as text_of
from engines.evaluation.datasets.files import (
    Picture,
    find_picture,
    parse_picture,
    picture_folders,
    read_json,
    read_picture,
)
from engines.evaluation.datasets.masks import BadMask, to_mask
from engines.evaluation.datasets.pickles import load_plain
from engines.evaluation.metrics import Box, Mask
from engines.evaluation.questions import Fault, FaultyData, Question, Reading

PARTITIONS = ("unc", "umd", "google")
SPLIT = "val"
SIDE = 1_000_000  # pixels, more than any picture has


class RefCoco:
    """``refs(unc).p`` beside ``instances.json`` (Kazemzadeh et al., 2014; Yu et al., 2016).

    Each sentence is one modal query for one instance. A split is ``val``, ``testA``, ``umd:test`` and so on.
    """

    def __init__(self, root: Path, split: str | None = None) -> None:
        """Raises FaultyData: the files are not there, not plain, or the split holds nothing."""
        partition, _, chosen = (split or SPLIT).rpartition(":")
        order = [partition] if partition else PARTITIONS
        paths = [path for name in order if (path := root / f"refs({name}).p").is_file()]
        if not paths:
            raise FaultyData(Fault("unreadable_file", str(root), f"no refs({'|'.join(order)}).p here"))
        self._folders = picture_folders(root) + picture_folders(root.parent)
        content = read_json(root / "instances.json")
        self._images = _by_id(content, "images")
        self._entries = _by_id(content, "annotations")
        self._names = _by_id(content, "categories") if "categories" in content else {}
        self._refs: dict[str, list[Entry]] = {}
        for ref in as_rows(load_plain(paths[0]), paths[0].name):
            if field(ref, "split", paths[0].name) == chosen:
                self._refs.setdefault(str(key(ref, "image_id", paths[0].name)), []).append(ref)
        if not self._refs:
            raise FaultyData(Fault("missing_field", paths[0].name, f"no references of the split {chosen!r}"))

    def pictures(self) -> Sequence[str]:
        """The ids of the split's pictures."""
        return list(self._refs)

    def read(self, picture: str) -> Reading:
        """The sentences about one picture."""
        image = self._images.get(picture)
        if image is None:
            return Reading(faults=(Fault("missing_image", picture, "instances.json knows no such picture"),))
        try:
            path = find_picture(text_of(image, "file_name", picture), self._folders)
            opened = read_picture(path, picture, size(image, "height", "width", picture))
        except FaultyData as error:
            return Reading(faults=(error.fault,))
        return _collect([self._reference(ref, opened, picture) for ref in self._refs[picture]])

    def _reference(self, ref: Entry, opened: Picture, picture: str) -> Reading:
        where = f"{picture}.ref {ref.get('ref_id')}"
        try:
            number = str(key(ref, "ann_id", where))
            if number not in self._entries:
                message = f"there is no annotation {number}"
                raise FaultyData(Fault("dangling_instance", where, message))
            entry = self._entries[number]
            category = self._names.get(str(entry.get("category_id")))
            name = text_of(category, "name", where) if category else ""
            sentences = [field(each, "sent", where) for each in rows(ref, "sentences", where)]
        except FaultyData as error:
            return Reading(faults=(error.fault,))
        return _reading(where, sentences, entry, opened, picture, name)


class RefCocoTable:
    """RefCOCO as a Parquet table: a picture in every row (lmms-lab), or its path (jxu124).

    lmms-lab: ``question_id, image, answer`` (the sentences), ``segmentation`` (one polygon), ``bbox``.
    jxu124: ``ref_id, image_path, sentences, raw_anns`` (COCO's annotation as JSON).
    """

    def __init__(self, root: Path, split: str | None = None) -> None:
        """`split` is the beginning of the file names, such as ``testA``.

        Raises:
            BackendUnavailable: pyarrow is missing.
            FaultyData: there is no table of the split.
        """
        self._folders = picture_folders(root) + picture_folders(root.parent)
        self._rows: dict[str, dict[str, Any]] = {}
        chosen = split or SPLIT
        paths = sorted([*root.glob(f"{chosen}-*.parquet"), *root.glob(f"data/{chosen}-*.parquet")])
        if not paths:
            raise FaultyData(Fault("unreadable_file", str(root), f"no {chosen}-*.parquet here"))
        for path in paths:
            for place, row in enumerate(_table(path)):
                name = row.get("question_id") or row.get("ref_id")
                taken = name is None or str(name) in self._rows
                self._rows[f"{path.stem}.{place}" if taken else str(name)] = row

    def pictures(self) -> Sequence[str]:
        """The ids of the rows; each has its own picture."""
        return list(self._rows)

    def read(self, picture: str) -> Reading:
        """The sentences of one row."""
        row = self._rows[picture]
        try:
            if "raw_anns" in row:
                entry = _parsed(text_of(row, "raw_anns", picture), picture)
                sentences = [field(each, "sent", picture) for each in rows(row, "sentences", picture)]
                file = find_picture(text_of(row, "image_path", picture), self._folders)
                opened = read_picture(file, picture)
            else:
                entry = {"segmentation": field(row, "segmentation", picture), "bbox": row.get("bbox")}
                sentences = field(row, "answer", picture)
                opened = parse_picture(field(field(row, "image", picture), "bytes", picture), picture)
        except FaultyData as error:
            return Reading(faults=(error.fault,))
        shown = hashlib.sha256(opened.data).hexdigest()[:32]  # many rows are about one picture
        return _reading(picture, sentences, entry, opened, shown, "", picture)


def _by_id(content: Any, name: str) -> dict[str, Entry]:
    where = "instances.json"
    return {str(key(each, "id", where)): each for each in rows(content, name, where)}


def _parsed(code: str, where: str) -> Any:
    try:
        return json.loads(code)
    except ValueError as error:
        raise FaultyData(Fault("wrong_field", where, f"the annotation is no JSON: {error}")) from error


def _table(path: Path) -> list[dict[str, Any]]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise BackendUnavailable(f"{path.name} needs pyarrow: pip install '.[tables]'") from error
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return rows


def _reading(
    where: str,
    sentences: Sequence[Any],
    entry: Any,
    opened: Picture,
    picture: str,
    name: str,
    entry_name: str = "",
) -> Reading:
    try:
        mask = to_mask(field(entry, "segmentation", where), opened.shape)
        box = _box(entry["bbox"], where) if entry.get("bbox") else None
    except BadMask as error:
        return Reading(faults=(Fault("bad_mask", where, str(error)),))
    except FaultyData as error:
        return Reading(faults=(error.fault,))
    questions, faults = [], []
    for place, sentence in enumerate(sentences):
        label = f"{where}.{place}"
        try:
            words = query(sentence, label)
        except FaultyData as error:
            faults.append(error.fault)
        else:
            questions.append(_question(label, words, mask, box, opened, picture, name, entry_name))
    return Reading(tuple(questions), tuple(faults))


def _box(value: Any, where: str) -> Box:
    """A box as COCO has it: x, y, width, height."""
    sides = value if isinstance(value, list) else []
    if len(sides) != 4 or not all(isinstance(each, int | float) and -SIDE < each < SIDE for each in sides):
        raise FaultyData(Fault("wrong_field", where, f"{value!r} is no box"))
    return float(sides[0]), float(sides[1]), float(sides[2]), float(sides[3])


def _question(
    label: str,
    sentence: str,
    mask: Mask,
    box: Box | None,
    opened: Picture,
    picture: str,
    name: str,
    entry_name: str,
) -> Question:
    return Question(
        label=label,
        image=opened.data,
        shape=opened.shape,
        prompt=sentence,
        mask_type="modal",
        truths=(mask,),
        names=(name,) if name else (),
        form="reference",
        picture=picture,
        entry=entry_name,
        box=box,
    )


def _collect(readings: list[Reading]) -> Reading:
    return Reading(
        tuple(question for reading in readings for question in reading.questions),
        tuple(fault for reading in readings for fault in reading.faults),
    )
