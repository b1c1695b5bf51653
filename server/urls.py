"""URLs of servers, checked before anything is asked of them."""

from __future__ import annotations

import re

import httpx

SECRET = re.compile(r"//[^/]*@")
"""A user and a password, which no message repeats."""


def http_url(url: str) -> str:
    """The URL without a slash at its end. Raises ValueError if it is no http:// or https:// URL of a host."""
    shown = SECRET.sub("//…@", url)
    try:
        parsed = httpx.URL(url)
        host = parsed.host
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"{shown!r} is not a URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not host:
        raise ValueError(f"{shown!r} is not an http:// or https:// URL")
    return url.rstrip("/")
