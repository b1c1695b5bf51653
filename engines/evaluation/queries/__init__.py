"""R2SM-style queries for one's own amodal annotations, asked of any OpenAI-compatible chat endpoint."""

from __future__ import annotations

from engines.evaluation.queries.chat import ChatEndpoint, ChatFailed
from engines.evaluation.queries.cleaning import Draft, Drafts, clean
from engines.evaluation.queries.export import Export, Origin
from engines.evaluation.queries.generate import Asked, Attempt, generate

__all__ = [
    "Asked",
    "Attempt",
    "ChatEndpoint",
    "ChatFailed",
    "Draft",
    "Drafts",
    "Export",
    "Origin",
    "clean",
    "generate",
]
