"""The types of settings whose values are checked in ways of their own."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import httpx
from pydantic import AfterValidator, BeforeValidator, RedisDsn, TypeAdapter
from pydantic_core import from_json
from pydantic_settings import NoDecode

from server.admission.limits import parse_limits

_REDIS = TypeAdapter(RedisDsn)


def _several(given: object) -> object:
    """A JSON list, or values between commas."""
    if not isinstance(given, str):
        return given
    if given.lstrip().startswith("["):
        return from_json(given)
    return [url.strip() for url in given.split(",") if url.strip()]


def _http_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is not a URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{url!r} is not an http:// or https:// URL")
    return url.rstrip("/")


def _redis_url(url: str) -> str:
    return str(_REDIS.validate_python(url))


RedisUrl = Annotated[str, AfterValidator(_redis_url)]
Urls = Annotated[tuple[Annotated[str, AfterValidator(_http_url)], ...], NoDecode, BeforeValidator(_several)]


def _checked_limits(limits: str) -> str:
    if limits:
        parse_limits(limits)
    return limits


RateLimit = Annotated[str, AfterValidator(_checked_limits)]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
