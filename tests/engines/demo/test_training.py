"""The trainer learns, stops, resumes and ships."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from engines.bundles import Bundle
from engines.demo import ship
from engines.demo.language import ask
from engines.demo.scenes import TRAINING_SEEDS, render_scene
from engines.demo.tokenizer import train_tokenizer
from engines.demo.train import CHECKPOINT, STEPS, TOKENIZER, build_learner, main, rest
from engines.demo.training.feed import (
    DRAWN,
    DRILLED,
    SEEN,
    Batch,
    BatchSize,
    Stage,
    half_hidden,
    hardest,
    open_feed,
    preferring,
    tellable,
)
from engines.demo.training.learner import Learner
from engines.demo.training.loop import Progress, Schedule, make_optimisers, restore, save, train
from engines.errors import CheckpointError

WORDS = ["segment the whole red mug, even behind the box", "The blue ball is at the top left."]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(WORDS * 3)


@pytest.fixture
def learner(tokenizer: Tokenizer) -> Learner:
    torch.manual_seed(0)
    return build_learner(tokenizer)


@pytest.fixture(params=tuple(STEPS))
def stage(request: pytest.FixtureRequest) -> Stage:
    name: Stage = request.param
    return name


def _again(batch: Batch) -> Iterator[Batch]:
    while True:
        yield batch


def test_each_stage_learns_one_batch_by_heart(stage: Stage, learner: Learner, tokenizer: Tokenizer) -> None:
    batch = next(open_feed(stage, tokenizer, BatchSize(1, 2, 1, 2), start=0, workers=0))
    step, optimisers = STEPS[stage], make_optimisers(learner)
    losses = []
    for _ in range(6):
        done = step(learner, batch, random.Random(0))
        done.loss.backward()
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = 1e-3
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        losses.append(done.loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_beside_the_heads_nothing_learns(learner: Learner, tokenizer: Tokenizer) -> None:
    rest(learner, "heads")
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    batch = next(open_feed("heads", tokenizer, BatchSize(1, 2, 1, 2), start=0, workers=0))
    STEPS["heads"](learner, batch, random.Random(0)).loss.backward()
    for optimiser in make_optimisers(learner):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3
        optimiser.step()
    moved = {name for name, value in learner.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all("_head." in name and not name.startswith(("mllm", "vision")) for name in moved)


def test_batches_depend_on_their_number_alone(tokenizer: Tokenizer) -> None:
    feed = open_feed("joint", tokenizer, BatchSize(1, 2, 1, 2), start=0, workers=0)
    next(feed)
    second = next(feed)
    alone = next(open_feed("joint", tokenizer, BatchSize(1, 2, 1, 2), start=1, workers=0))
    assert (second.packed[0].ids == alone.packed[0].ids).all()
    assert (second.samples[0].pixels == alone.samples[0].pixels).all()


def test_the_fuller_of_several_scenes_is_trained_on() -> None:
    sketched = {seed: half_hidden(render_scene(seed, longest=160)) for seed in range(30)}
    firsts = range(0, 30, DRAWN)
    chosen = [hardest(first) for first in firsts]
    assert all(first <= seed < first + DRAWN for first, seed in zip(firsts, chosen, strict=True))
    most = [max(sketched[first + place] for place in range(DRAWN)) for first in firsts]
    assert [sketched[seed] for seed in chosen] == most
    assert hardest(TRAINING_SEEDS.stop - 1) in TRAINING_SEEDS
    assert sum(most) > 1.3 * sum(sketched.values()) / DRAWN


def test_drills_ask_more_for_what_needs_a_look_at_several_things() -> None:
    rng = random.Random(3)
    scenes = [render_scene(seed, longest=160) for seed in range(3_000_900, 3_000_940)]
    usual = [query.form in DRILLED for scene in scenes for query in ask(scene, rng, 10)]
    drilled = [query.form in DRILLED for scene in scenes for query in preferring(DRILLED, scene, 10, rng)]
    assert len(drilled) == len(usual)
    assert sum(drilled) / sum(usual) > 1.5


def test_a_run_goes_on_from_its_checkpoint_and_ships_a_bundle(
    learner: Learner, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / CHECKPOINT
    tokenizer.save(str(tmp_path / TOKENIZER))
    optimisers, progress = make_optimisers(learner), Progress("sight")
    batch = next(open_feed("sight", tokenizer, BatchSize(1, 1, 1, 2), start=0, workers=0))
    moment = Schedule(minutes=1 / 600, decay=True, peak=1e-3)
    train(learner, optimisers, _again(batch), STEPS["sight"], moment, progress, path)
    assert progress.steps >= 1

    other = build_learner(tokenizer)
    resumed = restore(path, other, make_optimisers(other), "sight")
    assert (resumed.steps, resumed.batches) == (progress.steps, progress.batches)
    weights = other.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in learner.state_dict().items())
    assert restore(path, other, make_optimisers(other), "joint").steps == 0

    monkeypatch.setattr("sys.argv", ["ship", "--run", str(tmp_path), "--bundle", str(tmp_path / "bundle")])
    ship.main()
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.vision.mask_size == 96

    begun = build_learner(tokenizer)
    begun.start_from(tmp_path / "bundle")
    taken = begun.state_dict()
    for name, value in learner.state_dict().items():
        if name.startswith(("mllm", "vision")):
            assert torch.allclose(taken[name], value, rtol=1e-2, atol=1e-3), name


def test_recitals_are_about_nothing_that_only_a_picture_can_tell() -> None:
    told = [
        query
        for seed in range(20)
        for query in tellable(render_scene(seed, longest=160), 6, random.Random(seed))
    ]
    assert len(told) > 100
    assert not [query.prompt for query in told if any(words in query.account.wanted for words in SEEN)]


def test_a_run_that_is_not_whole_ships_nothing(
    tmp_path: Path, tokenizer: Tokenizer, learner: Learner
) -> None:
    run, bundle = tmp_path / "run", tmp_path / "photos"
    run.mkdir()
    bundle.mkdir()
    (bundle / "mug.jpg").write_bytes(b"a picture")
    with pytest.raises(CheckpointError, match=r"no checkpoint\.pt"):
        ship.ship(run, bundle)
    save(run / CHECKPOINT, learner, [], Progress("sight"))
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        ship.ship(run, bundle)
    tokenizer.save(str(run / TOKENIZER))
    with pytest.raises(CheckpointError, match="is no bundle"):
        ship.ship(run, bundle)
    assert (bundle / "mug.jpg").read_bytes() == b"a picture"


@pytest.mark.parametrize("option", ["--scenes=0", "--prompts=0", "--drills=-1", "--recitals=-1"])
def test_nothing_to_learn_from_is_said_so(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train", "--out", str(tmp_path), "--minutes", "1", option])
    with pytest.raises(SystemExit):
        main()
    assert option.split("=")[0] in capsys.readouterr().err


def test_a_broken_save_leaves_the_old_checkpoint(
    learner: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / CHECKPOINT
    path.write_bytes(b"the old one")

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        save(path, learner, [], Progress("sight"))
    assert path.read_bytes() == b"the old one"


def test_the_rate_warms_up_stays_and_decays() -> None:
    steady, falling = Schedule(10, False, 1.0), Schedule(10, True, 1.0)
    assert steady.rate(0, 0) < 0.01
    assert steady.rate(10_000, 590) == 1.0
    assert falling.rate(10_000, 300) == pytest.approx(0.5)
    assert falling.rate(10_000, 600) == pytest.approx(0.02)
