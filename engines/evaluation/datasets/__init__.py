"""Data sets as their authors publish them, each a stream of pictures with questions and their true masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from engines.evaluation.datasets.annotated import Annotated
from engines.evaluation.datasets.coco import Coco
from engines.evaluation.datasets.cocoa import Cocoa
from engines.evaluation.datasets.converseg import ConverSeg
from engines.evaluation.datasets.r2sm import R2sm
from engines.evaluation.datasets.reasonseg import ReasonSeg
from engines.evaluation.datasets.refcoco import RefCoco, RefCocoTable
from engines.evaluation.questions import DataSet, Fault, FaultyData

Layout = Literal["r2sm", "cocoa", "coco", "refcoco", "refcoco-table", "reasonseg", "converseg"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

READERS: dict[Layout, Callable[[Path, str | None], DataSet]] = {
    "r2sm": R2sm,
    "cocoa": Cocoa,
    "coco": Coco,
    "refcoco": RefCoco,
    "refcoco-table": RefCocoTable,
    "reasonseg": ReasonSeg,
    "converseg": ConverSeg,
}


def open_dataset(layout: Layout, root: Path, split: str | None = None, fields: Path | None = None) -> DataSet:
    """A data set in `root`. `fields` renames R2SM's files and fields.

    Raises:
        FaultyData: what all the rest depends on is missing.
        BackendUnavailable: a library for the layout is missing.
    """
    if layout == "r2sm":
        return R2sm(root, split, fields)
    return READERS[layout](root, split)


def open_annotated(
    layout: Layout, root: Path, split: str | None = None, fields: Path | None = None
) -> Annotated:
    """A data set whose instances are known one by one.

    Raises:
        FaultyData: the layout has none, or what all the rest depends on is missing.
    """
    if layout == "r2sm":
        return R2sm(root, split, fields)
    if layout == "cocoa":
        return Cocoa(root, split)
    if layout == "coco":
        return Coco(root, split)
    raise FaultyData(Fault("unreadable_file", str(root), f"{layout} does not tell instances apart"))


def recognise(root: Path) -> Layout | None:
    """The layout that a folder's file names show; None if they show none."""
    found: dict[Layout, list[Path]] = {  # RefCOCO holds COCO's instances too, so the order matters
        "converseg": [root / "items.json"],
        "refcoco": list(root.glob("refs(*).p")),
        "refcoco-table": [*root.glob("*.parquet"), *root.glob("data/*.parquet")],
        "r2sm": [root / "queries.json", root / "fields.json"],
        "coco": [*root.glob("instances*.json"), *root.glob("annotations/instances*.json")],
        "cocoa": [*root.glob("COCO_amodal*.json"), *root.glob("annotations/COCO_amodal*.json")],
    }
    for layout, paths in found.items():
        if any(path.is_file() for path in paths):
            return layout
    for path in [*root.glob("*.json"), *root.glob("val/*.json")][:1]:
        start = path.read_bytes()[:200_000]
        return "cocoa" if b'"regions"' in start else "reasonseg" if b'"shapes"' in start else None
    return None
