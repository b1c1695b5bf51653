"""The table of problems covers every engine error, and tells clients what they may know."""

from __future__ import annotations

import pytest

from engines import errors
from engines.errors import (
    CheckpointError,
    EngineError,
    ImageRejected,
    InvalidInput,
    MllmUnavailable,
    Overloaded,
)
from server.errors import BY_ERROR, INTERNAL, as_response, faults_of, kind_of, problem
from server.schemas import FieldFault

ENGINE_ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, EngineError) and kind is not CheckpointError
]
"""All that a request can meet; checkpoints are imported before anything is served."""


@pytest.mark.parametrize("kind", ENGINE_ERRORS)
def test_every_engine_error_has_a_row(kind: type[EngineError]) -> None:
    assert kind in BY_ERROR or issubclass(kind, ImageRejected)


def test_types_are_distinct_and_statuses_fit() -> None:
    kinds = set(BY_ERROR.values())
    assert len({kind.slug for kind in kinds}) == len(kinds)
    assert all(400 <= kind.status <= 504 for kind in kinds)


def test_an_unknown_error_is_internal_and_a_new_subclass_takes_its_parents_row() -> None:
    class Melted(MllmUnavailable):
        pass

    assert kind_of(ZeroDivisionError()) is INTERNAL
    assert kind_of(Melted("hot")) is BY_ERROR[MllmUnavailable]


@pytest.mark.parametrize(
    ("reason", "slug", "status"),
    [("truncated", "image-truncated", 422), ("too_many_bytes", "image-too-many-bytes", 413)],
)
def test_images_are_refused_by_their_reason(reason: str, slug: str, status: int) -> None:
    kind = kind_of(ImageRejected(reason, "no"))
    assert (kind.slug, kind.status) == (slug, status)


def test_fields_at_fault() -> None:
    assert faults_of(InvalidInput("prompt: too long")) == [FieldFault(field="prompt", message="too long")]
    assert faults_of(InvalidInput("something else")) == []
    assert faults_of(ImageRejected("animated", "it moves")) == [FieldFault(field="image", message="it moves")]
    assert faults_of(Overloaded("busy")) == []


def test_retry_after_is_whole_seconds_and_rounded_up() -> None:
    document = problem(BY_ERROR[Overloaded], "busy")
    assert as_response(document, 0.2).headers["retry-after"] == "1"
    assert "retry-after" not in as_response(document).headers
