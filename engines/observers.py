"""What the engines tell of their work to whoever wants to measure it: protocols, and observers that do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from engines.events import Event


class PipelineObserver(Protocol):
    """Hears of requests and batches; every call returns at once and raises nothing.

    All but `batch` come from within the task, and so the context variables, of the request they are about.
    """

    def asked(self, prompt: str) -> None:
        """A request begins."""
        ...

    def stage(self, name: str) -> AbstractContextManager[object]:
        """Entered around each stage of a request: ``image``, ``encode``, ``reason`` … Stages may overlap."""
        ...

    def took(self, name: str, seconds: float) -> None:
        """A stage has succeeded, or a mark (``queue``, ``ttft``, ``ttfm``, ``total``) was passed so long after the
        request came."""
        ...

    def told(self, event: Event) -> None:
        """A request's next event."""
        ...

    def batch(self, stage: str, size: int) -> None:
        """A batch of so many items is about to run."""
        ...


class MllmObserver(Protocol):
    """Hears how the vLLM servers are; every call returns at once and raises nothing."""

    def headers(self) -> Mapping[str, str]:
        """What to send along with a call that is about to be made."""
        ...

    def server(self, role: str, url: str, *, fit: bool, outstanding: int) -> None:
        """A server's state has changed: whether it may be asked, and how many calls it is working on."""
        ...

    def ejected(self, role: str, url: str) -> None:
        """A server is asked no longer, until a probe finds it well."""
        ...

    def retried(self, role: str) -> None:
        """A call that failed on one server is made again on another."""
        ...


class NoPipelineObserver:
    """Nobody measures."""

    def asked(self, prompt: str) -> None: ...

    def stage(self, name: str) -> AbstractContextManager[object]:
        return nullcontext()

    def took(self, name: str, seconds: float) -> None: ...

    def told(self, event: Event) -> None: ...

    def batch(self, stage: str, size: int) -> None: ...


class NoMllmObserver:
    """Nobody measures."""

    def headers(self) -> Mapping[str, str]:
        return {}

    def server(self, role: str, url: str, *, fit: bool, outstanding: int) -> None: ...

    def ejected(self, role: str, url: str) -> None: ...

    def retried(self, role: str) -> None: ...
