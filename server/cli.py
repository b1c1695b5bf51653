"""The command line ``r2sm``."""

from __future__ import annotations

import typer

from loadtests.command import loadtest
from loadtests.profile.command import profile
from server.commands.build import build
from server.commands.bundle import app as bundle
from server.commands.capacity import capacity
from server.commands.config import config
from server.commands.datasets import app as datasets
from server.commands.demo import demo
from server.commands.evaluate import evaluate
from server.commands.export import export
from server.commands.imports import app as imports
from server.commands.keys import app as keys
from server.commands.queries import queries
from server.commands.segment import segment
from server.commands.serve import serve

app = typer.Typer(
    name="r2sm",
    help="Selective-mask segmentation: the visible or the complete shape of what a sentence means.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (serve, segment, evaluate, queries, capacity, loadtest, profile, config, export, build, demo):
    app.command()(command)
app.add_typer(datasets, name="datasets")
app.add_typer(keys, name="keys")
app.add_typer(imports, name="import")
app.add_typer(bundle, name="bundle")


def main() -> None:
    """Entry point of the console script."""
    app()
