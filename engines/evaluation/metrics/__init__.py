"""The figures of an evaluation, each a plain function of masks, boxes, decisions or scores."""

from __future__ import annotations

from engines.evaluation.metrics.boundaries import boundary, boundary_overlap
from engines.evaluation.metrics.boxes import Box, box_iou, box_of
from engines.evaluation.metrics.decisions import (
    Bin,
    Calibration,
    Decision,
    calibration,
    confusion,
)
from engines.evaluation.metrics.instances import InstanceScores, Query, score_instances
from engines.evaluation.metrics.intervals import Interval, ratio_interval
from engines.evaluation.metrics.overlaps import (
    Mask,
    Overlap,
    ciou,
    fuse,
    giou,
    instance_ious,
    mean,
    overlap,
    percentile,
)
from engines.evaluation.metrics.relations import Relation, relate

__all__ = [
    "Bin",
    "Box",
    "Calibration",
    "Decision",
    "InstanceScores",
    "Interval",
    "Mask",
    "Overlap",
    "Query",
    "Relation",
    "boundary",
    "boundary_overlap",
    "box_iou",
    "box_of",
    "calibration",
    "ciou",
    "confusion",
    "fuse",
    "giou",
    "instance_ious",
    "mean",
    "overlap",
    "percentile",
    "ratio_interval",
    "relate",
    "score_instances",
]
