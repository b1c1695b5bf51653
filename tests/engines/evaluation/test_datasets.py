"""Every data set in the layout that its authors publish, and what becomes of files that are not as they must be."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.evaluation.datasets import Layout, open_dataset, recognise
from engines.evaluation.datasets.check import as_text, take_stock
from engines.evaluation.datasets.cocoa import Cocoa
from engines.evaluation.datasets.r2sm import calls, parse_answer
from engines.evaluation.questions import FaultyData, Question
from tests.engines.evaluation import layouts
from tests.engines.evaluation.layouts import left, query

SHARED = Path(__file__).parents[4] / "shared" / "data"


def only(layout: Layout, root: Path, split: str | None = None) -> Question:
    """The only question of a data set without faults."""
    dataset = open_dataset(layout, root, split)
    [picture] = dataset.pictures()
    reading = dataset.read(picture)
    assert reading.faults == ()
    [question] = reading.questions
    assert question.shape == layouts.SHAPE
    return question


def faults(layout: Layout, root: Path, split: str | None = None) -> list[str]:
    """The kinds of faults of a data set, none of whose questions can be used."""
    stock = take_stock(open_dataset(layout, root, split))
    assert stock.queries == 0
    return [fault.kind for fault in stock.examples]


def test_coco_asks_for_each_category_and_ignores_crowds(tmp_path: Path) -> None:
    question = only("coco", layouts.coco(tmp_path))
    assert (question.prompt, question.mask_type, question.names) == ("Segment the cup.", "modal", ("cup",))
    assert np.array_equal(question.truths[0], left())
    assert question.ignored is not None
    assert {(int(y), int(x)) for y, x in np.argwhere(question.ignored)} == {(0, x) for x in range(4, 8)}


def test_cocoa_knows_visible_and_complete_shapes(tmp_path: Path) -> None:
    dataset = Cocoa(layouts.cocoa_published(tmp_path))
    assert dataset.pictures() == ["7"]
    asked = {(each.names[0], each.mask_type): each for each in dataset.read("7").questions}
    assert set(asked) == {("mug", "modal"), ("box", "modal"), ("box", "amodal")}
    box = asked["box", "amodal"]
    assert box.truths[0].all()
    assert np.array_equal(asked["box", "modal"].truths[0], left())
    assert box.hidden is not None
    assert np.array_equal(box.hidden, ~left())


def test_r2sm_names_instances(tmp_path: Path) -> None:
    amodal = only("r2sm", layouts.r2sm(tmp_path, query()))
    assert (amodal.prompt, amodal.mask_type, amodal.names) == ("the cup", "amodal", ("cup",))
    assert amodal.truths[0].all()
    modal = only("r2sm", layouts.r2sm(tmp_path, query(mask_type="modal", answer=[3])))
    assert np.array_equal(modal.truths[0], left())
    none = only("r2sm", layouts.r2sm(tmp_path, query(answer="no such object")))
    assert none.truths == ()


def test_r2sm_splits_are_folders_and_fields_have_other_names(tmp_path: Path) -> None:
    layouts.r2sm(tmp_path, query(), split="d2sa")
    folder = tmp_path / "d2sa"
    text = (folder / "queries.json").read_text().replace('"query"', '"question"')
    (folder / "queries.json").write_text(text)
    assert faults("r2sm", tmp_path, "d2sa") == ["missing_field"]
    layouts.write_json(folder / "fields.json", {"query_text": "question"})
    assert only("r2sm", tmp_path, "d2sa").prompt == "the cup"
    layouts.write_json(folder / "fields.json", {"query_txt": "question"})
    with pytest.raises(FaultyData, match="query_txt"):
        open_dataset("r2sm", tmp_path, "d2sa")


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("instance id is 3, class name is cup", [(3, "cup")]),
        ("Instance id is 3, class name is cup.", [(3, "cup")]),
        ("instance id is 3, class name is man, sitting; instance id is 4", [(3, "man, sitting"), (4, "")]),
        (
            "instance id is 3, class name is St. Bernard\ninstance id is 4, class name is cup",
            [(3, "St. Bernard"), (4, "cup")],
        ),
        (
            "instance id is 3, class name is cup, instance id is 4, class name is box",
            [(3, "cup"), (4, "box")],
        ),
        (
            "instance id is 3, class name is cup and instance id is 4, class name is box",
            [(3, "cup"), (4, "box")],
        ),
        ("instance id is 3, class name is cup. It is red.", [(3, "cup")]),
        ([3, "4"], [(3, ""), (4, "")]),
    ],
)
def test_an_answer_names_instances_and_their_classes(answer: Any, named: list[tuple[int, str]]) -> None:
    found = parse_answer(answer)
    assert [number for number, _ in found] == [number for number, _ in named]
    for (_, said), (_, name) in zip(found, named, strict=True):
        assert calls(said or "", name) if name else said is None
        assert not calls(said or "", "cu")


@pytest.mark.parametrize(
    ("asked", "instance", "kind", "message"),
    [
        (query(text="  "), {}, "empty_query", "no words"),
        (query(mask_type="whole"), {}, "unknown_type", "'whole'"),
        (query(answer="instance id is 4"), {}, "dangling_instance", "instance 4"),
        (query(answer="instance id is 3, class name is mug"), {}, "wrong_class", "'mug'"),
        (query(answer="the one at the left"), {}, "bad_answer", "names no instance"),
        ({"image_id": 1, "query": "x", "mask_type": "modal"}, {}, "missing_field", "'answer'"),
        ({**query(), "image_id": 2}, {}, "missing_image", "no such picture"),
        (query(), {"visible_mask": None}, "missing_field", "'visible_mask'"),
        (query(), {"polygon": [[0, 0, 1]]}, "bad_mask", "three points"),
        (query(), {"visible_mask": {"size": [8, 6], "counts": "0"}}, "bad_mask", "[8, 6]"),
        (query(), {"visible_mask": {"size": [6, 8], "counts": [1, 2]}}, "bad_mask", "do not add up"),
        (query(), {"visible_mask": {"size": [6, 8], "counts": "@@@"}}, "bad_mask", "negative run"),
        (query(), {"visible_mask": {"size": [6, 8], "counts": "11"}}, "bad_mask", "do not add up"),
        (query(), {"visible_mask": {"size": [6, 8], "counts": "P"}}, "bad_mask", "breaks off"),
    ],
)
def test_what_r2sm_may_have_wrong_is_named(
    asked: dict[str, Any], instance: dict[str, Any], kind: str, message: str, tmp_path: Path
) -> None:
    stock = take_stock(open_dataset("r2sm", layouts.r2sm(tmp_path, asked, **instance)))
    assert stock.queries == 0
    assert stock.examples[0].kind == kind
    assert message in str(stock.examples[0])
    assert kind in as_text(stock)


def test_refcoco_asks_every_sentence(tmp_path: Path) -> None:
    dataset = open_dataset("refcoco", layouts.refcoco(tmp_path))
    reading = dataset.read("1")
    assert [question.prompt for question in reading.questions] == ["left cup", "cup at the left"]
    first = reading.questions[0]
    assert np.array_equal(first.truths[0], left())
    assert (first.box, first.names, first.mask_type) == ((0.0, 0.0, 4.0, 6.0), ("cup",), "modal")


def test_refcoco_splits_may_name_who_made_them(tmp_path: Path) -> None:
    folder = layouts.refcoco(tmp_path, split="testA")
    assert open_dataset("refcoco", folder, "unc:testA").pictures() == ["1"]
    with pytest.raises(FaultyData, match="'val'"):
        open_dataset("refcoco", folder)
    with pytest.raises(FaultyData, match=r"refs\(umd\)\.p"):
        open_dataset("refcoco", folder, "umd:testA")


def test_a_reference_to_nothing_is_named(tmp_path: Path) -> None:
    assert faults("refcoco", layouts.refcoco(tmp_path, ann_id=77)) == ["dangling_instance"]


class Harmful:
    """Would run a command when it is read from a pickle."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return print, ("read",)


