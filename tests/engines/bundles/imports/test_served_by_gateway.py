"""Every imported system behind the server itself: it starts the vLLM servers it needs, and no other, and answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from engines.bundles import Bundle
from engines.bundles.imports.converseg import import_converseg
from engines.bundles.imports.coprs import import_coprs
from engines.bundles.imports.egm import import_egm
from engines.mllm.vllm_config import VllmConfig
from engines.pipeline import NO_AMODAL
from engines.request import ONLY_MODAL
from engines.vision.masks import decode
from server.client import SegmentClient, SegmentFailed
from server.running import run_gateway
from server.settings import Settings
from tests.engines.bundles.imports.published_converseg import build_converseg
from tests.server.conftest import photo
from tests.tiny_qwen3 import build_tiny_qwen3

pytestmark = pytest.mark.vllm

START_SECONDS = 400.0
SAID = "the part of the red mug that can be seen"


@dataclass(frozen=True)
class Expected:
    """What the API must tell of one system."""

    roles: set[str]
    mask_types: list[str]
    source: str
    warnings: dict[str, list[str]]  # by what was decided


EXPECTED = {
    "coprs": Expected(
        {"reason", "concentrate"},
        ["auto", "modal", "amodal", "both"],
        "question",
        {"modal": [], "amodal": [NO_AMODAL]},
    ),
    "egm": Expected({"reason"}, ["auto", "modal", "amodal", "both"], "question", {"modal": [], "amodal": []}),
    "converseg": Expected({"concentrate"}, ["auto", "modal"], "grounder", {"modal": [ONLY_MODAL]}),
}


@pytest.fixture
def bundle(system: str, shards: Path, base: Path, sam_file: Path, tmp_path: Path) -> Bundle:
    out = tmp_path / "bundle"
    if system == "coprs":
        return import_coprs(shards, str(base), str(sam_file), out, progress=lambda _: None)
    if system == "egm":
        build_tiny_qwen3(tmp_path / "EGM-4B")
        return import_egm(
            str(tmp_path / "EGM-4B"), str(sam_file), out, max_pixels=256 * 256, progress=lambda _: None
        )
    made = build_converseg(base, tmp_path / "ConverSeg-Net-3B")
    return import_converseg(str(made.folder), str(made.base), out, progress=lambda _: None)


@pytest.mark.parametrize("system", EXPECTED)
async def test_a_request_ends_in_a_mask(bundle: Bundle, system: str, tmp_path: Path) -> None:
    expected = EXPECTED[system]
    settings = Settings(
        bundle=bundle.path,
        port=0,
        vision="torch",
        log_dir=tmp_path / "logs",
        vllm=VllmConfig(compile=False, kv_cache_gib=0.1, mm_cache_gib=0.01),
    )
    async with run_gateway(settings) as gateway, SegmentClient(gateway.url) as client:
        assert gateway.servers is not None
        assert set(gateway.servers.urls) == expected.roles
        await gateway.wait_ready(START_SECONDS)
        async with httpx.AsyncClient(base_url=gateway.url) as http:
            [model] = (await http.get("/v1/models")).json()["data"]
            assert (model["grounder"], model["mask_types"]) == (system, expected.mask_types)
            picture = photo((320, 200))
            answer = await client.segment(picture, SAID, objects=1, max_reasoning_tokens=8)
            assert answer.decision.source == expected.source
            assert answer.warnings == expected.warnings[answer.decision.mask_type]
            [mask] = answer.masks
            assert 0 < np.mean(decode(mask.rle)) < 1
            assert decode(mask.rle).shape == (200, 320)
            events = [
                event async for event in client.stream(picture, SAID, objects=1, max_reasoning_tokens=8)
            ]
            types = [event.type for event in events]
            assert types[0] == "accepted"
            assert types[-3:] == ["decision", "mask", "done"]
            told = (await http.get("/metrics")).text
            [hits] = [
                float(line.rpartition(" ")[2])
                for line in told.splitlines()
                if line.startswith("r2sm_cache_hits_total{") and '"embedding"' in line and '"memory"' in line
            ]
            assert hits >= 1, "the second request encoded the image again"
        if "amodal" not in expected.mask_types:
            for asked in ("amodal", "both"):
                with pytest.raises(SegmentFailed, match=f"mask_type: {asked} is not to be had") as refused:
                    await client.segment(picture, SAID, mask_type=asked)
                assert refused.value.status == 422
