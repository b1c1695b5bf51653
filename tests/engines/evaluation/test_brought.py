"""Published rows from a user's file: they fill and extend the tables, and what does not fit is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.errors import InvalidInput
from engines.evaluation.brought import with_brought
from engines.evaluation.datasets import open_dataset
from engines.evaluation.page import write_page
from engines.evaluation.published import TABLES, Row, Table, tables_for
from engines.evaluation.report import summarise
from engines.evaluation.runner import Ran
from tests.engines.evaluation import layouts

R2SM = "R2SM: gIoU and cIoU (Table 2), AP and AR (Table 3)"
KNOWN = (
    Table(R2SM, ("r2sm",), "the paper"),
    Table("EGM", ("refcoco",), "its card", ("val", "testA"), (Row("EGM-4B", (93.5, 95.1)),)),
)
FILLS = f'[[table]]\ntitle = "{R2SM}"\nsource = "Table 2"\ncolumns = ["gIoU", "cIoU"]\n'
EXTENDS = '[[table]]\ntitle = "EGM"\nsource = "mine"\n'
ROW = '[[table.rows]]\nsystem = "LISA"\nfigures = [50, 48.5]\n'


def written(folder: Path, text: str, name: str = "rows.toml") -> Path:
    """A file of rows."""
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def test_rows_fill_and_extend_what_is_known_and_new_tables_are_added(tmp_path: Path) -> None:
    new = FILLS.replace(R2SM, "Ours") + 'layouts = ["r2sm", "demo"]\n' + ROW
    filled, extended, added = with_brought([written(tmp_path, FILLS + ROW + EXTENDS + ROW + new)], KNOWN)
    assert (filled.columns, filled.layouts) == (("gIoU", "cIoU"), ("r2sm",))
    assert filled.rows == (Row("LISA", (50.0, 48.5), "rows.toml"),)
    assert extended.rows == (Row("EGM-4B", (93.5, 95.1)), Row("LISA", (50.0, 48.5), "rows.toml"))
    assert (extended.source, [one.source for one in extended.brought]) == ("its card", ["mine"])
    assert [table.title for table in tables_for("demo", (filled, extended, added))] == ["Ours"]


def test_a_second_file_extends_what_the_first_one_filled(tmp_path: Path) -> None:
    first = written(tmp_path, FILLS + ROW)
    second = written(tmp_path, FILLS.replace('columns = ["gIoU", "cIoU"]\n', "") + ROW, "more.toml")
    table, _ = with_brought([first, second], KNOWN)
    assert [row.file for row in table.rows] == ["rows.toml", "more.toml"]
    assert with_brought([]) == TABLES


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[table", "Expected"),
        ("", "table: Field required"),
        (FILLS, "table 1 “R2SM.*: rows: Field required"),
        (FILLS + 'note = "x"\n' + ROW, "table 1 “R2SM.*: note: Extra inputs are not permitted"),
        (FILLS + ROW + 'year = "x"\n', "rows 1 “LISA”: year: Extra inputs"),
        (
            FILLS + ROW + ROW.replace("50", '"50"'),
            "table 1 “R2SM.*: rows 2 “LISA”: figures 1: .*valid number",
        ),
        (FILLS + ROW.replace("50", "true"), "figures 1: .*valid number"),
        (FILLS + ROW.replace("50", "nan"), "figures 1: .*finite number"),
        (FILLS + ROW.replace("50", "500"), "figures 1: .*less than or equal to 100"),
        (FILLS + ROW.replace("50, ", ""), "table “R2SM.*: row “LISA” has 1 figures for 2 columns"),
        (FILLS.replace("columns", "layouts") + ROW, "layouts 1: .*'demo', 'r2sm'"),
        (FILLS.replace('columns = ["gIoU", "cIoU"]\n', "") + ROW, "needs its columns"),
        (FILLS.replace(R2SM, "Ours") + ROW, "table “Ours” needs its layouts"),
        (EXTENDS + 'columns = ["val", "testB"]\n' + ROW, r"its columns must be \['val', 'testA'\]"),
    ],
)
def test_what_does_not_fit_is_named(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=rf"rows\.toml.*{told}"):
        with_brought([written(tmp_path, text)], KNOWN)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.toml"):
        with_brought([tmp_path / "none.toml"])


def test_the_page_marks_where_rows_are_from(tmp_path: Path) -> None:
    dataset = open_dataset("r2sm", layouts.r2sm(tmp_path / "data", layouts.query()))
    rows = ROW.replace("LISA", "<b>")
    tables = with_brought([written(tmp_path, FILLS + rows + EXTENDS + ROW)], KNOWN)
    for layout, told in (("r2sm", "&lt;b&gt; [rows.toml]"), ("refcoco", "LISA [rows.toml]")):
        path = tmp_path / f"{layout}.html"
        write_page(path, summarise([]), Ran(), dataset, title=layout, url="u", published=tables)
        page = path.read_text("utf-8")
        assert told in page
        assert "are from that file, which names:" in page
        assert ("Published, read in its card." in page) == (layout == "refcoco")
        assert "could not be checked" not in page
