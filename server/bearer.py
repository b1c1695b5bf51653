"""The header that shows an API key to a server."""

from __future__ import annotations


def bearer(key: str | None) -> dict[str, str]:
    """The header with a key, less white space around it; none without a key.

    Raises:
        ValueError: no header can hold such a key, which the message does not repeat.
    """
    shown = (key or "").strip()
    if not (shown.isascii() and shown.isprintable()):
        raise ValueError("the API key cannot be sent: it has characters in it that are not printable ASCII")
    return {"Authorization": f"Bearer {shown}"} if shown else {}
