"""ConverSeg (Sahoo and Gkioxari, 2026): conversational queries, each with one PNG mask."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines.evaluation.datasets.files import field, read_json, read_picture
from engines.evaluation.datasets.masks import BadMask, from_png
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
        items = _lines(root, split) if split else field(read_json(root / ITEMS), "items", ITEMS)
        self._items = {str(item.get("id") or place): item for place, item in enumerate(items)}
        if len(self._items) != len(items):
            raise FaultyData(Fault("unreadable_file", str(root), "two items have the same id"))

    def pictures(self) -> Sequence[str]:
        """The ids of the items; each has its own picture."""
        return list(self._items)

    def read(self, picture: str) -> Reading:
        """The query of one item."""
        item = self._items[picture]
        try:
            prompt = str(field(item, "prompt", picture)).strip()
            opened = read_picture(self._root / field(item, "image", picture), picture)
            file = item.get("mask_merged") or field(item, "mask", picture)
            mask = from_png(self._root / file, opened.shape)
        except BadMask as error:
            return Reading(faults=(Fault("bad_mask", picture, str(error)),))
        except FaultyData as error:
            return Reading(faults=(error.fault,))
        if not prompt:
            return Reading(faults=(Fault("empty_query", picture, "the query has no words"),))
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
                    picture=str(item["image"]),
                    entry=picture,
                ),
            )
        )


def _lines(root: Path, split: str) -> list[Any]:
    path = root / "data" / f"{split}.jsonl"
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise FaultyData(Fault("unreadable_file", str(path), "the file is not there")) from None
    except ValueError as error:
        raise FaultyData(Fault("unreadable_file", str(path), f"no JSON lines: {error}")) from error
