"""CoPRS from its published layout: the weights arrive, whole and in their places, or a fault is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.distributed.tensor import Partial, Placement, Shard
from transformers import AutoTokenizer

from engines.bundles import Bundle
from engines.bundles.imports.coprs import ANSWER, import_coprs
from engines.errors import CheckpointError
from engines.vision.model import VisionModel
from tests.engines.bundles.imports.published import write_shards

quiet: Callable[[str], None] = lambda line: None  # noqa: E731


@pytest.fixture(scope="module")
def bundle(shards: Path, base: Path, sam_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("out") / "coprs"
    return import_coprs(shards, str(base), str(sam_file), out, progress=quiet)


def published(name: str) -> str:
    name = name.removeprefix("llm.")
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def test_every_row_of_every_shard_is_in_its_place(bundle: Bundle, trained: dict[str, Tensor]) -> None:
    language = load_file(bundle.mllm_path / "model.safetensors")
    vision = load_file(bundle.vision_path / "model.safetensors")
    wanted = {published(name): value for name, value in trained.items() if name.startswith("llm.")}
    wanted.pop("lm_head.weight")  # tied to the embedding
    assert language.keys() == wanted.keys()
    assert all(torch.equal(language[name], value.to(torch.bfloat16)) for name, value in wanted.items())
    heads = {name: value for name, value in trained.items() if not name.startswith("llm.")}
    assert all(torch.equal(vision[name], value) for name, value in heads.items())


def test_the_encoder_is_the_sams(bundle: Bundle, vision: VisionModel) -> None:
    stored = VisionModel.load(bundle.vision_path).state_dict()
    wanted = vision.state_dict()
    assert stored.keys() == wanted.keys()
    assert all(torch.equal(stored[name], value) for name, value in wanted.items())


def test_the_concentration_token_is_one_token_and_has_an_embedding(bundle: Bundle, base: Path) -> None:
    config = json.loads((bundle.mllm_path / "config.json").read_text())
    before = json.loads((base / "config.json").read_text())
    rows = config["text_config"]["vocab_size"]
    assert rows == before["text_config"]["vocab_size"] + 1
    known, made = (Tokenizer.from_file(str(at / "tokenizer.json")) for at in (base, bundle.mllm_path))
    text = "Here is the reference position: <REF_POS>"
    assert known.token_to_id("<REF_POS>") is None
    assert made.encode(text).ids == [
        *known.encode(text.removesuffix("<REF_POS>")).ids,
        known.get_vocab_size(),
    ]
    assert known.get_vocab_size() < rows
    assert bundle.answer == ANSWER
    assert bundle.mllm_image.max_pixels == 705_600


@pytest.mark.parametrize("world", [1, 4])
def test_any_number_of_shards_makes_the_same_weights(
    bundle: Bundle, trained: dict[str, Tensor], base: Path, sam_file: Path, tmp_path: Path, world: int
) -> None:
    folder = write_shards(trained, tmp_path / "shards", world)
    made = import_coprs(folder, str(base), str(sam_file), tmp_path / "out", progress=quiet)
    for name in ("mllm/model.safetensors", "vision/model.safetensors"):
        assert (made.path / name).read_bytes() == (bundle.path / name).read_bytes()


def test_vision_parts_may_be_sharded_as_well(
    bundle: Bundle, trained: dict[str, Tensor], base: Path, sam_file: Path, tmp_path: Path
) -> None:
    folder = write_shards(trained, tmp_path / "shards", 3, heads=True)
    made = import_coprs(folder, str(base), str(sam_file), tmp_path / "out", progress=quiet)
    name = "vision/model.safetensors"
    assert (made.path / name).read_bytes() == (bundle.path / name).read_bytes()


def test_a_merged_state_is_one_file(
    bundle: Bundle, trained: dict[str, Tensor], base: Path, sam_file: Path, tmp_path: Path
) -> None:
    torch.save({"model": trained}, tmp_path / "merged.pt")
    made = import_coprs(tmp_path / "merged.pt", str(base), str(sam_file), tmp_path / "out", progress=quiet)
    name = "mllm/model.safetensors"
    assert (made.path / name).read_bytes() == (bundle.path / name).read_bytes()


class Faulty:
    """Shards that may be spoilt, and an import that must then fail and leave nothing."""

    def __init__(self, shards: Path, base: Path, sam: Path, folder: Path) -> None:
        self.shards = Path(shutil.copytree(shards, folder / "shards"))
        self.base, self.sam, self.out = base, sam, folder / "out" / "bundle"
        self.out.parent.mkdir()

    def shard(self, rank: int) -> Path:
        return self.shards / f"model_world_size_3_rank_{rank}.pt"

    def refused(self, match: str) -> None:
        with pytest.raises(CheckpointError, match=match):
            import_coprs(self.shards, str(self.base), str(self.sam), self.out, progress=quiet)
        assert list(self.out.parent.iterdir()) == []

    def works(self) -> None:
        import_coprs(self.shards, str(self.base), str(self.sam), self.out, progress=quiet)
        assert [path.name for path in self.out.parent.iterdir()] == ["bundle"]


@pytest.fixture
def faulty(shards: Path, base: Path, sam_file: Path, tmp_path: Path) -> Faulty:
    return Faulty(shards, base, sam_file, tmp_path)


def test_a_missing_shard_is_named_and_the_next_try_works(faulty: Faulty, shards: Path) -> None:
    faulty.shard(1).unlink()
    faulty.refused(r"model_world_size_3_rank_1\.pt is missing")
    shutil.copyfile(shards / "model_world_size_3_rank_1.pt", faulty.shard(1))
    faulty.works()
    faulty.works()


def test_an_empty_folder_is_named(faulty: Faulty) -> None:
    shutil.rmtree(faulty.shards)
    faulty.shards.mkdir()
    faulty.refused("holds no model_world_size_W_rank_R")


def test_world_sizes_of_two_runs_are_named(faulty: Faulty) -> None:
    shutil.copyfile(faulty.shard(0), faulty.shards / "model_world_size_2_rank_0.pt")
    faulty.refused("shards of two runs are mixed: world sizes 2 and 3")


def test_a_shard_of_another_run_is_named(faulty: Faulty, trained: dict[str, Tensor], tmp_path: Path) -> None:
    other = write_shards({name: value + 0.1 for name, value in trained.items()}, tmp_path / "other", 3)
    shutil.copyfile(other / faulty.shard(2).name, faulty.shard(2))
    faulty.refused(r"rank_2\.pt: shards of two runs are mixed: .* is not refseg_modules\.pt's")
    (faulty.shards / "refseg_modules.pt").unlink()
    faulty.refused(r"rank_2\.pt: shards of two runs are mixed: .* is another one in rank 0")


def test_one_ranks_file_in_the_place_of_another_is_named(faulty: Faulty) -> None:
    shutil.copyfile(faulty.shard(0), faulty.shard(2))
    faulty.refused(r"rank_2\.pt: ")


@pytest.mark.parametrize(
    ("placement", "fault"),
    [(Shard(1), r"not rank 0 of 3: .* is \("), (Partial(), "which FSDP does not do")],
)
def test_shards_of_another_layout_are_named(
    faulty: Faulty, trained: dict[str, Tensor], placement: Placement, fault: str
) -> None:
    matrices = {name: value for name, value in trained.items() if value.ndim > 1}
    write_shards(matrices, faulty.shards, 3, placement)
    faulty.refused(rf"rank_0\.pt: .*{fault}")


def test_a_checkpoint_that_does_not_know_the_token_is_named(
    faulty: Faulty, trained: dict[str, Tensor]
) -> None:
    write_shards(
        {n: v[:64] if "embed_tokens" in n or "lm_head" in n else v for n, v in trained.items()},
        faulty.shards,
        3,
    )
    faulty.refused(r"<REF_POS> is token \d+, but it knows \d+")


def test_a_token_that_became_several_is_named(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the tokenizer would not learn it."""
    kind = type(AutoTokenizer.from_pretrained(faulty.base))
    monkeypatch.setattr(kind, "add_tokens", lambda *_, **__: 0)
    faulty.refused(r"tokenizer\.json: <REF_POS> became \d+ tokens, not one")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_shard_is_named(faulty: Faulty, share: float) -> None:
    content = faulty.shard(2).read_bytes()
    faulty.shard(2).write_bytes(content[: int(len(content) * share)])
    faulty.refused(r"rank_2\.pt: ")


