"""Domain errors raised by the engines; the server turns them into problem documents.

EngineError
├── InvalidInput          the caller's fault: the request cannot be served as it is
│   └── ImageRejected     the image cannot be used, `reason` says why
├── BundleError           a bundle does not fit its manifest
├── CheckpointError       a published checkpoint cannot be imported
├── BackendUnavailable    a library or device that was asked for is missing
├── MllmUnavailable       a vLLM server is away or failed; worth trying again
├── VisionFailed          the vision runtime failed on this item
├── GraphRejected         an exported graph is damaged, or a builder cannot compile it
├── EngineRefused         a compiled engine is not this machine's, or strays from the reference
├── CacheFailed           the vision cache cannot be written: a full disk, for one
├── Overloaded            a bounded queue is full; worth trying again
└── DeadlineExceeded      the request ran out of time
"""

from __future__ import annotations

from collections.abc import Iterator


class EngineError(Exception):
    """Base of every error that an engine raises on purpose."""


class InvalidInput(EngineError):
    """The request cannot be served as it is; the message names the field and the fault."""


class ImageRejected(InvalidInput):
    """The image cannot be used.

    `reason` is a stable slug such as ``truncated`` or ``too_many_pixels``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BundleError(EngineError):
    """A bundle is missing a file, or a file does not fit the manifest; the message names it."""


class CheckpointError(EngineError):
    """A published checkpoint cannot be made into a bundle; the message names the file and the fault."""


class BackendUnavailable(EngineError):
    """A backend that was asked for is not installed or has no device; the message says what to install."""


class MllmUnavailable(EngineError):
    """A vLLM server cannot be reached, died or refused.

    `retry_after` is in seconds.
    """

    def __init__(self, message: str, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class VisionFailed(EngineError):
    """The vision runtime failed on this item."""


class GraphRejected(EngineError):
    """An exported graph is damaged, or a builder cannot compile it; the message names the file and the fault."""


class EngineRefused(EngineError):
    """A compiled engine is not this machine's, or strays too far from the reference; the message has the figures."""


class CacheFailed(EngineError):
    """The vision cache cannot be read or written; the message names the path and the fault."""


class Overloaded(EngineError):
    """A bounded queue is full. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(EngineError):
    """The request's deadline passed before it was done."""


def first_fault(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a task group, one raised on purpose if there is one."""
    leaves = list(_leaves(group))
    return next((leaf for leaf in leaves if isinstance(leaf, EngineError)), leaves[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
