"""How deep a JSON text nests, found before it is parsed."""

from __future__ import annotations

import re

from server.errors import MALFORMED, RequestRejected

MAX_DEPTH = 16
MAX_BRACKETS = 10_000
"""No request needs a hundredth of them; more are not even counted."""
TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{\]}]', re.DOTALL)
"""A string, which may hold any bracket, or a bracket; a string that never ends reaches to the end."""


def check_nesting(text: bytes) -> None:
    """Raises `RequestRejected` if a JSON text nests deeper than any request does; linear in its length."""
    depth = brackets = 0
    for token in TOKEN.finditer(text):
        first = text[token.start()]
        if first == ord('"'):
            continue
        depth += 1 if first in b"[{" else -1
        brackets += 1
        if depth > MAX_DEPTH or brackets > MAX_BRACKETS:
            raise RequestRejected(MALFORMED, f"the JSON nests deeper than {MAX_DEPTH}, or in too many places")