class Evil:
    """Pickles as a call of a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch RAN",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_never_run(
    faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"llm.x": Evil()}, faulty.shard(0), _use_new_zipfile_serialization=zipped)
    faulty.refused("holds more than tensors, and no code of it is run: .*system")
    assert not (tmp_path / "RAN").exists()


def test_a_base_of_another_size_is_named(faulty: Faulty, base: Path, tmp_path: Path) -> None:
    state = load_file(base / "model.safetensors")
    faulty.base = Path(shutil.copytree(base, tmp_path / "wide"))
    wide = {name: torch.cat([value, value], dim=-1) for name, value in state.items()}
    save_file(wide, faulty.base / "model.safetensors", metadata={"format": "pt"})
    faulty.refused("the base model is of another size: ")
    save_file({n: v for n, v in state.items() if "layers.2" not in n}, faulty.base / "model.safetensors")
    faulty.refused("the base model of it has no: model.layers.2")


def test_a_state_without_a_heatmap_head_is_named(faulty: Faulty, trained: dict[str, Tensor]) -> None:
    shutil.rmtree(faulty.shards)
    write_shards({n: v for n, v in trained.items() if "heatmap" not in n}, faulty.shards, 3)
    faulty.refused("lacks of CoPRS's parts: heatmap_head.fuser.0.weight, heatmap_head.q_proj.weight")


def test_what_is_no_bundle_is_not_replaced(faulty: Faulty) -> None:
    faulty.out.mkdir()
    (faulty.out / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="exists and is no bundle"):
        faulty.works()
    assert (faulty.out / "thesis.tex").read_text() == "years of work"


MEMORY = """
import sys, torch
from pathlib import Path
from engines.bundles.imports.coprs import import_coprs
torch.set_num_threads(1)
shards, base, sam, large_shards, large_base, out = map(Path, sys.argv[1:])
run = lambda shards, base: import_coprs(shards, str(base), str(sam), out, progress=lambda line: None)
run(shards, base)  # whatever is imported or made once
Path("/proc/self/clear_refs").write_text("5")
lines = Path("/proc/self/status").read_text().splitlines()
before = int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
run(large_shards, large_base)
lines = Path("/proc/self/status").read_text().splitlines()
print((int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) - before) * 1024)
"""


def test_memory_stays_below_the_largest_file(
    shards: Path, base: Path, trained: dict[str, Tensor], sam_file: Path, tmp_path: Path
) -> None:
    """Four shards of a larger model, in float32: together twice as large as what is made of them."""
    ballast = {f"model.ballast.{number}.weight": torch.ones(1000, 2500) for number in range(24)}
    large = Path(shutil.copytree(base, tmp_path / "base"))
    save_file(ballast, large / "ballast.safetensors")
    state = trained | {f"llm.{name}": value for name, value in ballast.items()}
    write_shards(state, tmp_path / "shards", 4)
    paths = (shards, base, sam_file, tmp_path / "shards", large, tmp_path / "out")
    command = [sys.executable, "-c", MEMORY, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    largest = (tmp_path / "out" / "mllm" / "model.safetensors").stat().st_size
    assert largest > 100_000_000
    assert int(done.stdout.split()[-1]) <= 1.3 * largest
