"""Makes ``.venv`` and installs the project as ``deploy/constraints-*.txt`` pin it; ``make .venv`` runs this.

Needs Python 3.11 or newer with pip, nothing else. A second run with nothing changed does nothing.

The CPU build of torch is on no general package index. pip is asked first as it is configured (an index, or a
folder of wheels in PIP_FIND_LINKS); where that has none, name PyTorch's CPU index in R2SM_TORCH_INDEX.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed.sha256"
MADE_FOR = VENV / "extra"
CONSTRAINTS = {extra: ROOT / "deploy" / f"constraints-{extra}.txt" for extra in ("cpu", "gpu")}
SHIM_SOURCE = ROOT / "deploy" / "torchvision_ops.py"
SHIM = "r2sm_torchvision_ops"
UNUSED = (
    "torchaudio",
    "torchcodec",
)  # vLLM's CPU package asks for them; their builds on PyPI do not fit its torch
MISSING_OPERATOR = "operator torchvision::nms does not exist"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--extra", choices=tuple(CONSTRAINTS), default="cpu", help="which build of vLLM and torch"
    )
    options = parser.parse_args()
    wanted = digest(options.extra)
    if STAMP.exists() and STAMP.read_text(encoding="ascii") == wanted and PYTHON.exists():
        return
    STAMP.unlink(missing_ok=True)
    make_venv(options.extra)
    if options.extra == "cpu":
        install_torch()
    install_project(options.extra)
    if options.extra == "cpu":
        step(f"removing {' and '.join(UNUSED)}, which are not needed")
        pip("uninstall", "--yes", *UNUSED)
        mend_torchvision()
    STAMP.write_text(wanted, encoding="ascii")
    step("done: .venv is ready")


def digest(extra: str) -> str:
    """What the environment depends on, as a hex sha256."""
    total = hashlib.sha256(f"{sys.version} {extra} {ROOT}".encode())
    for path in (ROOT / "pyproject.toml", CONSTRAINTS[extra], SHIM_SOURCE, Path(__file__)):
        total.update(path.read_bytes())
    return total.hexdigest()


def make_venv(extra: str) -> None:
    """Make ``.venv``, unless a working one for `extra` is there; with a pip of its own where Python brings one.

    One for the other extra is made anew: pip takes the CPU's torch for a GPU's, and both builds of vLLM fit in beside
    each other.
    """
    same = MADE_FOR.exists() and MADE_FOR.read_text(encoding="ascii") == extra
    if same and at_home() and run(PYTHON, "-c", "").returncode == 0:
        return
    step(f"making .venv with Python {sys.version.split()[0]}")
    shutil.rmtree(VENV, ignore_errors=True)
    own_pip = importlib.util.find_spec("ensurepip") is not None
    arguments = [] if own_pip else ["--without-pip"]
    if run(sys.executable, "-m", "venv", *arguments, VENV).returncode != 0:
        fail("Python could not make .venv (its words are above)")
    MADE_FOR.write_text(extra, encoding="ascii")


def at_home() -> bool:
    """Whether ``.venv`` is there and was made here: the scripts of one that was moved start nothing."""
    activate = VENV / "bin" / "activate"
    return PYTHON.exists() and activate.exists() and str(VENV) in activate.read_text(encoding="utf-8")


def install_torch() -> None:
    """Install the CPU build of torch that ``pyproject.toml`` names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    torch = next(name for name in project["optional-dependencies"]["cpu"] if name.startswith("torch=="))
    step(f"installing {torch}")
    if pip("install", "--no-deps", *torch_index(), torch) != 0:
        fail(
            f"pip found no {torch} for Python {sys.version.split()[0]} (its words are above). Either put that"
            " wheel into a folder and name the folder in PIP_FIND_LINKS, or name PyTorch's CPU package index in"
            " R2SM_TORCH_INDEX; then run this again."
        )


def install_project(extra: str) -> None:
    """Install this project, editable, with what it needs to run and to be tested."""
    step(f"installing r2sm-server[{extra},dev] and what it needs")
    pinned = ("--constraint", CONSTRAINTS[extra])
    if pip("install", *torch_index(), *pinned, "--editable", f"{ROOT}[{extra},dev]") != 0:
        fail("pip could not install the project (its words are above)")


def mend_torchvision() -> None:
    """Let ``import torchvision`` work in every process of ``.venv``, only where it misses its operators."""
    packages = Path(output(PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    module, hook = packages / f"{SHIM}.py", packages / f"{SHIM}.pth"
    for path in (module, hook):
        path.unlink(missing_ok=True)
    step("trying torchvision")
    fault = import_fault("torchvision")
    if MISSING_OPERATOR in fault:
        step("defining the two operators that this build of torchvision misses")
        shutil.copyfile(SHIM_SOURCE, module)
        hook.write_text(f"import {SHIM}; {SHIM}.install()\n", encoding="ascii")
        fault = import_fault("torchvision")
    if fault:
        fail(f"torchvision cannot be imported:\n{fault}")


def torch_index() -> list[str]:
    """pip's option for the package index that the user named for torch, if any."""
    index = os.environ.get("R2SM_TORCH_INDEX")
    return ["--extra-index-url", index] if index else []


def pip(*arguments: str | Path) -> int:
    """Run pip on ``.venv`` and return its exit status; its progress goes to the terminal."""
    own = run(PYTHON, "-c", "import pip", quiet=True).returncode == 0
    program = (PYTHON, "-m", "pip") if own else (sys.executable, "-m", "pip", "--python", PYTHON)
    return run(*program, *arguments).returncode


def import_fault(module: str) -> str:
    """The traceback that importing `module` ends in; empty when it succeeds."""
    result = run(PYTHON, "-c", f"import {module}", quiet=True)
    return result.stderr if result.returncode != 0 else ""


def output(*command: str | Path) -> str:
    """What a command that must succeed prints, stripped."""
    result = run(*command, quiet=True)
    result.check_returncode()
    return str(result.stdout).strip()


def run(*command: str | Path, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; `quiet` keeps what it prints in the result."""
    return subprocess.run([str(part) for part in command], check=False, capture_output=quiet, text=True)


def step(text: str) -> None:
    """Say what comes next."""
    print(f"set-up: {text}", flush=True)


def fail(text: str) -> NoReturn:
    """End with a message."""
    raise SystemExit(f"set-up: {text}")


if __name__ == "__main__":
    main()
