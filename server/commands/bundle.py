"""``r2sm bundle``: looks at bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from engines.bundles import Bundle
from engines.bundles.manifest import read_manifest
from engines.bundles.requirements import Requirements, requirements
from engines.errors import EngineError
from server.fitting import GIB, Machine, this_machine

app = typer.Typer(help="Look at bundles.", no_args_is_help=True)


@app.callback()
def bundle() -> None:
    """Look at bundles."""


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="The bundle.", exists=True, file_okay=False)],
    verify: Annotated[bool, typer.Option(help="Compare the digest of every file.")] = True,
) -> None:
    """Say what a bundle holds, whether it is whole, and whether this machine can serve it."""
    try:
        loaded = _load(path, verify)
        needs = requirements(loaded)
        digests = read_manifest(loaded.path).files
    except EngineError as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{loaded.name}: a {loaded.grounder} bundle, {'whole' if verify else 'digests not compared'}")
    for name, digest in digests.items():
        size = (loaded.path / name).stat().st_size
        typer.echo(f"  {name:<48} {size / 1e6:>10.1f} MB  {digest[:23]}")
    for line in (*_needed(needs), _verdict(needs, this_machine())):
        typer.echo(line)


def _load(path: Path, verify: bool) -> Bundle:
    total = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    with tqdm(total=total, unit="B", unit_scale=True, desc="digests", disable=not verify) as bar:

        def progress(name: str, read: int, whole: int) -> None:
            bar.update(read - bar.n)

        return Bundle.load(path, verify, progress)


def _needed(needs: Requirements) -> list[str]:
    cache = needs.kv_token * needs.tokens
    return [
        f"vLLM servers                 {needs.servers}",
        f"weights of each, bfloat16    {needs.language / GIB:.2f} GiB",
        f"KV cache of a token          {needs.kv_token / 1024:.1f} KiB",
        f"KV cache of a long request   {cache / GIB:.2f} GiB ({needs.tokens} tokens)",
        f"vision model, float32        {needs.vision / GIB:.2f} GiB",
        f"together, at the least       {needs.least() / GIB:.2f} GiB, and what activations take",
        f"tensor-parallel sizes        {', '.join(map(str, needs.parallel))}",
    ]


def _verdict(needs: Requirements, machine: Machine) -> str:
    """The smallest tensor-parallel size that fits this machine."""
    told = f"{machine.name}, {machine.devices} × {machine.memory / GIB:.1f} GiB"
    for size in needs.parallel:
        if size <= machine.devices and needs.least(size) < machine.memory:
            return f"this machine                 can serve it ({told}) with --tensor-parallel-size {size}"
    return f"this machine                 cannot serve it ({told})"
