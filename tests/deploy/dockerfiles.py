"""Reads Dockerfiles: instructions, stages, what is copied from where."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "deploy").glob("*.Dockerfile"))


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, its continued lines joined."""

    name: str
    rest: str


Stage = list[Instruction]


def stages(path: Path) -> list[Stage]:
    """The stages of a Dockerfile, each with its FROM first."""
    lines = [
        line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found: list[Stage] = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append(Instruction(name, rest.strip()))
    return found


def all_of(stage: Stage, name: str) -> list[str]:
    """What the instructions of this name say."""
    return [one.rest for one in stage if one.name == name]


def variables(stage: Stage) -> dict[str, str]:
    """What ENV sets."""
    return {key: value for rest in all_of(stage, "ENV") for key, value in re.findall(r"(\w+)=(\S+)", rest)}


def copied(stage: Stage) -> list[str]:
    """The files of the build context that a stage copies."""
    sources = []
    for rest in all_of(stage, "COPY"):
        words = rest.split()
        if not words[0].startswith("--from="):
            sources += words[:-1]
    return sources


def words(rest: str) -> list[str]:
    """An instruction in its JSON form; raises ValueError for the form that needs a shell."""
    found: list[str] = json.loads(rest)
    return found
