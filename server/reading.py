"""Reads the settings: from wherever they come, with one sentence for each that is wrong."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError

from server.admission.keys import KeysInvalid
from server.settings import Settings

PREFIX = "R2SM_"
ELSEWHERE = frozenset({"R2SM_API_KEY", "R2SM_CHAT_KEY", "R2SM_TORCH_INDEX"})
"""Variables of the same prefix that are other commands'."""


NAMED = re.compile(r'field "(\w+)"')
NO_JSON = 'a value of it is not the JSON that it must be, such as ["one", "two"]'


class SettingsInvalid(ValueError):
    """Settings cannot be used; `faults` has a sentence for each, which names it."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def read_settings(**given: object) -> Settings:
    """The settings, with those of the command line on top; what is None there was not given.

    Raises:
        SettingsInvalid: a value is wrong, or the keys or the TOML file cannot be used.
    """
    try:
        settings = Settings(**(chosen(**given) or {}))
        if settings.keys is not None and not settings.keys.keys:
            raise SettingsInvalid(["api_keys_file: there is no key in it, so nobody could ask anything"])
    except ValidationError as error:
        raise SettingsInvalid(
            [_sentence(dict(fault)) for fault in error.errors(include_url=False)]
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsInvalid([f"config: the file is not TOML: {error}"]) from error
    except UnicodeDecodeError as error:
        raise SettingsInvalid([f"config: the file is not UTF-8: {error}"]) from error
    except SettingsError as error:
        field = NAMED.search(str(error))
        raise SettingsInvalid([f"{field[1] if field else 'a setting'}: {NO_JSON}"]) from error
    except (OSError, KeysInvalid) as error:
        raise SettingsInvalid([str(error)]) from error
    return settings


def chosen(**options: object) -> dict[str, Any] | None:
    """The options that were given; None if none was."""
    return {name: value for name, value in options.items() if value is not None} or None


def unknown_variables(environment: Mapping[str, str] | None = None) -> list[str]:
    """A sentence for every ``R2SM_…`` variable that is no setting and so does nothing."""
    names = {variable for variable, _ in variables(Settings)}
    found = os.environ if environment is None else environment
    return [
        f"{name}: there is no such setting{_meant(name, names)}"
        for name in sorted(found)
        if name.startswith(PREFIX) and name.upper() not in names | ELSEWHERE | {f"{PREFIX}VLLM"}
    ]


def variables(model: type[BaseModel], prefix: str = PREFIX) -> list[tuple[str, str]]:
    """Every setting as its environment variable and its dotted name."""
    found = []
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            nested = variables(inner, f"{prefix}{name.upper()}__")
            found += [(variable, f"{name}.{dotted}") for variable, dotted in nested]
        else:
            found.append((prefix + name.upper(), name))
    return found


def _meant(name: str, names: set[str]) -> str:
    close = difflib.get_close_matches(name.upper(), sorted(names), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _sentence(fault: dict[str, object]) -> str:
    """Pydantic's finding without what was given: it may be a secret."""
    place = fault["loc"]
    assert isinstance(place, tuple)
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{'.'.join(map(str, place))}: {message}" if place else message
