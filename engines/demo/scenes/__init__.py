"""Procedural tabletop scenes with exact modal and amodal masks."""

from __future__ import annotations

from engines.demo.scenes.render import render_scene
from engines.demo.scenes.scene import COLOURS, KINDS, TRAINING_SEEDS, Scene, SceneObject

__all__ = ["COLOURS", "KINDS", "TRAINING_SEEDS", "Scene", "SceneObject", "render_scene"]
