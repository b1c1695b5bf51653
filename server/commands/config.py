"""``r2sm config``: the settings that are in force, whether they are right, what there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from server.commands.paths import require_writable_file
from server.commands.serve import settings_or_exit
from server.fitting import GIB, Machine, misfits, this_machine
from server.reading import PREFIX, SettingsInvalid, read_settings, unknown_variables
from server.settings import DEMO_BUNDLE, Settings

MASK = "********"
IN_QUERY = re.compile(r"([?&](?:ssl_)?password=)[^&]*")
"""A password as redis-py takes it, and what follows a # in it."""
BEGIN, END = "<!-- settings: begin (make settings-table) -->", "<!-- settings: end -->"


def config(
    file: Annotated[Path | None, typer.Option("--config", help="A TOML file with settings.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is wrong; exit code 2 if anything is.")
    ] = False,
    gpu_gib: Annotated[
        float | None,
        typer.Option(help="With --check: for devices of this much memory, not for this machine's.", min=0.1),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print all settings as a table.")] = False,
    write: Annotated[
        Path | None, typer.Option(help="Put that table into this file, between its marks.")
    ] = None,
) -> None:
    """Print the settings that are in force, as TOML. Secrets are masked."""
    if write is not None:
        _renew_table(write)
    elif markdown:
        typer.echo(as_table(Settings))
    elif check:
        _check(file, gpu_gib)
    else:
        typer.echo(as_toml(settings_or_exit(config=file)))


def _renew_table(file: Path) -> None:
    """Raises `BadParameter` if the file cannot be read, has no marks or cannot be written; it stays as it is then."""
    require_writable_file(file, "--write")
    try:
        text = with_table(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise typer.BadParameter(f"--write: {file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise typer.BadParameter(f"--write: {file}: {error}") from error
    file.write_text(text, encoding="utf-8")


def _check(file: Path | None, gpu_gib: float | None) -> None:
    faults = unknown_variables()
    try:
        faults += _misfits(read_settings(config=file), gpu_gib)
    except SettingsInvalid as error:
        faults = [*error.faults, *faults]
    for fault in faults:
        typer.echo(fault)
    if faults:
        raise typer.Exit(2)
    typer.echo("the settings are right")


def _misfits(settings: Settings, gpu_gib: float | None) -> list[str]:
    """Whether the bundle fits, of which this machine holds the vision model alone where vLLM runs elsewhere.

    What of it is asked for elsewhere may not be here to be looked at.
    """
    if not settings.bundle.exists():
        typer.echo(f"{settings.bundle} is not here: whether it fits was not looked at", err=True)
        return []
    if gpu_gib:
        return misfits(settings, Machine("as told", 1, int(gpu_gib * GIB)))
    elsewhere = bool(settings.reason_url or settings.concentrate_url)
    return misfits(settings, this_machine(), vision_alone=elsewhere)


def as_toml(model: BaseModel, table: str = "") -> str:
    """Settings as TOML, secrets masked; what is None is left out, as TOML has no word for it."""
    lines, tables = [f"[{table}]"] if table else [], []
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            tables.append(as_toml(value, f"{table}.{name}" if table else name))
        elif value is not None:
            lines.append(f"{name} = {_toml(value)}")
    return "\n\n".join(["\n".join(lines), *tables])


def as_table(model: type[BaseModel]) -> str:
    """All settings as a Markdown table."""
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *_rows(model, PREFIX)])


def with_table(text: str) -> str:
    """A text with the table between its marks made anew. Raises ValueError if it has no such marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the marks {BEGIN} and {END} are not there")
    return f"{before}{BEGIN}\n{as_table(Settings)}\n{END}{after}"


def _rows(model: type[BaseModel], prefix: str) -> list[str]:
    rows = []
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            rows += _rows(inner, f"{prefix}{name.upper()}__")
        else:
            rows.append(f"| `{prefix}{name.upper()}` | {_default(info)} | {info.description} |")
    return rows


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True)
    if value is None or value == "":
        return ""
    return "the demo bundle" if value == DEMO_BUNDLE else f"`{_toml(value)}`"


def _toml(value: object) -> str:
    if isinstance(value, SecretStr):
        return json.dumps(MASK)
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, frozenset):
        return _toml(sorted(value))
    if isinstance(value, tuple | list):
        return json.dumps([_without_password(str(one)) for one in value], ensure_ascii=False)
    return json.dumps(_without_password(str(value)), ensure_ascii=False)


def _without_password(text: str) -> str:
    """A URL with its passwords masked, before the host and in the query; any other text as it is."""
    if "://" not in text:
        return text
    if password := urlsplit(text).password:
        text = text.replace(f":{password}@", f":{MASK}@")
    return IN_QUERY.sub(rf"\1{MASK}", text)
