"""Figures that others published, to stand beside one's own. Only what was read, and where it was, is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

REFCOCO_COLUMNS = (
    "RefCOCO val",
    "testA",
    "testB",
    "RefCOCO+ val",
    "testA",
    "testB",
    "RefCOCOg val",
    "test",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One system's figures, in percent, in the order of its table's columns; `file` is the one that brought them."""

    system: str
    figures: tuple[float, ...]
    file: str = ""


@dataclass(frozen=True, slots=True)
class Brought:
    """A file that brought rows, and where it says they were read."""

    file: str
    source: str


@dataclass(frozen=True, slots=True)
class Table:
    """Published rows for the layouts named, with where they were read; no rows: they could not be read.

    `source` is that of the rows known here, `brought` that of others.
    """

    title: str
    layouts: tuple[str, ...]
    source: str
    columns: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    brought: tuple[Brought, ...] = ()


TABLES = (
    Table(
        "Grounding on RefCOCO: box IoU of 0.5 or more",
        ("refcoco", "refcoco-table"),
        "the model cards of nvidia/EGM-4B and nvidia/EGM-8B, which call the figure IoU",
        REFCOCO_COLUMNS,
        (
            Row("Qwen3-VL-4B-Thinking", (90.0, 92.7, 85.6, 85.2, 89.5, 79.3, 87.0, 87.7)),
            Row("EGM-Qwen3-VL-4B", (93.5, 95.1, 90.0, 89.7, 93.1, 84.9, 90.4, 90.8)),
            Row("Qwen3-VL-8B-Thinking", (91.0, 92.5, 86.6, 86.2, 91.2, 80.5, 87.8, 88.6)),
            Row("EGM-Qwen3-VL-8B", (93.9, 95.6, 91.2, 90.5, 93.5, 86.3, 90.8, 91.4)),
        ),
    ),
    Table("R2SM: gIoU and cIoU (Table 2), AP and AR (Table 3)", ("r2sm",), "Shih et al., R2SM, 2025"),
    Table(
        "Referring segmentation on RefCOCO: cIoU",
        ("refcoco", "refcoco-table"),
        "Table 3 of the ReChannel paper (2026), which quotes each system's own",
        REFCOCO_COLUMNS,
        (
            Row("LISA-7B", (74.9, 79.1, 72.3, 65.1, 70.8, 58.1, 67.9, 70.6)),
            Row("GLaMM-7B", (79.5, 83.2, 76.9, 72.6, 78.7, 64.6, 74.2, 74.9)),
            Row("PSALM-1.3B", (83.6, 84.7, 81.6, 72.9, 75.5, 70.1, 73.8, 74.4)),
            Row("CoPRS-7B", (81.6, 85.3, 79.5, 75.9, 80.3, 69.7, 76.2, 76.2)),
        ),
    ),
    Table(
        "Reasoning segmentation on ReasonSeg, zero-shot",
        ("reasonseg",),
        "Lu et al., CoPRS, 2026, as two public sets of reading notes quote its main table",
        ("val gIoU", "val cIoU", "test gIoU", "test cIoU"),
        (
            Row("Seg-Zero-7B", (62.6, 62.0, 57.5, 52.0)),
            Row("CoPRS-3B", (61.3, 60.6, 57.8, 52.7)),
            Row("CoPRS-7B", (65.2, 64.5, 59.8, 55.1)),
        ),
    ),
)


def tables_for(layout: str, tables: Sequence[Table] = TABLES) -> tuple[Table, ...]:
    """The published tables that a data set's figures can stand beside."""
    return tuple(table for table in tables if layout in table.layouts)
