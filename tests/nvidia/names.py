"""Prints what the real bindings offer as JSON, ``{"Class.member": "documentation"}``; run with them on the path."""

from __future__ import annotations

import importlib
import inspect
import json
import sys


def main() -> None:
    """Every class of the package, its members, and those of classes within."""
    package = importlib.import_module("tensorrt_bindings")
    found = {"__version__": ""}
    for name, kind in inspect.getmembers(package, inspect.isclass):
        found |= names(name, kind)
    json.dump(found, sys.stdout)


def names(path: str, kind: type) -> dict[str, str]:
    """The members of one class."""
    found = {path: ""}
    for name in dir(kind):
        value = getattr(kind, name)
        if inspect.isclass(value) and name == "Severity":
            found |= names(f"{path}.{name}", value)
        elif not name.startswith("__") or name in ("__init__", "__len__", "__getitem__"):
            found[f"{path}.{name}"] = inspect.getdoc(value) or ""
    return found


if __name__ == "__main__":
    main()
