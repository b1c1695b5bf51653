"""What a data set holds and what of it cannot be used: every picture is read once, none is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from engines.evaluation.datasets.annotated import AnnotatedPicture
from engines.evaluation.questions import DataSet, Fault, FaultyData

SHOWN = 20


@dataclass(slots=True)
class Inventory:
    """Counts of what was found. `instances` and `occluded` are None where a data set has no instances."""

    pictures: int = 0
    queries: int = 0
    by_type: Counter[str] = field(default_factory=Counter)
    without_target: int = 0
    targets: int = 0
    instances: int | None = None
    occluded: int | None = None
    faults: Counter[str] = field(default_factory=Counter)
    examples: list[Fault] = field(default_factory=list)


def take_stock(dataset: DataSet, on_picture: Callable[[], object] = lambda: None) -> Inventory:
    """Read a data set from end to end. `on_picture` is called after each picture."""
    stock = Inventory()
    instances: Callable[[str], AnnotatedPicture] | None = getattr(dataset, "annotated", None)
    if instances is not None:
        stock.instances = stock.occluded = 0
    for picture in dataset.pictures():
        reading = dataset.read(picture)
        stock.pictures += 1
        stock.queries += len(reading.questions)
        for question in reading.questions:
            stock.by_type[question.mask_type] += 1
            stock.targets += len(question.truths)
            stock.without_target += not question.truths
        stock.faults.update(fault.kind for fault in reading.faults)
        stock.examples += reading.faults[: SHOWN - len(stock.examples)]
        if instances is not None:
            _count_instances(stock, instances, picture)
        on_picture()
    return stock


def _count_instances(stock: Inventory, read: Callable[[str], AnnotatedPicture], picture: str) -> None:
    try:
        scene = read(picture)
    except FaultyData:
        return  # read() has told of it
    stock.instances = (stock.instances or 0) + len(scene.instances)
    stock.occluded = (stock.occluded or 0) + sum(each.occluded for each in scene.instances)


def as_text(stock: Inventory) -> str:
    """The inventory for a person to read."""
    types = ", ".join(f"{count} {name}" for name, count in sorted(stock.by_type.items()))
    lines = [f"pictures   {stock.pictures}", f"queries    {stock.queries}" + (f" ({types})" if types else "")]
    lines.append(f"targets    {stock.targets} ({stock.without_target} queries have none)")
    if stock.instances is not None:
        lines.append(f"instances  {stock.instances} ({stock.occluded} occluded by more than 5 %)")
    lines.append(f"faults     {sum(stock.faults.values())}")
    lines += [f"  {kind:18} {count}" for kind, count in stock.faults.most_common()]
    return "\n".join(lines + [f"  {fault.kind}: {fault}" for fault in stock.examples])
