"""Callers: who asks, by API key or by address, how urgent it is, and how often they may."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from starlette.requests import HTTPConnection

from server.admission.keys import KeyRing, Priority
from server.admission.limits import Limits, RateLimits
from server.errors import INVALID, KEY_MISSING, KEY_UNKNOWN, RequestRejected
from server.schemas import FieldFault
from server.telemetry.record import note_key

PRIORITY_HEADER = "X-R2SM-Priority"
SUBPROTOCOL = "r2sm.v1"
KEY_SUBPROTOCOL = "r2sm.key."
"""A browser's WebSocket can set no header: it offers `r2sm.v1` and this with the key after it."""
ANONYMOUS = "anonymous"
V6_SITE = 64
"""Bits of an IPv6 address that are one caller's: the rest a client chooses by itself."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `name` is for logs and metrics, `identity` is what the rate is counted by."""

    name: str
    identity: str
    limits: Limits
    priority: Priority

    @property
    def patient(self) -> bool:
        """Whether others may go first."""
        return self.priority == "batch"


class Callers:
    """Knows callers by their keys; `ring` None asks for none and knows them by their addresses.

    `limits` are those of callers whose key names none of its own.
    """

    def __init__(self, ring: KeyRing | None, limits: Limits, rates: RateLimits) -> None:
        self._ring = ring
        self._limits = limits
        self.rates = rates

    @property
    def closed(self) -> bool:
        """Whether a key is asked for."""
        return self._ring is not None

    def update(self, ring: KeyRing | None, limits: Limits) -> None:
        """From now on these keys and limits; what has been admitted stays so."""
        self._ring = ring
        self._limits = limits

    def identify(self, connection: HTTPConnection) -> Caller:
        """Raises `RequestRejected`: the key is missing or unknown (401), or there is no such priority (422)."""
        asked = _priority(connection)
        if self._ring is None:
            return Caller(ANONYMOUS, f"address:{_site(connection)}", self._limits, asked or "interactive")
        secrets = list(_secrets(connection))
        if not secrets:
            raise RequestRejected(
                KEY_MISSING, "send the key as `Authorization: Bearer …` or as `X-API-Key: …`"
            )
        key = self._ring.find(secrets[0])
        if key is None or len(set(secrets)) > 1:
            raise RequestRejected(KEY_UNKNOWN, "this API key is not known here")
        note_key(key.name)
        limits = self._limits if key.limits is None else key.limits
        return Caller(key.name, f"key:{key.name}", limits, asked or key.priority)

    async def charge(self, caller: Caller, requests: int = 1) -> None:
        """Count so many requests of the caller's. Raises `RequestRejected` (429) if they are too many."""
        await self.rates.charge(caller.identity, caller.limits, requests)

    async def charge_batch(self, caller: Caller, requests: int) -> None:
        """Count the requests of a batch, of which one came with its place.

        Raises `RequestRejected`: they are too many now (429), or more than are ever allowed at once (422).
        """
        too_few = next((item for item in caller.limits if item.amount < requests), None)
        if too_few is not None:
            message = f"{requests} at once are more than the {too_few} that are allowed"
            fault = FieldFault(field="requests", message=message)
            raise RequestRejected(INVALID, f"requests: {message}", [fault])
        await self.charge(caller, requests - 1)


def _secrets(connection: HTTPConnection) -> Iterator[str]:
    headers = connection.headers
    for value in headers.getlist("authorization"):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            yield token.strip()
    for value in headers.getlist("x-api-key"):
        if value.strip():
            yield value.strip()
    for offered in connection.scope.get("subprotocols", ()):
        if offered.startswith(KEY_SUBPROTOCOL):
            yield offered.removeprefix(KEY_SUBPROTOCOL)


def _priority(connection: HTTPConnection) -> Priority | None:
    asked = connection.headers.get(PRIORITY_HEADER, "").strip().lower()
    if not asked:
        return None
    if asked not in get_args(Priority):
        message = "must be interactive or batch"
        fault = FieldFault(field=PRIORITY_HEADER, message=message)
        raise RequestRejected(INVALID, f"{PRIORITY_HEADER}: {message}", [fault])
    return "batch" if asked == "batch" else "interactive"


def _site(connection: HTTPConnection) -> str:
    """The client's address; of an IPv6 one the network."""
    host = connection.client.host if connection.client is not None else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a Unix socket has none
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(address), V6_SITE), strict=False))
    return str(address)
