"""Writes tiny data sets in the layouts that their authors publish: one picture of 6 × 8 pixels, two halves."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engines.evaluation.metrics import Mask
from engines.vision.masks import encode

SHAPE = (6, 8)
LEFT = [0, 0, 4, 0, 4, 6, 0, 6]
RIGHT = [4, 0, 8, 0, 8, 6, 4, 6]


def left() -> Mask:
    """The left half of the picture."""
    mask = np.zeros(SHAPE, dtype=np.bool_)
    mask[:, :4] = True
    return mask


def png(shape: tuple[int, int] = SHAPE) -> bytes:
    """A grey picture."""
    buffer = io.BytesIO()
    Image.new("RGB", shape[::-1], (90, 90, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def write_json(path: Path, content: Any) -> Path:
    """Write a JSON file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def image(root: Path, name: str, shape: tuple[int, int] = SHAPE) -> None:
    """Write a picture, with the folders above it."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(shape))


def coco(root: Path, **changes: Any) -> Path:
    """A COCO data set: a left half, a crowd in the right one's uppermost row."""
    image(root, "val2017/1.png")
    crowd = np.zeros(SHAPE, dtype=np.bool_)
    crowd[0, 4:] = True
    runs = [24, *[1, 5] * 4]
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 6, "width": 8}],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 3, "segmentation": [LEFT], "iscrowd": 0},
            {
                "id": 6,
                "image_id": 1,
                "category_id": 3,
                "segmentation": {"size": [6, 8], "counts": runs},
                "iscrowd": 1,
            },
        ],
        "categories": [{"id": 3, "name": "cup"}],
    }
    write_json(root / "annotations/instances_val2017.json", {**content, **changes})
    return root


def cocoa_published(root: Path) -> Path:
    """COCOA as published: the whole picture is a box whose right half is hidden."""
    image(root, "val2014/a.png")
    visible = encode(left()).rle
    region = {"name": "box ", "order": 2, "occlude_rate": 0.5, "segmentation": [0, 0, 8, 0, 8, 6, 0, 6]}
    regions = [{"name": "mug", "order": 1, "segmentation": RIGHT}, {**region, "visible_mask": visible}]
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": 6, "width": 8}],
        "annotations": [{"id": 1, "image_id": 7, "regions": regions}],
    }
    write_json(root / "annotations/COCO_amodal_val2014.json", content)
    return root


def r2sm(root: Path, *queries: dict[str, Any], split: str = "", **instance: Any) -> Path:
    """R2SM with one cup whose right half is hidden, and the queries given."""
    image(root / split, "images/1.png")
    entry = {
        "id": 3,
        "image_id": 1,
        "category_id": 9,
        "polygon": [[0, 0, 8, 0, 8, 6, 0, 6]],
        "is_occluded": 1,
    }
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 6, "width": 8}],
        "annotations": [{**entry, "visible_mask": encode(left()).rle, **instance}],
        "categories": [{"id": 9, "name": "cup"}],
    }
    write_json(root / split / "annotations.json", content)
    write_json(root / split / "queries.json", list(queries))
    return root


def query(text: str = "the cup", mask_type: str = "amodal", answer: Any = None) -> dict[str, Any]:
    """A query of R2SM."""
    told = "instance id is 3, class name is cup" if answer is None else answer
    return {"image_id": 1, "query": text, "mask_type": mask_type, "answer": told}


def refcoco(root: Path, **ref: Any) -> Path:
    """RefCOCO's pickle and instances, as its authors publish them, with two sentences about a cup."""
    image(root, "images/mscoco/images/train2014/COCO_1.png")
    folder = root / "refcoco"
    entry = {"id": 5, "image_id": 1, "category_id": 3, "segmentation": [LEFT], "bbox": [0.0, 0.0, 4.0, 6.0]}
    content = {
        "images": [{"id": 1, "file_name": "COCO_1.png", "height": 6, "width": 8}],
        "annotations": [entry],
        "categories": [{"id": 3, "name": "cup"}],
    }
    write_json(folder / "instances.json", content)
    sentences = [
        {"sent": "left cup", "sent_id": 1, "tokens": ["left", "cup"], "raw": "left cup"},
        {"sent": "cup at the left", "sent_id": 2, "tokens": [], "raw": ""},
    ]
    told = {"ref_id": 0, "ann_id": 5, "image_id": 1, "category_id": 3, "split": "val", "sentences": sentences}
    (folder / "refs(unc).p").write_bytes(pickle.dumps([{**told, **ref}], protocol=2))
    return folder


def reasonseg(root: Path, **changes: Any) -> Path:
    """ReasonSeg: a target with an ignored part inside it and a flag that means nothing."""
    image(root, "val/1.png")
    (root / "val/1.png").rename(root / "val/1.jpg")
    shapes = [
        {"label": "ignore", "points": [[0, 0], [1, 0], [1, 5], [0, 5]]},
        {"label": "target", "points": [[0, 0], [3, 0], [3, 5], [0, 5]]},
        {"label": "flag", "points": [[0, 0], [7, 0], [7, 5]]},
    ]
    told = {"text": ["what holds the tea", "tea holder"], "is_sentence": True, "shapes": shapes}
    write_json(root / "val/1.json", {**told, **changes})
    return root


def converseg(root: Path, **item: Any) -> Path:
    """ConverSeg's items.json with one PNG mask."""
    image(root, "images/1.png")
    (root / "masks").mkdir(exist_ok=True)
    Image.fromarray(left().astype(np.uint8) * 255).save(root / "masks/1.png")
    told = {"id": "0001", "image": "images/1.png", "mask": "masks/1.png", "prompt": "the left-most one"}
    write_json(root / "items.json", {"dataset": "x", "count": 1, "items": [{**told, **item}]})
    return root
