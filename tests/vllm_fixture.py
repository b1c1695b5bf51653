"""Session fixtures: real vLLM servers, started once, on the bundle that ships or on a tiny random model."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from engines.bundles import Bundle
from engines.mllm.answer import AnswerFormat
from engines.mllm.client import MllmClient
from engines.mllm.grammar import SpecialTokens
from engines.mllm.image import MllmImageConfig
from engines.mllm.launcher import VllmServers
from engines.mllm.tap.inbox import StatesInbox, open_inbox
from engines.mllm.vllm_config import VllmConfig
from engines.mllm.written import DecisionHead
from tests.tiny_model import IMAGE, build_tiny_model

START_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model directory and the two servers that serve it, or one that is tapped into `inbox`.

    `bundle` is None for the tiny random model.
    """

    path: Path
    answer: AnswerFormat
    image: MllmImageConfig
    servers: VllmServers
    bundle: Path | None
    inbox: StatesInbox | None = None

    @property
    def reason_url(self) -> str:
        return self.servers.reason_url

    @property
    def concentrate_url(self) -> str:
        return self.servers.concentrate_url

    def client(self) -> MllmClient:
        """A new client of the servers; use it as an async context manager."""
        tokens = SpecialTokens.load(self.path)
        head = DecisionHead.load(self.path, self.answer, tokens)
        others = () if self.inbox else (self.concentrate_url,)
        return MllmClient(self.answer, tokens, (self.reason_url,), others, head=head, inbox=self.inbox)


def demo_bundle() -> Path | None:
    """The bundle named by R2SM_BUNDLE, else the shipped one, else None."""
    shipped = Path(__file__).parents[1] / "engines" / "demo" / "bundle"
    path = Path(os.environ.get("R2SM_BUNDLE") or shipped)
    return path if (path / "bundle.json").exists() else None


CONFIG = VllmConfig(kv_cache_gib=0.25, mm_cache_gib=0.01, flags=("--enable-mm-embeds",))
"""Which read an image's pixels and its features."""


@pytest.fixture(scope="session")
async def served_model(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServedModel]:
    """Both servers, healthy and warm; about half a minute on two idle cores."""
    logs = tmp_path_factory.mktemp("vllm")
    bundle = demo_bundle()
    if bundle is None:
        path, answer, image = logs / "model", AnswerFormat(), IMAGE
        build_tiny_model(path)
    else:
        loaded = Bundle.load(bundle)
        path, answer, image = loaded.mllm_path, loaded.answer, loaded.mllm_image
    async with VllmServers(CONFIG, path, logs) as servers:
        await servers.wait_ready(START_SECONDS)
        yield ServedModel(path, answer, image, servers, bundle)


@pytest.fixture(scope="session")
async def tapped_model(
    served_model: ServedModel, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServedModel]:
    """The same model on one server that sends its hidden states, and guesses what it will write."""
    path, logs = served_model.path, tmp_path_factory.mktemp("tapped")
    guessing = CONFIG.model_copy(update={"speculative_tokens": 8})
    async with (
        open_inbox() as inbox,
        VllmServers(guessing, path, logs, ("reason",), inbox=inbox.address) as servers,
    ):
        await servers.wait_ready(START_SECONDS)
        yield replace(served_model, servers=servers, inbox=inbox)
