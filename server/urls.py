"""URLs of servers, checked before anything is asked of them."""

from __future__ import annotations

import ipaddress
import re

import httpx

SECRET = re.compile(r"(?<=//).*@|^[^/]*@")
"""A user and a password, which no message repeats, not even where a slash is in them or the scheme is missing."""


def http_url(url: str) -> str:
    """The URL without a slash at its end. Raises ValueError if it is no http:// or https:// URL of a host."""
    shown = SECRET.sub("…@", url)
    try:
        parsed = httpx.URL(url)
        host = parsed.host
    except (httpx.InvalidURL, UnicodeError) as error:
        why = f": {error}" if shown == url else ""  # which may quote a password's end as the port
        raise ValueError(f"{shown!r} is not a URL{why}") from error
    if parsed.scheme not in ("http", "https") or not host:
        raise ValueError(f"{shown!r} is not an http:// or https:// URL")
    return url.rstrip("/")


def bare_http_url(url: str) -> str:
    """As `http_url`, of a server that is asked without a password. Raises ValueError for one with a user, too."""
    checked = http_url(url)
    if httpx.URL(checked).userinfo:
        shown = SECRET.sub("…@", url)
        raise ValueError(
            f"{shown!r} has a user or a password, which are not sent: leave out what is before the @"
        )
    return checked


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_near(url: str) -> bool:
    """Whether the URL's host is this machine, to which no proxy leads."""
    host = httpx.URL(url).host
    return is_loopback(host) or host in ("0.0.0.0", "::")
