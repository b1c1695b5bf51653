"""Which version of the gateway runs."""

from __future__ import annotations

from importlib import metadata

PACKAGE = "r2sm-server"


def version() -> str:
    """The installed package's version; ``unknown`` where the code runs from a checkout that was never installed."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return "unknown"
