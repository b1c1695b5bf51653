"""A local vLLM as the chat endpoint that writes queries: whatever its model says is read, judged and logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engines.demo.scenes import render_scene
from engines.evaluation.datasets.annotated import AnnotatedPicture, Instance
from engines.evaluation.datasets.demo import encode_png
from engines.evaluation.datasets.files import Picture
from engines.evaluation.queries import ChatEndpoint, ChatFailed, Export, Origin, generate
from engines.evaluation.queries.recipe import PER_TYPE

if TYPE_CHECKING:
    from tests.vllm_fixture import ServedModel

SEED = 20_260_001


@pytest.mark.vllm
async def test_a_local_vllm_is_asked_with_the_picture_and_logged(
    served_model: ServedModel, tmp_path: Path
) -> None:
    scene = render_scene(SEED)
    height, width, _ = scene.image.shape
    instances = [
        Instance(place, each.name, each.modal, each.amodal) for place, each in enumerate(scene.objects)
    ]
    shown = AnnotatedPicture(
        "1", "1.png", Picture(encode_png(scene.image), (height, width)), tuple(instances)
    )
    chat = ChatEndpoint(f"{served_model.reason_url}/v1", "mllm")
    wrong = ChatEndpoint(f"{served_model.reason_url}/v1", "another", pauses=())
    try:
        asked = await generate(shown, chat, attempts=1)
        with pytest.raises(ChatFailed, match="404"):
            await generate(shown, wrong, attempts=1)
    finally:
        await chat.close()
        await wrong.close()
    [attempt] = asked.attempts
    assert attempt.answered
    # The demo's model was not taught to write queries: what it says is dropped, and the reason is kept.
    assert attempt.kept == len(asked.drafts)
    assert attempt.dropped or attempt.kept == 2 * PER_TYPE
    export = Export(tmp_path, Origin(data=tmp_path, layout="demo", model="mllm"))
    export.add(shown, asked)
    [line] = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["attempts"][0]["answered"] == attempt.answered
