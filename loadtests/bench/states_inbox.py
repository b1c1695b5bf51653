"""Where the hidden states arrive that `StatesConnector` sends."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

TAG, SOCKET = "states_tag", "states_socket"
"""What names a tag in a request, and the address in the connector's configuration."""
TAG_BYTES = 16
MOST_BYTES = 2**20
SECONDS = 30.0
NORM = "model.norm.weight"


class StatesInbox:
    """States by tag, normed as the model's own head would have them."""

    def __init__(self, weight: NDArray[np.float32], epsilon: float) -> None:
        """`weight` [D] and `epsilon` of the final RMSNorm."""
        self._weight, self._epsilon = weight, epsilon
        self._due: dict[str, asyncio.Future[NDArray[np.float32]]] = {}

    def expect(self) -> str:
        """A new tag to send states under."""
        tag = uuid.uuid4().hex[:TAG_BYTES]
        self._due[tag] = asyncio.get_running_loop().create_future()
        return tag

    async def take(self, tag: str) -> NDArray[np.float32]:
        """The states [N, D] that come under a tag. Raises TimeoutError."""
        try:
            return await asyncio.wait_for(self._due[tag], SECONDS)
        finally:
            del self._due[tag]

    def receive(self, line: socket.socket) -> None:
        """One answer's states, before the final norm."""
        data = line.recv(MOST_BYTES)
        due = self._due.get(data[:TAG_BYTES].decode())
        if due is None or due.done():
            return
        states = np.frombuffer(data, np.float32, offset=TAG_BYTES).reshape(-1, self._weight.size)
        scale = np.sqrt(np.square(states).mean(-1, keepdims=True) + self._epsilon)
        due.set_result(states / scale * self._weight)


@asynccontextmanager
async def open_inbox(mllm: Path, address: Path) -> AsyncIterator[StatesInbox]:
    """An inbox for the model in a Hugging Face folder, listening at a Unix socket."""
    config = json.loads((mllm / "config.json").read_bytes())["text_config"]
    with safe_open(mllm / "model.safetensors", framework="pt") as stored:
        weight = stored.get_tensor(NORM).float().numpy()
    inbox, loop = StatesInbox(weight, config["rms_norm_eps"]), asyncio.get_running_loop()
    with listening(address) as line:
        loop.add_reader(line, inbox.receive, line)
        try:
            yield inbox
        finally:
            loop.remove_reader(line)


@contextmanager
def listening(address: Path) -> Iterator[socket.socket]:
    """A datagram socket there, whatever an earlier run has left behind."""
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(address))
        line.setblocking(False)
        try:
            yield line
        finally:
            address.unlink(missing_ok=True)
