"""The language of the demo bundle: prompts about procedural scenes, and their true answers.

`ask(scene, rng, count)` writes queries. Each has a prompt, whether the visible part (modal) or the complete
shape (amodal) is asked for, the objects meant, and a short reasoning text that is true of the scene.

How a prompt comes about, one module each:

    facts       what the scene makes true: places, colours, who covers whom
    references  descriptions of things, and the resolver that says which things they clearly mean
    proposals   draws descriptions that resolve; absences draws things that are not there
    phrases     words for a description, as a noun phrase with room for adjectives and clauses
    carriers    markers of the complete shape or of the visible part, wherever a sentence can carry one
    prompts     sentences around them; surface then spells them as people type
    sought      a description said again in few words, as the reasoning begins with it
    reasoning   the true account: "<what is sought>. <all there is, with marks>. The red mug is at the left. ..."
    straying    lists with slips, from which a model learns to go on after its own

The rules that decide. Amodal is what says that the object is partly hidden ("the half-hidden mug") or that its
complete shape is wanted ("the whole mug", "even behind the box", "not only what is visible", "do not leave out
the hidden parts"). Modal is everything else: prompts that say nothing ("the mug behind the box" is a mere
place), and those that ask for what is visible ("without the hidden parts", "the whole visible part", "only what
shows of the half-hidden mug"). Where a prompt says both that a thing is hidden and that only the visible part
is wanted, the wish counts. "Whole", "full" and the like said of the picture or of the day mean nothing.

The reasoning's vocabulary is closed but for the nouns of things that are not there. It begins with which part
(`WANTED`) of what is sought, names every target literally as "<colour> <kind>", places by a 3x3 grid ("at the
top left"), and speaks of covering where 3 % or more of a target is covered.
"""

from __future__ import annotations

from engines.demo.language.facts import Scene, SceneObject
from engines.demo.language.proposals import Form
from engines.demo.language.queries import FORMS, Query, ask, corpus
from engines.demo.language.reasoning import WANTED, Account, Mark, MaskType
from engines.demo.language.survey import Survey, survey

__all__ = [
    "FORMS",
    "WANTED",
    "Account",
    "Form",
    "Mark",
    "MaskType",
    "Query",
    "Scene",
    "SceneObject",
    "Survey",
    "ask",
    "corpus",
    "survey",
]
