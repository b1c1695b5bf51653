"""Files with odd values in every place: what comes of them can be scored, or is a fault that says where."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.evaluation.datasets import Layout, open_dataset
from engines.evaluation.datasets.annotated import questions_by_name
from engines.evaluation.datasets.r2sm import R2sm
from engines.evaluation.outcomes import failure
from engines.evaluation.queries import clean
from engines.evaluation.questions import Fault, FaultyData, Question
from tests.engines.evaluation import layouts

ODD: tuple[Any, ...] = (None, " ", "x", -1, 0, 2.5, 10**30, float("nan"), True, [], ["x"], [7], {"a": 1})
ALIKE = 2
"""Members of a list that are tried; the others are like them."""
Places = tuple[str | int, ...]
FILES: dict[Layout, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "coco": (layouts.coco, ("annotations/instances_val2017.json",)),
    "cocoa": (layouts.cocoa_published, ("annotations/COCO_amodal_val2014.json",)),
    "r2sm": (lambda root: layouts.r2sm(root, layouts.query()), ("annotations.json", "queries.json")),
    "refcoco": (layouts.refcoco, ("instances.json", "refs(unc).p")),
    "reasonseg": (layouts.reasonseg, ("val/1.json",)),
    "converseg": (layouts.converseg, ("items.json",)),
}


def places(content: Any, at: Places = ()) -> Iterator[Places]:
    """Every place in a file, the whole of it first."""
    yield at
    inside: Any = content.items() if isinstance(content, dict) else ()
    if isinstance(content, list):
        inside = enumerate(content[:ALIKE])
    for name, value in inside:
        yield from places(value, (*at, name))


def changed(content: Any, at: Places, value: Any) -> Any:
    """The content with another value in a place."""
    if not at:
        return value
    copied = copy.deepcopy(content)
    holder = copied
    for name in at[:-1]:
        holder = holder[name]
    holder[at[-1]] = value
    return copied


def check(question: Question) -> None:
    """A question can be asked and scored."""
    assert question.prompt == question.prompt.strip() != ""
    assert question.mask_type in ("modal", "amodal")
    for truth in question.truths:
        assert truth.shape == question.shape
        assert truth.dtype == np.bool_
        assert truth.any()
    assert all(name.strip() for name in question.names)
    failure(question, "no answer")


def read_all(layout: Layout, root: Path) -> list[Fault]:
    """Read every picture as an evaluation does; what cannot be used."""
    try:
        dataset = open_dataset(layout, root)
    except FaultyData as error:
        return [error.fault]
    readings = [dataset.read(picture) for picture in dataset.pictures()]
    for question in (question for reading in readings for question in reading.questions):
        check(question)
    return [fault for reading in readings for fault in reading.faults]


@pytest.mark.parametrize(
    ("layout", "file"), [(layout, file) for layout, (_, files) in FILES.items() for file in files]
)
def test_an_odd_value_is_a_fault_or_does_no_harm(layout: Layout, file: str, tmp_path: Path) -> None:
    root = FILES[layout][0](tmp_path)
    path = root / file
    read, write = (pickle.loads, pickle.dumps) if path.suffix == ".p" else (json.loads, _as_json)
    content = read(path.read_bytes())
    broken = []
    for at in places(content):
        for value in ODD:
            path.write_bytes(write(changed(content, at, value)))
            try:
                assert all(fault.where and fault.message for fault in read_all(layout, root))
            except Exception as error:  # all of them are told at once
                broken.append(f"{at} = {value!r}: {type(error).__name__}: {error}")
    assert broken == []


def _as_json(content: Any) -> bytes:
    return json.dumps(content).encode()


def test_a_name_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    layouts.image(tmp_path, "private/2.png")
    inside = tmp_path / "set"
    for name in ("../private/2.png", str(tmp_path / "private/2.png")):
        [fault] = read_all("converseg", layouts.converseg(inside, image=name))
        assert fault.kind == "missing_image"


def test_a_mask_is_taken_from_the_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.image(tmp_path, "private/2.png")
    inside = tmp_path / "set"
    monkeypatch.chdir(tmp_path)
    for name in ("private/2.png", "../private/2.png", str(tmp_path / "private/2.png")):
        [fault] = read_all("converseg", layouts.converseg(inside, mask=name))
        assert (fault.kind, fault.message) == ("bad_mask", "the mask 2.png is not there")


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        ({"polygon": [[0, 0, 0, 0, 0, 0]]}, "no pixel"),
        ({"polygon": [[0, 0, 100, 0, 100, 80]]}, "far outside the picture"),
        ({"polygon": [[0, 0, True, 0, 4, 4]]}, "not a number"),
        ({"visible_mask": {"size": [6, 8], "counts": "o" * 40}}, "without end"),
        ({"visible_mask": {"size": [6, 8], "counts": r":\0^0foooooOloooooO"}}, "without end"),
    ],
)
def test_masks_that_are_none_of_the_picture_are_named(
    instance: dict[str, Any], message: str, tmp_path: Path
) -> None:
    first, *_ = read_all("r2sm", layouts.r2sm(tmp_path, layouts.query(), **instance))
    assert first.kind == "bad_mask"
    assert message in first.message


@pytest.mark.parametrize("answer", [[2.5], [True], ["three"], [None], [[3]], 3])
def test_what_is_no_instance_id_is_not_taken_for_one(answer: Any, tmp_path: Path) -> None:
    [fault] = read_all("r2sm", layouts.r2sm(tmp_path, layouts.query(answer=answer)))
    assert fault.kind == "bad_answer"


def test_what_cannot_be_seen_is_not_asked_for_as_seen(tmp_path: Path) -> None:
    """A visible part may be empty; a modal query about it has no truth to be held against."""
    hidden: dict[str, Any] = {"visible_mask": {"size": list(layouts.SHAPE), "counts": [48]}}
    root = layouts.r2sm(tmp_path, layouts.query(mask_type="modal"), **hidden)
    [fault] = read_all("r2sm", root)
    assert (fault.kind, "nothing can be seen of instance 3" in fault.message) == ("bad_answer", True)
    assert read_all("r2sm", layouts.r2sm(tmp_path, layouts.query(), **hidden)) == []
    scene = R2sm(root).annotated("1")
    assert [each.mask_type for each in questions_by_name(scene, amodal=True)] == ["amodal"]
    entry = {"query": "the cup", "answer": "instance id is 3"}
    [dropped] = clean(json.dumps({"modal": [entry], "amodal": []}), scene).dropped
    assert "nothing can be seen" in dropped


@pytest.mark.parametrize("layout", ["cocoa", "reasonseg"])
def test_sizes_are_checked_where_the_annotations_have_them(layout: Layout, tmp_path: Path) -> None:
    if layout == "cocoa":
        layouts.image(layouts.cocoa_published(tmp_path), "val2014/a.png", (7, 8))
    else:
        layouts.reasonseg(tmp_path, imageHeight=7, imageWidth=8)
    [fault] = read_all(layout, tmp_path)
    assert fault.kind == "wrong_size"


def test_rows_of_a_table_that_share_an_id_are_all_read(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    arrow = pytest.importorskip("pyarrow")
    row = {"question_id": "9", "image": {"bytes": layouts.png()}, "segmentation": layouts.LEFT}
    asked = [{**row, "answer": ["left cup"]}, {**row, "answer": ["the other", " "]}]
    parquet.write_table(arrow.Table.from_pylist(asked), tmp_path / "val-0.parquet")
    dataset = open_dataset("refcoco-table", tmp_path)
    readings = [dataset.read(picture) for picture in dataset.pictures()]
    assert [each.prompt for reading in readings for each in reading.questions] == ["left cup", "the other"]
    assert [fault.kind for reading in readings for fault in reading.faults] == ["empty_query"]
