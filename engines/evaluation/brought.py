"""Published rows that a user brings: a TOML file of tables, added to those that are known here."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engines.errors import InvalidInput
from engines.evaluation.datasets import Layout
from engines.evaluation.published import TABLES, Brought, Row, Table

Text = Annotated[str, Field(min_length=1)]
Percent = Annotated[float, Field(strict=True, ge=0, le=100, allow_inf_nan=False)]


class _Brought(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RowGiven(_Brought):
    """One system's figures, in percent."""

    system: Text
    figures: Annotated[list[Percent], Field(min_length=1)]


class TableGiven(_Brought):
    """A table as a file has it. What a table of the same title has already may be left out."""

    title: Text
    source: Text
    layouts: list[Literal["demo", Layout]] = []
    columns: list[Text] = []
    rows: Annotated[list[RowGiven], Field(min_length=1)]


class FileGiven(_Brought):
    """The whole file."""

    table: Annotated[list[TableGiven], Field(min_length=1)]


def with_brought(paths: Sequence[Path], known: Sequence[Table] = TABLES) -> tuple[Table, ...]:
    """The known tables with the rows of TOML files, one ``[[table]]`` after another.

    A table of a known title fills or extends that one; another one is added.

    Raises:
        InvalidInput: a file cannot be read, or a table or a row in it does not fit; which one is named.
    """
    tables = {table.title: table for table in known}
    for path in paths:
        for given in _read(path):
            tables[given.title] = _added(path.name, given, tables.get(given.title))
    return tuple(tables.values())


def _read(path: Path) -> list[TableGiven]:
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: {error}") from error
    try:
        return FileGiven.model_validate(content).table
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise InvalidInput(f"{path.name}: {_place(content, fault['loc'])}{fault['msg']}") from error


def _place(content: Mapping[str, Any], places: Sequence[int | str]) -> str:
    """Where in a file a fault is, in its own words: the title of the table and the system of the row, if they are."""
    words: list[str] = []
    value: Any = content
    for place in places:
        value = _inside(value, place)
        if isinstance(place, int):
            name = _inside(value, "title") or _inside(value, "system")
            words[-1] += f" {place + 1}" + (f" “{name}”" if isinstance(name, str) else "")
        else:
            words.append(place)
    return "".join(f"{word}: " for word in words)


def _inside(value: Any, place: int | str) -> Any:
    """What a list or a table of TOML holds there, None if it holds nothing."""
    if isinstance(value, list) and isinstance(place, int):
        return value[place] if place < len(value) else None
    return value.get(place) if isinstance(value, dict) else None


def _added(file: str, given: TableGiven, known: Table | None) -> Table:
    where = f"{file}: table “{given.title}”"
    columns = _agreed(where, "columns", given.columns, known.columns if known else ())
    layouts = _agreed(where, "layouts", given.layouts, known.layouts if known else ())
    for row in given.rows:
        if len(row.figures) != len(columns):
            raise InvalidInput(
                f"{where}: row “{row.system}” has {len(row.figures)} figures for {len(columns)} columns"
            )
    rows = tuple(Row(row.system, tuple(row.figures), file) for row in given.rows)
    table = known or Table(given.title, layouts, "")
    brought = Brought(file, given.source)
    return replace(table, columns=columns, rows=table.rows + rows, brought=(*table.brought, brought))


def _agreed(where: str, name: str, given: Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    """What a file gives and what is known must be the same, where there are both."""
    if not given and not known:
        raise InvalidInput(f"{where} needs its {name}")
    if given and known and tuple(given) != known:
        raise InvalidInput(f"{where}: its {name} must be {list(known)}, as they are already, or be left out")
    return known or tuple(given)
