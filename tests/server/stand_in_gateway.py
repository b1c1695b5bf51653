"""``r2sm`` with stand-ins for the engines, run as a script: ``stand_in_gateway.py SECONDS serve …``.

The language model is scripted and takes SECONDS for its reasoning; the vision model is real and tiny.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

from engines.events import ReasoningDelta
from engines.mllm.image import MllmImage
from engines.mllm.interface import Hear
from engines.mllm.results import ReasoningEnd
from server.cli import main
from server.opening import OpenEngines
from server.settings import Settings
from server.telemetry.telemetry import Telemetry
from tests.server.stand_in_engines import stand_in_engines
from tests.stand_ins import ScriptedMllm, tiny_vision


class SlowMllm(ScriptedMllm):
    """Takes its time for every word; the warm-up's few tokens come at once."""

    seconds = 0.0

    async def reason(
        self,
        image: MllmImage,
        prompt: str,
        budget: int,
        *,
        objects: int | None = None,
        hear: Hear | None = None,
        timeout: float,
    ) -> AsyncGenerator[ReasoningDelta | ReasoningEnd, None]:
        pause = self.seconds / len(self.words) if budget > 4 else 0
        async for item in super().reason(image, prompt, budget, objects=objects, hear=hear, timeout=timeout):
            await asyncio.sleep(pause if isinstance(item, ReasoningDelta) else 0)
            yield item


@asynccontextmanager
async def open_engines(settings: Settings, telemetry: Telemetry | None = None) -> AsyncIterator[OpenEngines]:
    with tempfile.TemporaryDirectory() as folder:
        vision = tiny_vision(Path(folder))
        yield OpenEngines(stand_in_engines(SlowMllm(), vision), None)


if __name__ == "__main__":
    SlowMllm.seconds = float(sys.argv.pop(1))
    with patch("server.running.open_engines", open_engines):
        main()
