"""What goes over the wire: requests (strict), responses and problem documents."""

from __future__ import annotations

from server.schemas.request import (
    BatchBody,
    CocoIds,
    Extra,
    ImageSource,
    SegmentBody,
    SegmentOptions,
)
from server.schemas.response import (
    BatchResponse,
    BatchResult,
    CocoResult,
    CocoResults,
    DecisionInfo,
    DraftInfo,
    FieldFault,
    HeatmapInfo,
    HiddenInfo,
    ImageInfo,
    Live,
    MaskInfo,
    ModelInfo,
    ModelList,
    Problem,
    Ready,
    SegmentResponse,
    StoredImageInfo,
    UnionInfo,
    UsageInfo,
)
from server.schemas.strict import RequestModel
from server.schemas.visual import PointPrompt

__all__ = [
    "BatchBody",
    "BatchResponse",
    "BatchResult",
    "CocoIds",
    "CocoResult",
    "CocoResults",
    "DecisionInfo",
    "DraftInfo",
    "Extra",
    "FieldFault",
    "HeatmapInfo",
    "HiddenInfo",
    "ImageInfo",
    "ImageSource",
    "Live",
    "MaskInfo",
    "ModelInfo",
    "ModelList",
    "PointPrompt",
    "Problem",
    "Ready",
    "RequestModel",
    "SegmentBody",
    "SegmentOptions",
    "SegmentResponse",
    "StoredImageInfo",
    "UnionInfo",
    "UsageInfo",
]
