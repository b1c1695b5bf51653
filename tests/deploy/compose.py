"""Reads the Compose files, the second one laid over the first as ``docker compose`` does it."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.deploy.dockerfiles import ROOT

FOLDER = ROOT / "deploy"
Service = dict[str, Any]
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)")


class Reset:
    """In the place of a value that the second file takes away."""


class Override(dict[str, Any]):
    """A mapping that takes the other one's place."""


class OverrideList(list[Any]):
    """A list that does."""


class _Loader(yaml.SafeLoader):
    """YAML with Compose's two tags."""


def _override(loader: yaml.SafeLoader, node: yaml.Node) -> Override | OverrideList:
    if isinstance(node, yaml.SequenceNode):
        return OverrideList(loader.construct_sequence(node, deep=True))
    assert isinstance(node, yaml.MappingNode)
    return Override({str(key): value for key, value in loader.construct_mapping(node, deep=True).items()})


_Loader.add_constructor("!reset", lambda loader, node: Reset())
_Loader.add_constructor("!override", _override)


def read(name: str) -> dict[str, Any]:
    """One Compose file."""
    loaded: dict[str, Any] = yaml.load((FOLDER / name).read_text(encoding="utf-8"), _Loader)
    return loaded


def merged(below: Any, above: Any) -> Any:
    """`above` laid over `below`: mappings by key, lists added, everything else replaced."""
    if isinstance(above, Override):
        return dict(above)
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    result = dict(below)
    for key, value in above.items():
        if isinstance(value, Reset):
            result.pop(key, None)
        elif isinstance(value, OverrideList):
            result[key] = list(value)
        elif key in ("volumes", "ports", "tmpfs") and isinstance(value, list):
            result[key] = [*result.get(key, []), *value]
        else:
            result[key] = merged(result.get(key), value)
    return result


CPU = read("compose.yaml")
GPU = merged(CPU, read("compose.gpu.yaml"))
BOTH = {"cpu": CPU, "gpu": GPU}


def services(which: str) -> dict[str, Service]:
    """The services of the set-up for the CPU or for a GPU."""
    found: dict[str, Service] = BOTH[which]["services"]
    return found
