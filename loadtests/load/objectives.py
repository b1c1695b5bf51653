"""The objectives of ``slo.toml``: what a good request is, and which figures must hold."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from engines.errors import InvalidInput
from loadtests.load.figures import MEASURES, Figures, figure_names

SHIPPED = Path(__file__).parents[1] / "slo.toml"


class Objectives(BaseModel):
    """One scenario's: `good` bounds each request's times, the others the run's figures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    good: dict[str, float] = {}
    at_most: dict[str, float] = {}
    at_least: dict[str, float] = {}


Outcome = Literal["kept", "missed", "not shown"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One objective: `value` is None where the run did not show the figure, which misses the objective.

    Where it could not be shown the objective is neither kept nor missed.
    """

    figure: str
    bound: str
    value: float | None
    outcome: Outcome


def read_objectives(path: Path, scenario: str) -> Objectives:
    """The objectives of a scenario.

    Raises:
        InvalidInput: the file cannot be read, has none for this scenario, or names a figure that does not exist.
    """
    try:
        everything = tomllib.loads(path.read_text("utf-8"))
        found = TypeAdapter(dict[str, Objectives]).validate_python(everything)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise InvalidInput(f"{path}: {where}: {fault['msg']}") from error
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: {error}") from error
    if scenario not in found:
        raise InvalidInput(f"{path} has no objectives for {scenario}")
    for name, objectives in found.items():
        _check(path, name, objectives)
    return found[scenario]


def judge(
    objectives: Objectives, figures: Figures, not_shown: Collection[str] = frozenset()
) -> list[Verdict]:
    """Which objectives the figures keep; `not_shown` are those that could not be there."""
    verdicts = []
    for name, most in objectives.at_most.items():
        value = figures.get(name)
        verdicts.append(Verdict(name, f"<= {most:g}", value, _outcome(value is not None and value <= most)))
    for name, least in objectives.at_least.items():
        value = figures.get(name)
        verdicts.append(Verdict(name, f">= {least:g}", value, _outcome(value is not None and value >= least)))
    return [
        replace(each, outcome="not shown") if each.value is None and each.figure in not_shown else each
        for each in verdicts
    ]


def _outcome(holds: bool) -> Outcome:
    return "kept" if holds else "missed"


def _check(path: Path, scenario: str, objectives: Objectives) -> None:
    tables: Mapping[str, tuple[Mapping[str, float], Mapping[str, str]]] = {
        "good": (objectives.good, MEASURES),
        "at_most": (objectives.at_most, figure_names()),
        "at_least": (objectives.at_least, figure_names()),
    }
    for table, (given, known) in tables.items():
        for name in given:
            if name not in known:
                raise InvalidInput(
                    f"{path}: {scenario}.{table}: there is no figure {name}; there are {', '.join(known)}"
                )
