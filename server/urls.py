"""URLs of servers, checked before anything is asked of them."""

from __future__ import annotations

import httpx


def http_url(url: str) -> str:
    """The URL without a slash at its end. Raises ValueError if it is no http:// or https:// URL of a host."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is not a URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{url!r} is not an http:// or https:// URL")
    return url.rstrip("/")
