"""Content negotiation: which form of an answer a client prefers."""

from __future__ import annotations

from collections.abc import Sequence

from server.errors import NOT_ACCEPTABLE, RequestRejected


def preferred(accept: str, offered: Sequence[str]) -> str:
    """The media type among `offered` that the header `accept` likes best; of equals the first offered.

    Raises:
        RequestRejected: none of them is acceptable.
    """
    wanted = [_parse(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    best = max(offered, key=lambda media_type: _quality(media_type, wanted))
    if _quality(best, wanted) <= 0:
        raise RequestRejected(NOT_ACCEPTABLE, "the answer comes as " + ", ".join(offered))
    return best


def _quality(media_type: str, wanted: Sequence[tuple[str, float]]) -> float:
    """The `q` of the most particular range that covers `media_type`; a range names one type before another."""
    ranges = (media_type, media_type.partition("/")[0] + "/*", "*/*")
    for wild in ranges:
        for name, quality in wanted:
            if name == wild:
                return quality
    return 0.0


def _parse(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return name, min(max(float(value), 0.0), 1.0)
            except ValueError:
                return name, 0.0
    return name, 1.0
