"""A scripted language model beside a real, tiny vision model, put together as the services want them."""

from __future__ import annotations

from engines.embeddings import EncoderIdentity
from engines.images import ImagePreparer
from engines.mllm.answer import AnswerFormat
from engines.mllm.image import MllmImageConfig
from engines.vision.runtimes.base import VisionRuntime
from server.services import Engines
from tests.stand_ins import TINY_VISION, ScriptedMllm


def stand_in_engines(mllm: ScriptedMllm, vision: VisionRuntime, encoder: str = "tiny") -> Engines:
    """Engines named "tiny"; `encoder` stands for the digest of the vision part."""
    preparer = ImagePreparer(MllmImageConfig(), TINY_VISION.image_size)
    identity = EncoderIdentity.of(encoder, vision)
    return Engines("tiny", "coprs", AnswerFormat(), 0.0, preparer, mllm, vision, identity)
