"""API keys: only their hashes are kept, one entry ``name:sha256[:limits[:priority]]`` for each."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from server.admission.limits import Limits, parse_limits

Priority = Literal["interactive", "batch"]
PREFIX = "r2sm_"
SECRET_BYTES = 32
MAX_SECRET = 200
"""Characters; nothing longer is hashed."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")


class KeysInvalid(ValueError):
    """An entry cannot be used; the message says which one, and never what is in it."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key: the `name` it has in logs and metrics, the sha256 `digest` of the secret, and what it may do.

    `limits` None are the server's. A plain hash will do: the secret is 256 random bits, not a password.
    """

    name: str
    digest: bytes
    limits: Limits | None = None
    priority: Priority = "interactive"


@dataclass(frozen=True, slots=True)
class KeyRing:
    """All keys that open the door."""

    keys: tuple[ApiKey, ...] = ()

    def find(self, secret: str) -> ApiKey | None:
        """The key with this secret. Takes the same time whichever it is, and if it is none of them."""
        digest = digest_of(secret[:MAX_SECRET])
        found = None
        for key in self.keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found if len(secret) <= MAX_SECRET else None


def digest_of(secret: str) -> bytes:
    """The sha256 of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def new_key(name: str, limits: str = "", priority: Priority = "interactive") -> tuple[str, str]:
    """A new secret, which is kept nowhere, and the entry that lets it in. Raises `KeysInvalid`."""
    secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    fields = [name, digest_of(secret).hex(), limits, priority if priority != "interactive" else ""]
    entry = ":".join(fields).rstrip(":")
    _parse_entry(entry, "the new key")
    return secret, entry


def read_keys(file: Path | None, entries: str | None) -> KeyRing | None:
    """The keys in a file and in a text; None where neither is given.

    Raises:
        KeysInvalid: an entry cannot be used, a name or a secret is there twice, or the file cannot be read.
    """
    if file is None and entries is None:
        return None
    keys = list(_parse(entries, "api_keys")) if entries is not None else []
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise KeysInvalid(f"api_keys_file: {file} cannot be read: {error}") from error
        keys += _parse(text, str(file))
    _check_distinct(keys)
    return KeyRing(tuple(keys))


def _parse(text: str, where: str) -> Iterator[ApiKey]:
    """Entries apart by white space; `#` begins a comment."""
    for number, line in enumerate(text.splitlines(), 1):
        for entry in line.partition("#")[0].split():
            yield _parse_entry(entry, f"{where}, line {number}")


def _parse_entry(entry: str, where: str) -> ApiKey:
    name, digest, limits, priority, *rest = [*entry.split(":"), "", "", ""]
    if (
        any(rest) or not NAME.fullmatch(name) or name.startswith(PREFIX)
    ):  # a secret in a name's place is not told
        raise KeysInvalid(
            f"{where}: an entry is name:sha256[:limits[:priority]], the name of A-Z a-z 0-9 . _ -"
        )
    if not DIGEST.fullmatch(digest):
        raise KeysInvalid(
            f'{where}: the hash of "{name}" is not 64 hexadecimal digits (`r2sm keys new` makes it)'
        )
    if priority and priority not in get_args(Priority):
        raise KeysInvalid(f'{where}: the priority of "{name}" is neither interactive nor batch')
    try:
        allowed = parse_limits(limits) if limits else None
    except ValueError as error:
        raise KeysInvalid(f'{where}: the limits of "{name}": {error}') from error
    return ApiKey(name, bytes.fromhex(digest), allowed, "batch" if priority == "batch" else "interactive")


def _check_distinct(keys: list[ApiKey]) -> None:
    names = [key.name for key in keys]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise KeysInvalid(f'the key name "{double}" is there twice')
    if len({key.digest for key in keys}) < len(keys):
        raise KeysInvalid("one key's hash is there under two names")
