"""How states are asked for in a request to vLLM, and how they come: frames on a Unix stream socket."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SOCKET = "R2SM_TAP_SOCKET"
"""The environment variable that tells vLLM's worker where to send states."""
TAG, BEFORE, OF = "states_tag", "states_before", "states_of"
"""Names in a request's ``vllm_xargs``, which reach the worker as its sampling parameters' ``extra_args``."""
HEADER = struct.Struct("<16s?I")
"""A frame's beginning: the tag, whether it begins anew, and how many numbers follow, float32 in little endian."""
TAG_LENGTH = 16
MOST_NUMBERS = 1 << 16


@dataclass(frozen=True, slots=True)
class Message:
    """One last hidden state [D], after the final norm; one that begins anew is the first of its request's."""

    tag: str
    anew: bool
    state: NDArray[np.float32]

    def frame(self) -> bytes:
        """The message on the wire."""
        numbers = np.ascontiguousarray(self.state, dtype="<f4")
        return HEADER.pack(self.tag.encode("ascii"), self.anew, numbers.size) + numbers.tobytes()


def asking(tag: str, before: Sequence[int] = (), of: Sequence[int] = ()) -> dict[str, object]:
    """What a request says so that states are sent under `tag`, 16 ASCII characters.

    The state from which one of the tokens `before` was chosen, and begins anew; the state of each token out of `of`
    that was written. With neither, the state of the prompt's last token.
    """
    return {"vllm_xargs": {TAG: tag, BEFORE: list(before), OF: list(of)}}
