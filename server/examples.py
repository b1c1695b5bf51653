"""Examples of requests and answers, for the OpenAPI description: one story, a green mug behind a yellow book."""

from __future__ import annotations

from typing import Any

from engines.errors import DeadlineExceeded
from engines.events import Rle
from server.errors import BY_ERROR
from server.problem_examples import examples

IMAGE_ID = "sha256:4c0f6a1d6f3d5a1b3f0a55a7a1c8d4f1be9f0f0f6f4d6e6f2b8c0de9a7b1c2d3"
IMAGE = {"id": IMAGE_ID, "width": 8, "height": 6}
PROMPT = "the whole green mug, even behind the book"
REASONING = "The green mug is at the centre. The yellow book covers part of it."
OPTIONS = {"prompt": PROMPT, "reasoning": "brief"}
EVERYTHING = {
    "prompt": PROMPT,
    "mask_type": "both",
    "reasoning": "full",
    "objects": 1,
    "include": ["reasoning", "heatmap", "union", "polygon", "png"],
    "coco": {"image_id": 42, "category_id": 7},
    "timeout_ms": 20000,
}
ONE_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="  # a PNG
)

AMODAL_RLE: Rle = {"size": [6, 8], "counts": "=4200000;"}
MODAL_RLE: Rle = {"size": [6, 8], "counts": "=42000a0"}
HIDDEN_RLE: Rle = {"size": [6, 8], "counts": "o04="}
DECISION = {"mask_type": "amodal", "confidence": 0.99, "source": "model"}
AMODAL = {
    "object": 0, "mask_type": "amodal", "rle": AMODAL_RLE, "bbox": [2.0, 1.0, 4.0, 4.0], "area": 16, "score": 0.93,
}  # fmt: skip
MODAL = {
    "object": 0, "mask_type": "modal", "rle": MODAL_RLE, "bbox": [2.0, 1.0, 3.0, 4.0], "area": 12, "score": 0.91,
}  # fmt: skip
HIDDEN = {"object": 0, "rle": HIDDEN_RLE, "fraction": 0.25}
UNION = {"mask_type": "amodal", "rle": AMODAL_RLE, "bbox": [2.0, 1.0, 4.0, 4.0], "area": 16}
HEATMAP = {"png_base64": ONE_PIXEL, "size": [1, 1]}
TIMINGS = {
    "queue": 0.1, "image": 3.2, "encode": 41.0, "ttft": 44.5, "reason": 120.3, "concentrate": 17.2,
    "decode": 26.1, "finish": 2.4, "ttfm": 169.1, "total": 170.4,
}  # fmt: skip
USAGE = {"prompt_tokens": 212, "reasoning_tokens": 17}
RESPONSE: dict[str, Any] = {
    "id": "seg_0c1d", "model": "r2sm-demo", "image": IMAGE, "reasoning": REASONING, "decision": DECISION,
    "masks": [AMODAL], "hidden": [], "heatmap": None, "timings_ms": TIMINGS, "usage": USAGE,
}  # fmt: skip
BOTH = {**RESPONSE, "masks": [MODAL, AMODAL], "hidden": [HIDDEN], "union": [UNION], "heatmap": HEATMAP}
NOTHING = {**RESPONSE, "masks": [], "reasoning": "There is no mug."}
COCO = [
    {
        "image_id": 42,
        "category_id": 7,
        "segmentation": AMODAL_RLE,
        "bbox": AMODAL["bbox"],
        "score": AMODAL["score"],
    }
]
[LATE] = (example["value"] for example in examples([BY_ERROR[DeadlineExceeded]]).values())
STORED = {**IMAGE, "expires_at": "2026-01-02T03:04:05Z"}
MODEL = {
    "id": "r2sm-demo", "object": "model", "grounder": "coprs",
    "mask_types": ["auto", "modal", "amodal", "both"], "reasoning_tokens": {"full": 128, "brief": 8},
    "vision": {"runtime": "openvino", "device": "CPU", "encoder_precision": "bf16", "decoder_precision": "fp32"},
}  # fmt: skip

BATCH_RESPONSE = {
    "results": [
        {"status": 200, "response": RESPONSE, "problem": None},
        {"status": 504, "response": None, "problem": LATE},
    ]
}

REQUESTS: dict[str, dict[str, Any]] = {
    "by id": {"image": {"id": IMAGE_ID}, **OPTIONS},
    "with the image": {"image": {"data": ONE_PIXEL}, **OPTIONS},
    "by URL, with everything": {"image": {"url": "https://images.example/photo.jpg"}, **EVERYTHING},
}
BATCH = {
    "image": {"id": IMAGE_ID},
    "requests": [OPTIONS, {"prompt": "the yellow book", "mask_type": "modal"}],
}


def _told(seq: int, ms: float, type: str, **content: Any) -> dict[str, Any]:
    return {"id": "seg_0c1d", "seq": seq, "ms": ms, "type": type, **content}


EVENTS: dict[str, dict[str, Any]] = {
    "accepted": _told(0, 0.0, "accepted", model="r2sm-demo", image=IMAGE),
    "reasoning.delta": _told(1, 41.3, "reasoning.delta", text="The green mug "),
    "mask.draft": _told(
        2,
        60.1,
        "mask.draft",
        number=0,
        object=0,
        mask_type="modal",
        rle=MODAL_RLE,
        bbox=MODAL["bbox"],
        area=MODAL["area"],
        reasoning_tokens=0,
    ),
    "decision": _told(9, 132.0, "decision", **DECISION, objects=1),
    "heatmap": _told(10, 176.2, "heatmap", object=0, mask_type="amodal", **HEATMAP),
    "mask": _told(11, 181.7, "mask", **AMODAL),
    "hidden": _told(12, 182.5, "hidden", **HIDDEN),
    "union": _told(13, 182.6, "union", **UNION),
    "done": _told(14, 183.0, "done", timings_ms=TIMINGS, usage=USAGE),
}
MESSAGES: dict[str, dict[str, Any]] = {
    "segment": {"type": "segment", "id": "a", **OPTIONS},
    "segment, image by id": {"type": "segment", "id": "b", **REQUESTS["by id"]},
    "cancel": {"type": "cancel", "id": "a"},
    "ping": {"type": "ping"},
}
