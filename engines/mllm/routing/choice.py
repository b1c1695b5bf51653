"""Which of several servers a call goes to: the one that knows its image, unless that one is clearly busier."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol, TypeVar

SLACK, SHARE = 2, 4
"""A server is clearly busier when it has more than 2 calls, and a quarter, beyond the least busy one's."""


class Candidate(Protocol):
    """A server that could be asked."""

    @property
    def url(self) -> str: ...

    @property
    def outstanding(self) -> int:
        """Calls it is working on."""
        ...


Server = TypeVar("Server", bound=Candidate)


def choose(servers: Sequence[Server], image: str) -> Server:
    """The server for a call about the image of that digest; `servers` is not empty.

    Every image has its own order of all servers (highest random weight, Thaler and Ravishankar 1998), so that
    its prefix and its preprocessed pixels are cached on as few of them as possible and a server that comes or
    goes moves no image but its own. The first in that order that is not clearly busier than another is taken.
    """
    least = min(server.outstanding for server in servers)
    most = least + SLACK + least // SHARE
    free = [server for server in servers if server.outstanding <= most]
    return max(free, key=lambda server: _weight(server.url, image))


def _weight(url: str, image: str) -> bytes:
    return blake2b(f"{url}\n{image}".encode(), digest_size=8).digest()
