"""What the chat model is told, after R2SM's recipe: five modal and five amodal queries a picture."""

from __future__ import annotations

from collections.abc import Sequence

from engines.evaluation.datasets.annotated import AnnotatedPicture, Instance
from engines.evaluation.metrics import box_of

PER_TYPE = 5

TASK = """You write queries for a segmentation benchmark. The picture shows these objects:
{instances}

Write {count} modal and {count} amodal queries about them.
- A modal query describes one or several objects by looks, place, relation or use, and says nothing about hidden parts.
- An amodal query means at least one object marked as occluded, says that it is partly hidden, and may ask for its
  complete shape.
- Every object marked as occluded is meant by at least one amodal query.
- A query never mentions ids, boxes or numbers of pixels.
- An answer names all objects that the query means, and no other, as
  "instance id is ID, class name is NAME; instance id is ID, class name is NAME".

Answer with JSON only: {{"modal": [{{"query": "...", "answer": "..."}}, ...], "amodal": [{{"query": "...", "answer":
"..."}}, ...]}}"""

AGAIN = """Some of the queries could not be used:
{dropped}
Still wanted: {modal} modal and {amodal} amodal queries{uncovered}.
Answer with JSON as before, with new queries only."""


def describe(instance: Instance) -> str:
    """One line about an object, without its mask."""
    x, y, width, height = (round(side) for side in box_of(instance.modal) or (0, 0, 0, 0))
    hidden = f", occluded ({instance.hidden:.0%} of it is hidden)" if instance.occluded else ""
    return f"- instance id is {instance.id}, class name is {instance.name}, box [{x}, {y}, {width}, {height}]{hidden}"


def first_words(scene: AnnotatedPicture) -> str:
    """The task for one picture."""
    return TASK.format(instances="\n".join(map(describe, scene.instances)), count=PER_TYPE)


def further_words(dropped: Sequence[str], modal: int, amodal: int, uncovered: Sequence[Instance]) -> str:
    """What to say after an answer that was not enough."""
    named = ", ".join(f"instance {each.id} ({each.name})" for each in uncovered)
    told = f"; the amodal ones must also mean {named}" if named else ""
    reasons = "\n".join(f"- {reason}" for reason in dropped) or "- there were too few"
    return AGAIN.format(dropped=reasons, modal=modal, amodal=amodal, uncovered=told)