@pytest.mark.parametrize(
    "content", [pickle.dumps([Harmful()]), pickle.dumps([np.zeros(2)]), b"", b"no pickle"]
)
def test_a_pickle_that_holds_more_than_plain_values_is_refused(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = layouts.refcoco(tmp_path)
    (folder / "refs(unc).p").write_bytes(content)
    with pytest.raises(FaultyData, match="no plain pickle"):
        open_dataset("refcoco", folder)
    assert capsys.readouterr().out == ""


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    folder = layouts.refcoco(tmp_path)
    content = pickle.loads((folder / "refs(unc).p").read_bytes())
    old = io.BytesIO()
    pickle._Pickler(old, protocol=0).dump(content)
    (folder / "refs(unc).p").write_bytes(old.getvalue())
    assert open_dataset("refcoco", folder).pictures() == ["1"]


def test_refcoco_tables_of_both_kinds(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    arrow = pytest.importorskip("pyarrow")
    row: dict[str, Any] = {
        "question_id": "9",
        "image": {"bytes": layouts.png(), "path": "1.png"},
        "question": "Caption it.",
    }
    row |= {
        "answer": ["left cup"],
        "segmentation": [float(n) for n in layouts.LEFT],
        "bbox": [0.0, 0.0, 4.0, 6.0],
    }
    (tmp_path / "data").mkdir()
    parquet.write_table(arrow.Table.from_pylist([row]), tmp_path / "data/val-00000-of-00001.parquet")
    layouts.image(tmp_path, "train2014/1.png")
    other = {
        "ref_id": 4,
        "image_path": "coco/train2014/1.png",
        "sentences": [{"sent": "a cup", "sent_id": 1}],
    }
    other |= {"raw_anns": json.dumps({"segmentation": [layouts.LEFT], "bbox": [0, 0, 4, 6]})}
    parquet.write_table(arrow.Table.from_pylist([other]), tmp_path / "data/testA-00000-of-00001.parquet")
    pictures = set[str]()
    for split, prompt, row_id in (("val", "left cup", "9"), ("testA", "a cup", "4")):
        question = only("refcoco-table", tmp_path, split)
        assert question.entry == row_id
        pictures.add(question.picture)
        assert (question.prompt, question.box) == (prompt, (0.0, 0.0, 4.0, 6.0))
        assert np.array_equal(question.truths[0], left())
    assert len(pictures) == 1, "the same bytes are the same picture, whichever row brings them"


def test_reasonseg_paints_as_its_authors_do(tmp_path: Path) -> None:
    question = only("reasonseg", layouts.reasonseg(tmp_path))
    assert (question.prompt, question.form) == ("what holds the tea", "sentence")
    assert question.ignored is not None
    assert question.ignored[:, :2].all()
    assert np.count_nonzero(question.ignored) == 12
    assert np.array_equal(question.truths[0], left() & ~question.ignored)


def test_reasonseg_in_code_page_1252_and_without_words(tmp_path: Path) -> None:
    root = layouts.reasonseg(tmp_path, text=["the café"])
    path = root / "val/1.json"
    path.write_bytes(json.dumps(json.loads(path.read_text()), ensure_ascii=False).encode("cp1252"))
    assert only("reasonseg", root).prompt == "the café"
    assert faults("reasonseg", layouts.reasonseg(tmp_path, text=[])) == ["empty_query"]
    assert faults("reasonseg", layouts.reasonseg(tmp_path, shapes=[{"label": "target", "points": [1]}])) == [
        "bad_mask"
    ]


def test_converseg_reads_png_masks(tmp_path: Path) -> None:
    question = only("converseg", layouts.converseg(tmp_path))
    assert question.prompt == "the left-most one"
    assert np.array_equal(question.truths[0], left())


def test_converseg_lines_are_splits(tmp_path: Path) -> None:
    layouts.converseg(tmp_path)
    (tmp_path / "data").mkdir()
    line = {"image": "images/1.png", "mask_merged": "masks/1.png", "prompt": "that one"}
    (tmp_path / "data/human_annotated.jsonl").write_text(json.dumps(line) + "\n")
    assert only("converseg", tmp_path, "human_annotated").prompt == "that one"


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        ({"image": "images/2.png"}, "missing_image"),
        ({"image": "items.json"}, "unreadable_image"),
        ({"mask": "masks/2.png"}, "bad_mask"),
        ({"mask": "items.json"}, "bad_mask"),
        ({"prompt": " "}, "empty_query"),
        ({"mask": None}, "missing_field"),
    ],
)
def test_what_converseg_may_have_wrong_is_named(item: dict[str, Any], kind: str, tmp_path: Path) -> None:
    assert faults("converseg", layouts.converseg(tmp_path, **item)) == [kind]


