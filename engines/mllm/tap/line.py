"""The way from vLLM's worker to the gateway's inbox."""

from __future__ import annotations

import logging
import socket

SEND_SECONDS = 1.0
"""How long a gateway that does not read may hold up the model before its states are dropped."""

log = logging.getLogger(__name__)


class Line:
    """A connection to the gateway's inbox, made when it is needed; what cannot be sent is dropped, and said so."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._socket: socket.socket | None = None

    def send(self, frame: bytes) -> None:
        """Send a frame whole, or not at all."""
        try:
            if self._socket is None:
                self._socket = self._connected()
            self._socket.sendall(frame)
        except OSError as fault:
            log.warning("a hidden state could not be sent to the gateway: %s", fault)
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _connected(self) -> socket.socket:
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        line.settimeout(SEND_SECONDS)
        try:
            line.connect(self._address)
        except OSError:
            line.close()
            raise
        return line
