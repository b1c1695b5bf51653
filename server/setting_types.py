"""The types of settings whose values are checked in ways of their own."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, RedisDsn, TypeAdapter
from pydantic_core import from_json
from pydantic_settings import NoDecode

from server.admission.limits import parse_limits
from server.urls import bare_http_url

_REDIS = TypeAdapter(RedisDsn)


def _several(given: object) -> object:
    """A JSON list, or values between commas."""
    if not isinstance(given, str):
        return given
    if given.lstrip().startswith("["):
        return from_json(given)
    return [one.strip() for one in given.split(",") if one.strip()]


def _redis_url(url: str) -> str:
    return str(_REDIS.validate_python(url))


RedisUrl = Annotated[str, AfterValidator(_redis_url)]
Hosts = Annotated[frozenset[str], NoDecode, BeforeValidator(_several)]
Urls = Annotated[
    tuple[Annotated[str, AfterValidator(bare_http_url)], ...], NoDecode, BeforeValidator(_several)
]


def _checked_limits(limits: str) -> str:
    if limits:
        parse_limits(limits)
    return limits


RateLimit = Annotated[str, AfterValidator(_checked_limits)]