def test_a_png_mask_of_another_size_is_named(tmp_path: Path) -> None:
    root = layouts.converseg(tmp_path)
    layouts.image(root, "masks/1.png", (3, 3))
    assert faults("converseg", root) == ["bad_mask"]


def test_a_picture_of_another_size_is_named(tmp_path: Path) -> None:
    root = layouts.coco(tmp_path)
    layouts.image(root, "val2017/1.png", (7, 8))
    assert faults("coco", root) == ["wrong_size"]


@pytest.mark.parametrize("layout", ["coco", "cocoa", "r2sm", "refcoco", "reasonseg", "converseg"])
def test_an_empty_folder_is_no_data_set(layout: Layout, tmp_path: Path) -> None:
    assert recognise(tmp_path) is None
    with pytest.raises(FaultyData):
        open_dataset(layout, tmp_path)


def test_layouts_are_recognised(tmp_path: Path) -> None:
    makers: dict[Layout, Callable[[Path], Path]] = {
        "coco": layouts.coco,
        "cocoa": layouts.cocoa_published,
        "r2sm": layouts.r2sm,
        "refcoco": layouts.refcoco,
        "reasonseg": layouts.reasonseg,
        "converseg": layouts.converseg,
    }
    for name, make in makers.items():
        assert recognise(make(tmp_path / name)) == name


def test_five_photos_of_cocoa() -> None:
    if not (SHARED / "cocoa").is_dir():
        pytest.skip("the five COCOA photos are not beside the repository")
    dataset = Cocoa(SHARED / "cocoa")
    stock = take_stock(dataset)
    assert (stock.pictures, stock.instances, stock.occluded) == (5, 48, 21)
    assert stock.faults == {}
    for picture in dataset.pictures():
        content = json.loads((SHARED / f"cocoa/{picture}.json").read_text())
        rates = {region["order"]: region["occlude_rate"] for region in content["regions"]}
        for instance in dataset.annotated(picture).instances:
            assert instance.hidden == pytest.approx(rates[instance.id], abs=0.02)


def test_fifty_photos_of_coco() -> None:
    if not (SHARED / "tiny_coco_val").is_dir():
        pytest.skip("the 50 COCO photos are not beside the repository")
    stock = take_stock(open_dataset("coco", SHARED / "tiny_coco_val"))
    assert (stock.pictures, stock.instances, stock.faults) == (50, 377, {})
    assert recognise(SHARED / "tiny_coco_val") == "coco"
    assert recognise(SHARED / "cocoa") == "cocoa"
