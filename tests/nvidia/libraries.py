"""TensorRT's real Python bindings and TensorRT for RTX, from PyPI: downloaded once, never part of this project.

NVIDIA's licence covers both. They are not installed: one is put on a subprocess's path, the other named to it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

BINDINGS = "tensorrt_cu13_bindings==11.4.0.106"
BUILDER = "onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0"
NEEDED = ("libnvinfer.so.11", "libnvonnxparser.so.11", "libnvinfer_plugin.so.11")
DOWNLOAD_SECONDS = 300.0


class Unavailable(Exception):
    """What is missing here, and why."""


@dataclass(frozen=True, slots=True)
class Libraries:
    """`bindings` is the folder that holds the package ``tensorrt_bindings``; `environment` lets a process load it."""

    bindings: Path
    environment: dict[str, str]


def bindings_alone(cache: Path) -> Libraries:
    """The bindings, which can be looked at and nothing more. Raises `Unavailable`."""
    folder = _unpacked(BINDINGS, cache)
    return Libraries(folder, os.environ | {"LD_LIBRARY_PATH": str(_forwarding(cache))})


def bindings_and_builder(cache: Path) -> Libraries:
    """The bindings with a builder behind them (146 MB). Raises `Unavailable`."""
    libraries = bindings_alone(cache)
    folder = _unpacked(BUILDER, cache) / "onnxruntime_ep_nv_tensorrt_rtx"
    named = {
        "R2SM_TENSORRT_RTX": str(folder / "libtensorrt_rtx.so.1.7.1"),
        "R2SM_TENSORRT_RTX_PARSER": str(folder / "libtensorrt_onnxparser_rtx.so.1.7.1"),
    }
    return Libraries(libraries.bindings, libraries.environment | named)


def _unpacked(requirement: str, cache: Path) -> Path:
    """The folder with a wheel's content, downloaded with pip as it is configured."""
    folder = cache / requirement
    if folder.is_dir():
        return folder
    work = cache / f".{requirement}.{os.getpid()}"
    work.mkdir(parents=True)
    try:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run(
            [*pip, "-d", work, requirement],
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_SECONDS,
            check=False,
        )
        wheels = list(work.glob("*.whl"))
        if done.returncode or not wheels:
            raise Unavailable(f"{requirement} cannot be downloaded: {done.stderr.strip()[-200:]}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(work / "content")
        (work / "content").rename(folder)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{requirement}: no download within {DOWNLOAD_SECONDS:.0f} s") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _forwarding(cache: Path) -> Path:
    """A folder with the library in ``forwarding.c`` under the names that the bindings look for."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise Unavailable("there is no C compiler (apt-get install gcc)")
    folder = cache / "forwarding"
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("forwarding.c")
    library = folder / f".{os.getpid()}.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    for name in NEEDED[1:]:
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(NEEDED[0])
    library.replace(folder / NEEDED[0])
    return folder
