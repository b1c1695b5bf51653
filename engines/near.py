"""Which hosts are this machine: no proxy leads to them, and nobody else reaches some of them."""

from __future__ import annotations

import ipaddress

import httpx


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_near(url: str) -> bool:
    """Whether the URL's host is this machine, to which no proxy leads. Raises `httpx.InvalidURL`."""
    host = httpx.URL(url).host
    return is_loopback(host) or host in ("0.0.0.0", "::")
