"""The metrics pages of the vLLM servers that the gateway has started on addresses nobody else knows."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping

import httpx

from engines.errors import MllmUnavailable

SECONDS = 3.0
MAX_BYTES = 4 * 1024 * 1024


class VllmPages:
    """Fetches ``/metrics`` of the servers in `urls`, by role."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = dict(urls)

    def __contains__(self, role: str) -> bool:
        return role in self._urls

    async def fetch(self, role: str) -> tuple[bytes, str]:
        """The page and its media type. Raises `MllmUnavailable` if it does not come, in time and within bounds."""
        page = bytearray()
        try:
            async with (
                asyncio.timeout(SECONDS),
                httpx.AsyncClient(base_url=self._urls[role], trust_env=False) as client,
                client.stream("GET", "/metrics") as response,
            ):
                response.raise_for_status()
                async for part in response.aiter_bytes():
                    page += part
                    if len(page) > MAX_BYTES:
                        raise MllmUnavailable(
                            f"the {role} server's metrics are larger than {MAX_BYTES} bytes"
                        )
        except (TimeoutError, httpx.HTTPError) as fault:
            raise MllmUnavailable(
                f"the {role} server's metrics: {str(fault) or type(fault).__name__}"
            ) from fault
        return bytes(page), response.headers.get("content-type", "text/plain")


def is_local(address: str | None, headers: Mapping[str, str]) -> bool:
    """Whether a request comes from this machine itself, and not through a proxy on it."""
    if address is None or "forwarded" in headers or "x-forwarded-for" in headers:
        return False
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
