"""Deadline: what runs inside ends with it, and only with it."""

from __future__ import annotations

import asyncio

import pytest

from engines.deadline import Deadline
from engines.errors import DeadlineExceeded


async def test_what_runs_inside_ends_with_it() -> None:
    with pytest.raises(DeadlineExceeded, match="not done within 10 ms"):
        async with Deadline.after(0.01).bound():
            await asyncio.Event().wait()


async def test_another_time_out_is_not_its_own() -> None:
    with pytest.raises(TimeoutError):
        async with Deadline.after(60).bound():
            raise TimeoutError
