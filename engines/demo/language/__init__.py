"""The language of the demo bundle: prompts about procedural scenes, and their true answers.

`ask(scene, rng, count)` writes queries. Each has a prompt, whether the visible part (modal) or the complete shape
(amodal) is asked for, the objects meant, and a short reasoning text that is true of the scene.
"""

from __future__ import annotations

from engines.demo.language.facts import Scene, SceneObject
from engines.demo.language.proposals import Form
from engines.demo.language.queries import FORMS, Query, ask, corpus
from engines.demo.language.reasoning import WANTED, MaskType

__all__ = ["FORMS", "WANTED", "Form", "MaskType", "Query", "Scene", "SceneObject", "ask", "corpus"]
