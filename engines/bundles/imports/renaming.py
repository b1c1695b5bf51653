"""Names of tensors, from one convention to another, by tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

Renames = tuple[tuple[str, str], ...]
"""Patterns, and what takes the place of what they match."""

Value = TypeVar("Value")


def renamed(state: Mapping[str, Value], table: Renames) -> dict[str, Value]:
    """The same values under the names that a table gives them; every rule is tried, in order."""
    result = {}
    for name, value in state.items():
        new = name
        for pattern, replacement in table:
            new = re.sub(pattern, replacement, new)
        result[new] = value
    return result


def count(state: Mapping[str, object], pattern: str) -> int:
    """How many numbers the names count with, from 0. Raises ValueError if there are none or one is left out."""
    numbers = {int(match[1]) for name in state if (match := re.match(pattern, name))}
    if not numbers or numbers != set(range(len(numbers))):
        raise ValueError(f"{pattern} counts {sorted(numbers)}")
    return len(numbers)
