"""Reads checkpoints that torch has pickled: tensors are taken out of them, code never."""

from __future__ import annotations

import logging
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed.tensor as sharded
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engines.errors import CheckpointError

# A mesh that is read back looks for the process groups it was saved with, and warns that there are none.
logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)

SHARD_NAME = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")
WRAPPINGS = ("model", "state_dict", "plm")
NAMES_CODE = re.compile(r"^.*\b(?:GLOBAL|global|class)\b.*$", re.MULTILINE)
"""The line with which torch says that a file names something else than tensors."""
ZIP_MAGIC = b"PK"


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of one that torch has saved, by name.

    A file in torch's present format is mapped, not read: its tensors come from the disk as they are used. One
    that wraps its state in ``model``, ``state_dict`` or ``plm`` is unwrapped.

    Raises:
        CheckpointError: the file is missing, truncated, or holds more than tensors.
    """
    content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    for name in WRAPPINGS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{file}: holds no tensors by name")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{file}: {name} is no tensor but a {type(value).__name__}")
    return dict(content)


def _read_pickle(file: Path) -> object:
    try:
        with file.open("rb") as opened:
            zipped = opened.read(2) == ZIP_MAGIC
        if zipped and not zipfile.is_zipfile(file):
            raise CheckpointError(f"{file}: truncated: its table of contents is missing")
        # Only tensors, and those that FSDP has sharded, may be rebuilt: what else the file names is refused.
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        told = str(error).partition("\n")[2]  # after a line that advises to run the code
        if (line := NAMES_CODE.search(told)) is None:
            raise CheckpointError(f"{file}: truncated or damaged") from error
        fault = f"{file}: holds more than tensors, and no code of it is run: {line[0]}"
        raise CheckpointError(fault) from error
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (EOFError, RuntimeError, ValueError, KeyError, IndexError, struct.error) as error:
        raise CheckpointError(f"{file}: truncated or damaged: {str(error).partition(chr(10))[0]}") from error


def _read_safetensors(file: Path) -> object:
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: not a whole .safetensors file: {error}") from error


@dataclass(frozen=True, slots=True)
class Piece:
    """What one shard holds of one tensor: `values` are the rows from `first_row` of a tensor of `shape`.

    `sharded` is False for a tensor that every shard holds whole.
    """

    values: Tensor
    first_row: int
    shape: tuple[int, ...]
    sharded: bool


@dataclass(frozen=True, slots=True)
class Shards:
    """A state in the files that its ranks have saved, in the order of the ranks."""

    files: tuple[Path, ...]

    @classmethod
    def find(cls, path: Path) -> Shards:
        """The shards in the folder `path`, or the one file that `path` is.

        Raises:
            CheckpointError: there are none, one is missing, or they are of more than one run.
        """
        if path.is_file():
            return cls((path,))
        found: dict[int, dict[int, Path]] = {}
        for file in path.glob("model_world_size_*_rank_*.pt"):
            if match := SHARD_NAME.fullmatch(file.name):
                found.setdefault(int(match[1]), {})[int(match[2])] = file
        if not found:
            raise CheckpointError(f"{path}: holds no model_world_size_W_rank_R.pt")
        if len(found) > 1:
            sizes = " and ".join(map(str, sorted(found)))
            raise CheckpointError(f"{path}: shards of two runs are mixed: world sizes {sizes}")
        [(world, ranks)] = found.items()
        for rank in range(world):
            if rank not in ranks:
                raise CheckpointError(f"{path}: model_world_size_{world}_rank_{rank}.pt is missing")
        return cls(tuple(ranks[rank] for rank in range(world)))

    def read(self, rank: int) -> Iterator[tuple[str, Piece]]:
        """One shard's pieces, by name. Raises CheckpointError as `read_tensors`, and for other layouts than FSDP's."""
        file = self.files[rank]
        for name, tensor in read_tensors(file).items():
            yield name, self._piece(file, name, tensor, rank)

    def _piece(self, file: Path, name: str, tensor: Tensor, rank: int) -> Piece:
        if not isinstance(tensor, sharded.DTensor):
            return Piece(tensor, 0, tuple(tensor.shape), sharded=False)
        local, shape = tensor._local_tensor, tuple(tensor.shape)
        placement = tensor.placements[-1]
        if len(tensor.placements) != 1 or not isinstance(placement, sharded.Shard | sharded.Replicate):
            raise CheckpointError(
                f"{file}: {name} is laid out as {tensor.placements}, which FSDP does not do"
            )
        if isinstance(placement, sharded.Replicate):
            return Piece(local, 0, shape, sharded=False)
        rows = -(-shape[0] // len(self.files))
        first = min(rank * rows, shape[0])
        expected = (min(rows, shape[0] - first), *shape[1:])
        if placement.dim != 0 or tuple(local.shape) != expected:
            told = f"{name} is {tuple(local.shape)}, not {expected}"
            raise CheckpointError(f"{file}: not rank {rank} of {len(self.files)}: {told}")
        return Piece(local, first, shape, sharded=True)
