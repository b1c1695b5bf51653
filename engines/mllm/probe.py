"""Probe: what came of asking one vLLM server, over a new connection, whether it is well."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Probe:
    """`fault` says why the server is not well, and is empty if it is.

    `reached` is whether it took the connection, as one does that is only slow, and no longer one whose name is gone.
    """

    fault: str = ""
    reached: bool = True

    @property
    def well(self) -> bool:
        """Whether the server says that it is well."""
        return not self.fault
