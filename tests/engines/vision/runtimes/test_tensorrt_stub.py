"""The stub that mypy reads for TensorRT against the real bindings, where they can be downloaded."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.vision.runtimes import default_cache_dir
from tests.nvidia import names
from tests.nvidia.libraries import Unavailable, bindings_alone

STUB = Path(__file__).parents[3] / "typings" / "tensorrt" / "__init__.pyi"
ONLY_IN_C = {"IHostMemory.__buffer__"}  # the buffer protocol has no name before Python 3.12


@pytest.fixture(scope="module")
def real() -> dict[str, str]:
    """What the bindings offer, with its documentation."""
    try:
        libraries = bindings_alone(default_cache_dir().parent / "nvidia")
    except Unavailable as error:
        pytest.skip(f"the stub was not compared with TensorRT's bindings: {error}")
    done = subprocess.run(
        [sys.executable, names.__file__],
        env=libraries.environment | {"PYTHONPATH": str(libraries.bindings)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def declared(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, list[str] | None]]:
    """Every name of the stub, with its parameters if it is a function."""
    for node in body:
        match node:
            case ast.ClassDef(name=name):
                yield f"{prefix}{name}", None
                yield from declared(node.body, f"{prefix}{name}.")
            case ast.FunctionDef(name=name):
                is_property = any(isinstance(one, ast.Name) for one in node.decorator_list)
                yield f"{prefix}{name}", None if is_property else [arg.arg for arg in node.args.args[1:]]
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                yield f"{prefix}{name}", None


def test_every_name_and_parameter_is_there(real: dict[str, str]) -> None:
    stub = dict(declared(ast.parse(STUB.read_text(encoding="utf-8")).body))
    assert len(stub) > 80
    assert [name for name in stub if name not in real and name not in ONLY_IN_C] == []
    for name, parameters in stub.items():
        documented = re.findall(rf"\b{name.split('.')[-1]}\((.*?)\) ->", real.get(name, ""))
        if not parameters or not documented:
            continue
        offered = [re.findall(r"(\w+):", text)[1:] for text in documented]
        assert any(parameters == known[: len(parameters)] for known in offered), (name, offered)
