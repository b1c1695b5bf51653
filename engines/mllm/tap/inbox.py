"""Where the hidden states arrive that a tapped vLLM server sends."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from weakref import WeakValueDictionary

import numpy as np

from engines.mllm.tap.message import HEADER, MOST_NUMBERS, TAG_LENGTH, Message, asking
from engines.mllm.tap.told import Told

log = logging.getLogger(__name__)


class StatesInbox:
    """Hands each state to whoever waits for its tag; a state that nobody waits for any more is dropped."""

    def __init__(self, address: Path) -> None:
        """`address` is the Unix socket's, for vLLM to be told."""
        self.address = address
        self._waiting: WeakValueDictionary[str, Told] = WeakValueDictionary()

    def expect(self, before: Sequence[int] = (), of: Sequence[int] = ()) -> Told:
        """What to ask a request's states with, as `asking` says, and to wait for them in."""
        tag = uuid.uuid4().hex[:TAG_LENGTH]
        told = self._waiting[tag] = Told(tag, asking(tag, before, of))
        return told

    async def listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear one of vLLM's workers until it goes away."""
        try:
            while True:
                tag, anew, count = HEADER.unpack(await reader.readexactly(HEADER.size))
                if count > MOST_NUMBERS:
                    raise ValueError(f"a state of {count} numbers")
                state = np.frombuffer(await reader.readexactly(4 * count), "<f4")
                if told := self._waiting.get(tag.decode("ascii")):
                    told.hear(Message(told.tag, anew, state))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the server has ended; its launcher starts it again
        except ValueError as fault:
            log.warning("what came for the inbox of hidden states is none: %s", fault)
        finally:
            writer.close()


@asynccontextmanager
async def open_inbox() -> AsyncIterator[StatesInbox]:
    """An inbox that only this user's processes can reach."""
    with TemporaryDirectory(prefix="r2sm-") as folder:
        inbox = StatesInbox(Path(folder) / "states")
        server = await asyncio.start_unix_server(inbox.listen, inbox.address)
        try:
            yield inbox
        finally:
            server.close()
