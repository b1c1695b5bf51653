"""Makes ``import torchvision`` work beside a torch it was not built for; the set-up copies this into .venv.

torchvision registers fake implementations of ``nms`` and ``qnms`` while it is imported. That fails where its
compiled library, which defines the two operators, does not fit the installed torch. Nothing in this project
calls them, so their schemas are all that is missing: they are defined right before torchvision itself runs.
Importing this module costs next to nothing; torch is loaded only when torchvision is.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing and collections.abc would slow every start of Python down
    from collections.abc import Sequence
    from types import ModuleType

PACKAGE = "torchvision"
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_libraries: list[object] = []  # an operator lives as long as the library object that defined it


class SchemasFirst(SourceFileLoader):
    """Runs torchvision's package after its two operators have their schemas."""

    def exec_module(self, module: ModuleType) -> None:
        """Define the schemas, once a process, then run the module as usual."""
        if not _libraries:
            import torch

            library = torch.library.Library(PACKAGE, "FRAGMENT")
            for schema in SCHEMAS:
                library.define(schema)
            _libraries.append(library)
        super().exec_module(module)


class TorchvisionFinder:
    """Finds torchvision where Python would, with `SchemasFirst` as its loader."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of torchvision; None for any other module."""
        if name != PACKAGE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = SchemasFirst(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Put the finder in front of the others."""
    sys.meta_path.insert(0, TorchvisionFinder)
