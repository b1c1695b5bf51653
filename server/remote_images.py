"""Images at URLs: from hosts that the operator allowed, at public addresses only, bounded in size and time."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

import httpx

from server.errors import INVALID, REMOTE_IMAGE, RequestRejected
from server.images import ImageLimits, too_many_bytes
from server.schemas import FieldFault

MAX_REDIRECTS = 3
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that IANA has given out for the public internet so far (RFC 4291, 2.4); NAT64 and the like are outside of it."""
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of `host`. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet; addresses that wrap another are not."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and (ip not in GLOBAL_UNICAST or ip.sixtofour or ip.teredo):
        return False
    return ip.is_global and not ip.is_multicast


class RemoteImages:
    """Fetches images over HTTP from `hosts`; with none, from nowhere.

    The address that was checked is the one connected to: a name that resolves to something else a moment later
    changes nothing. Redirects are followed a few times, each checked as the first URL is.
    """

    def __init__(
        self,
        hosts: frozenset[str],
        limits: ImageLimits,
        seconds: float,
        *,
        resolve: Resolve = resolve,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._hosts = hosts
        self._limits = limits
        self._seconds = seconds
        self._resolve = resolve
        self._transport = transport
        self._tls = httpx.create_ssl_context(trust_env=False) if hosts else False
        """Made once: reading all certificates takes as long as a small request."""

    async def fetch(self, url: str) -> bytes:
        """The file at `url`.

        Raises:
            RequestRejected: the URL is not allowed, or does not give a file in time.
            ImageRejected: the file is too large.
        """
        self._allowed(url)
        try:
            async with (
                asyncio.timeout(self._seconds),
                httpx.AsyncClient(
                    transport=self._transport, verify=self._tls, trust_env=False, timeout=None
                ) as client,
            ):
                return await self._follow(client, url)
        except TimeoutError as error:
            raise _unreachable(f"it did not arrive within {self._seconds:g} s") from error
        except (httpx.HTTPError, OSError) as error:
            raise _unreachable("its host does not answer") from error
        except (httpx.InvalidURL, UnicodeError) as error:
            raise _unreachable("its host redirects to what is not a URL") from error

    async def _follow(self, client: httpx.AsyncClient, url: str) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            request = await self._request(client, url)
            response = await client.send(request, stream=True)
            try:
                if not response.has_redirect_location:
                    return await self._read(response)
                url = str(_parse(url).join(response.headers["location"]))
            finally:
                await response.aclose()
        raise _unreachable("it redirects too often")

    async def _request(self, client: httpx.AsyncClient, url: str) -> httpx.Request:
        """A request to the address that was checked, for the host that was named."""
        parsed = self._allowed(url)
        addresses = await self._resolve(parsed.host, parsed.port or {"http": 80, "https": 443}[parsed.scheme])
        if not addresses or not all(map(is_public, addresses)):
            raise _refused(f'the host "{parsed.host}" has no public address')
        return client.build_request(
            "GET",
            parsed.copy_with(host=addresses[0]),
            headers={
                "Host": parsed.netloc.decode("ascii"),
                "Accept": "image/*",
                "Accept-Encoding": "identity",
            },
            extensions={"sni_hostname": parsed.host},
        )

    def _allowed(self, url: str) -> httpx.URL:
        parsed = _parse(url)
        if parsed.scheme not in ("http", "https") or parsed.userinfo:
            raise _refused("only plain http and https URLs are fetched")
        if parsed.host not in self._hosts:
            raise _refused(f'the host "{parsed.host}" is not allowed here')
        return parsed

    async def _read(self, response: httpx.Response) -> bytes:
        if not response.is_success:
            raise _unreachable(f"its host answered {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise _unreachable("its host compresses what it was asked not to")
        data = bytearray()
        async for chunk in response.aiter_bytes():
            data += chunk
            if len(data) > self._limits.max_bytes:
                raise too_many_bytes(self._limits)
        return bytes(data)


def _parse(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
        _ = parsed.host  # which is decoded only when it is asked for
    except (httpx.InvalidURL, UnicodeError) as error:
        raise _refused("this is not a URL") from error
    return parsed


def _refused(detail: str) -> RequestRejected:
    return RequestRejected(INVALID, f"image.url: {detail}", [FieldFault(field="image.url", message=detail)])


def _unreachable(reason: str) -> RequestRejected:
    detail = f"the image cannot be fetched: {reason}"
    return RequestRejected(REMOTE_IMAGE, detail, [FieldFault(field="image.url", message=detail)])
