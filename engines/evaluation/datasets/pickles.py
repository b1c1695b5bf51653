"""Reading pickles that hold plain values only: what a pickle names beyond them is refused, never run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

from engines.evaluation.questions import Fault, FaultyData


class _PlainUnpickler(pickle.Unpickler):
    """Dictionaries, lists, tuples, sets, strings and numbers need no names; whatever does is refused."""

    def find_class(self, module: str, name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}, and plain values name nothing")


def load_plain(path: Path) -> Any:
    """The content of a pickle, of Python 2 too (RefCOCO's ``refs(unc).p``).

    Raises:
        FaultyData: the file is not there, is no pickle, or holds more than plain values.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="utf-8").load()
    except FileNotFoundError:
        raise FaultyData(Fault("unreadable_file", str(path), "the file is not there")) from None
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise FaultyData(Fault("unreadable_file", str(path), f"no plain pickle: {error}")) from error
