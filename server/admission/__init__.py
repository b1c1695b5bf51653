"""Admission: who asks, how often they may, and when their work is begun, all before a body is read."""

from __future__ import annotations

from server.admission.callers import Caller, Callers
from server.admission.gate import Admission
from server.admission.keys import KeyRing, KeysInvalid, Priority
from server.admission.limits import RateLimits

__all__ = ["Admission", "Caller", "Callers", "KeyRing", "KeysInvalid", "Priority", "RateLimits"]
