"""The stations where requests queue, as simpy processes: a gateway, a reason server, a concentrate server."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from simpy import Environment, Event, Resource

from engines.capacity.stages import StageTimes

Steps = Generator[Event, Any, None]
MS = 1e-3


class Machine:
    """Where work is done: alone, or on cores that everything on the machine shares."""

    def __init__(self, env: Environment, cores: int | None) -> None:
        self.env = env
        self._cores = Resource(env, cores) if cores else None

    def work(self, seconds: float) -> Steps:
        """Be busy for so long."""
        if self._cores is None:
            yield self.env.timeout(seconds)
            return
        with self._cores.request() as core:
            yield core
            yield self.env.timeout(seconds)


@dataclass(slots=True)
class _Sequence:
    """What a batch works on: a reading first, which gives a token, too, then one token a step."""

    reading: float
    tokens: int
    done: Event


class ReasonServer:
    """Continuous batching: whoever waits is read at the next step; a step lasts longer the more there are."""

    def __init__(self, machine: Machine, times: StageTimes) -> None:
        self._machine, self._times = machine, times
        self._waiting: deque[_Sequence] = deque()
        self._active: list[_Sequence] = []
        self._wake = machine.env.event()
        machine.env.process(self._run())

    def reason(self, tokens: int) -> Event:
        """Read the prompt and write so many tokens."""
        sequence = _Sequence(self._times.first_token_ms * MS, tokens, self._machine.env.event())
        self._waiting.append(sequence)
        if not self._wake.triggered:
            self._wake.succeed()
        return sequence.done

    def _run(self) -> Steps:
        while True:
            if not (self._waiting or self._active):
                self._wake = self._machine.env.event()
                yield self._wake
            yield from self._machine.work(self._step() + self._admit())
            for sequence in self._active:
                sequence.tokens -= 1
                if sequence.tokens <= 0:
                    sequence.done.succeed()
            self._active = [sequence for sequence in self._active if sequence.tokens > 0]

    def _admit(self) -> float:
        reading = 0.0
        while self._waiting and len(self._active) < self._times.max_sequences:
            sequence = self._waiting.popleft()
            self._active.append(sequence)
            reading += sequence.reading
        return reading

    def _step(self) -> float:
        writing = sum(sequence.tokens > 0 for sequence in self._active)
        if not writing:
            return 0.0
        return (self._times.step_ms + self._times.step_ms_per_sequence * (writing - 1)) * MS


class ConcentrateServer:
    """One reading after the other."""

    def __init__(self, machine: Machine, times: StageTimes) -> None:
        self._machine, self._times = machine, times
        self._turn = Resource(machine.env)

    def warm(self) -> Steps:
        """Read image and prompt ahead."""
        yield from self._read(self._times.warm_ms)

    def concentrate(self, objects: int) -> Steps:
        """The decision's probability and the vectors of so many objects."""
        times = self._times
        others = times.concentrate_object_ms * (objects - 1)
        yield from self._read(times.decide_ms + times.concentrate_ms + others)

    def _read(self, milliseconds: float) -> Steps:
        with self._turn.request() as turn:
            yield turn
            yield from self._machine.work(milliseconds * MS)


class Gateway:
    """One interpreter, one thread that encodes images, one that decodes whatever masks wait, in batches."""

    def __init__(self, machine: Machine, times: StageTimes) -> None:
        self._machine, self._times = machine, times
        self._interpreter, self._encoder = Resource(machine.env), Resource(machine.env)
        self._masks: deque[Event] = deque()
        self._wake = machine.env.event()
        machine.env.process(self._decode())

    def read(self) -> Steps:
        """Decode the image file."""
        yield from self._in_turn(self._interpreter, self._times.image_ms)

    def encode(self) -> Steps:
        """The image embedding."""
        yield from self._in_turn(self._encoder, self._times.encode_ms)

    def masks(self, objects: int) -> Steps:
        """Decode the masks of so many objects, and finish them."""
        decoded = [self._machine.env.event() for _ in range(objects)]
        self._masks.extend(decoded)
        if not self._wake.triggered:
            self._wake.succeed()
        yield self._machine.env.all_of(decoded)
        yield from self._in_turn(self._interpreter, self._times.finish_ms)

    def _in_turn(self, resource: Resource, milliseconds: float) -> Steps:
        with resource.request() as turn:
            yield turn
            yield from self._machine.work(milliseconds * MS)

    def _decode(self) -> Steps:
        while True:
            if not self._masks:
                self._wake = self._machine.env.event()
                yield self._wake
            size = min(len(self._masks), self._times.decode_batch)
            batch = [self._masks.popleft() for _ in range(size)]
            yield from self._machine.work(
                (self._times.decode_ms + self._times.decode_object_ms * (size - 1)) * MS
            )
            for mask in batch:
                mask.succeed()
