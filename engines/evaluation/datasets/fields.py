"""The fields of a data set's records: each is what it should be, or a fault says where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.evaluation.questions import Fault, FaultyData

Entry = Mapping[str, Any]


def field(record: Any, name: str, where: str) -> Any:
    """A field of a record.

    Raises:
        FaultyData: the record has no such field.
    """
    if not isinstance(record, Mapping) or record.get(name) is None:
        raise FaultyData(Fault("missing_field", where, f"the field {name!r} is missing"))
    return record[name]


def text(record: Any, name: str, where: str) -> str:
    """A field that holds words, without the space around them.

    Raises:
        FaultyData: it is missing, is no text, or has no words.
    """
    value = field(record, name, where)
    if not isinstance(value, str) or not value.strip():
        raise _wrong(name, where, "has no words")
    return value.strip()


def query(value: Any, where: str) -> str:
    """The words of a query.

    Raises:
        FaultyData: the value is no text, or has no words.
    """
    if not isinstance(value, str):
        raise FaultyData(Fault("wrong_field", where, "the query is no text"))
    if not value.strip():
        raise FaultyData(Fault("empty_query", where, "the query has no words"))
    return value.strip()


def key(record: Any, name: str, where: str) -> int | str:
    """A field by which others refer to the record: a whole number or text.

    Raises:
        FaultyData: it is missing, or neither.
    """
    value = field(record, name, where)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _wrong(name, where, "is neither a whole number nor text")
    return value


def number(record: Any, name: str, where: str) -> int:
    """A field that holds a whole number.

    Raises:
        FaultyData: it is missing, or no such number.
    """
    value = field(record, name, where)
    if not is_whole(value):
        raise _wrong(name, where, "is no whole number")
    return int(value)


def size(record: Any, height: str, width: str, where: str) -> tuple[int, int]:
    """A picture's size (H, W) in pixels.

    Raises:
        FaultyData: it is missing, or not at least one pixel.
    """
    found = number(record, height, where), number(record, width, where)
    if min(found) < 1:
        raise _wrong(height, where, f"and {width!r} are {found}, which is no size")
    return found


def rows(record: Any, name: str, where: str) -> list[Entry]:
    """A field that holds a list of records.

    Raises:
        FaultyData: it is missing, or no such list.
    """
    return as_rows(field(record, name, where), f"{where}.{name}")


def as_rows(values: Any, where: str) -> list[Entry]:
    """A list of records.

    Raises:
        FaultyData: it is none.
    """
    if not isinstance(values, list):
        raise FaultyData(Fault("wrong_field", where, "this is no list"))
    for place, each in enumerate(values):
        if not isinstance(each, Mapping):
            raise FaultyData(Fault("wrong_field", f"{where}[{place}]", "this is no record with fields"))
    return values


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(name: str, where: str, message: str) -> FaultyData:
    return FaultyData(Fault("wrong_field", where, f"the field {name!r} {message}"))
