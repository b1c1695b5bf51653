"""ConverSeg (Sahoo and Gkioxari, 2026): conversational queries, each with one PNG mask."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from engines.evaluation.datasets.fields import Entry, as_rows, field, key, query, rows, text
from engines.evaluation.datasets.files import find_picture, read_json, read_picture
from engines.evaluation.datasets.masks import BadMask, from_png
from engines.evaluation.metrics import Mask
from engines.evaluation.questions import Fault, FaultyData, Question, Reading

ITEMS = "items.json"


class ConverSeg:
    """``items.json``: ``items`` with ``id, image, mask, prompt``; or JSON lines with the same fields.

    Each item is one modal query with one mask for all it means.
    """

    def __init__(self, root: Path, split: str | None = None) -> None:
        """`split` names a file of lines in ``data/``, such as ``human_annotated``.

        Raises:
            FaultyData: the file is not there, or is not such a list.
        """
        self._root = root
        items = _lines(root, split) if split else rows(read_json(root / ITEMS), "items", ITEMS)
        self._items = {
            str(key(item, "id", f"{ITEMS}[{place}]") if "id" in item else place): item
            for place, item in enumerate(items)
        }
        if len(self._items) != len(items):
            raise FaultyData(Fault("unreadable_file", str(root), "two items have the same id"))

    def pictures(self) -> Sequence[str]:
        """The ids of the items; each has its own picture."""
        return list(self._items)

    def read(self, picture: str) -> Reading:
        """The query of one item."""
        item = self._items[picture]
        try:
            prompt = query(field(item, "prompt", picture), picture)
            image = text(item, "image", picture)
            opened = read_picture(find_picture(image, [self._root]), picture)
            file = text(item, "mask_merged" if item.get("mask_merged") else "mask", picture)
            mask = self._mask(file, opened.shape)
        except BadMask as error:
            return Reading(faults=(Fault("bad_mask", picture, str(error)),))
        except FaultyData as error:
            return Reading(faults=(error.fault,))
        truths = (mask,) if mask.any() else ()
        return Reading(
            (
                Question(
                    label=picture,
                    image=opened.data,
                    shape=opened.shape,
                    prompt=prompt,
                    mask_type="modal",
                    truths=truths,
                    names=(),
                    form="conversation",
                    picture=image,
                    entry=picture,
                ),
            )
        )

    def _mask(self, name: str, shape: tuple[int, int]) -> Mask:
        path = find_picture(name, [self._root])
        if path is None:
            raise BadMask(f"the mask {Path(name).name} is not there")
        return from_png(path, shape)


def _lines(root: Path, split: str) -> list[Entry]:
    path = root / "data" / f"{split}.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
        return as_rows(lines, path.name)
    except FileNotFoundError:
        raise FaultyData(Fault("unreadable_file", str(path), "the file is not there")) from None
    except ValueError as error:
        raise FaultyData(Fault("unreadable_file", str(path), f"no JSON lines: {error}")) from error
