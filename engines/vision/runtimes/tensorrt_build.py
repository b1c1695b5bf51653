"""Compiles an exported graph with TensorRT 10.13 or newer, strongly typed: the graph says where bfloat16 is used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorrt as trt

from engines.errors import GraphRejected
from engines.vision.buckets import POINTS, Profile

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called while a graph is compiled with the phase, the steps of it that are done, and how many it has."""

_LEVELS = {
    trt.ILogger.Severity.INTERNAL_ERROR: logging.CRITICAL,
    trt.ILogger.Severity.ERROR: logging.ERROR,
    trt.ILogger.Severity.WARNING: logging.WARNING,
    trt.ILogger.Severity.INFO: logging.DEBUG,  # several lines a layer
    trt.ILogger.Severity.VERBOSE: logging.NOTSET,
}


@dataclass(frozen=True, slots=True)
class Built:
    """A compiled engine as bytes; `timings` is the timing cache with what this build measured; `layers` were parsed."""

    plan: bytes
    timings: bytes
    layers: int


class Log(trt.ILogger):
    """TensorRT's messages, in this module's log; `errors` keeps what went wrong, `notes` what it said of memory."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []
        self.notes: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Called by TensorRT, from threads of its own too."""
        level = _LEVELS[severity]
        if level >= logging.ERROR:
            self.errors.append(msg)
        if "Memory" in msg:
            self.notes.append(msg)
        if level:
            logger.log(level, "TensorRT: %s", msg)


class _Monitor(trt.IProgressMonitor):
    def __init__(self, progress: Progress) -> None:
        trt.IProgressMonitor.__init__(self)
        self._progress = progress
        self._steps: dict[str, int] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        self._steps[phase_name] = num_steps
        self._progress(phase_name, 0, num_steps)

    def step_complete(self, phase_name: str, step: int) -> bool:
        self._progress(phase_name, step + 1, self._steps[phase_name])
        return True

    def phase_finish(self, phase_name: str) -> None:
        self._steps.pop(phase_name, None)


def build(
    graph: Path,
    profiles: Sequence[Profile],
    *,
    tf32: bool,
    timings: bytes = b"",
    progress: Progress = lambda phase, done, steps: None,
    log: Log | None = None,
) -> Built:
    """Compile one graph with an optimisation profile for each of `profiles`.

    Args:
        graph: an exported graph; every input's first axis is its batch.
        profiles: the batch sizes to compile it for.
        tf32: whether what is float32 in the graph may be multiplied in TensorFloat-32.
        timings: a timing cache of earlier builds on this machine; a useless one is replaced.
        progress: see `Progress`.
        log: where TensorRT's messages go.

    Raises:
        GraphRejected: the graph is damaged, or TensorRT cannot compile it; the message says what it said.
    """
    log = log or Log()
    builder = trt.Builder(log)
    network = builder.create_network(_strongly_typed())
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        faults = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise GraphRejected(f"{graph}: TensorRT cannot read it: {_told(faults or log.errors)}")
    config = builder.create_builder_config()
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    for profile in profiles:
        config.add_optimization_profile(_shapes(builder, network, profile))
    config.progress_monitor = _Monitor(progress)
    cache = config.create_timing_cache(timings)
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise GraphRejected(f"{graph}: TensorRT cannot compile it: {_told(log.errors)}")
    return Built(bytes(plan), bytes(cache.serialize()), network.num_layers)


def _strongly_typed() -> int:
    """The flags of a network whose types are the graph's; from version 11 on there is no other kind."""
    if int(trt.__version__.split(".")[0]) >= 11:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _shapes(
    builder: trt.Builder, network: trt.INetworkDefinition, profile: Profile
) -> trt.IOptimizationProfile:
    """`profile` for the first axis of every input; other axes that the graph leaves open are those of points."""
    shapes = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        first, *rest = (tensor.shape[axis] for axis in range(len(tensor.shape)))
        if first != -1:
            continue
        least, best, most = (
            (batch, *(points if side == -1 else side for side in rest))
            for batch, points in zip(_sizes(profile), _sizes(POINTS), strict=True)
        )
        shapes.set_shape(tensor.name, least, best, most)
    return shapes


def _sizes(profile: Profile) -> tuple[int, int, int]:
    return profile.least, profile.best, profile.most


def _told(faults: list[str]) -> str:
    return "; ".join(faults[:3]) or "it does not say why"
