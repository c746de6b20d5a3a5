"""Two processes train as one does; see two_ranks.py for what they do."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mambalab.errors import UserError
from mambalab.settings.train import Strategy
from mambalab.train import checkpoint
from mambalab.train import ranks as ranks_module
from mambalab.train.optim import build_optimizer
from mambalab.train.ranks import (
    ALONE,
    LostRankError,
    Ranks,
    beginning_together,
    ending_together,
)
from mambalab.train.together import Copies, Shards, Together, layers_of
from tests.train import two_ranks
from tests.train.odd_models import SAME, Idle
from tests.train.toy import LIMITS, trainer

STRATEGIES = [strategy.value for strategy in Strategy]


def environment(rank: int, port: int, size: int = 2) -> dict[str, str]:
    """What torchrun tells a process."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    told |= {"TORCHELASTIC_RESTART_COUNT": 0, "OMP_NUM_THREADS": 1}
    names = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
    return {**os.environ, **names, **{key: str(value) for key, value in told.items()}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where two processes have gone through everything."""
    path = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.train.two_ranks", str(path)]
    pipe = subprocess.PIPE
    both = [
        subprocess.Popen(command, env=environment(rank, port), stdout=pipe, stderr=pipe, text=True)
        for rank in range(2)
    ]
    try:
        told = [process.communicate(timeout=3600)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], "\n".join(told)
    return path


@pytest.fixture(scope="module")
def found(folder) -> dict:
    return json.loads((folder / "found-0.json").read_text())


def rows(recorded: list) -> list[tuple[int, str, float]]:
    return [(step, name, value) for step, values in recorded for name, value in values.items()]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("double", "bound"), [(False, 2e-4), (True, 1e-10)])
def test_two_processes_are_one(found, tmp_path, strategy, double, bound):
    lines, total = two_ranks.curve(tmp_path, ALONE, double=double, max_steps=50)
    theirs, their_total = found[f"{strategy} {double}"]
    ours = rows(lines)
    assert [row[:2] for row in ours] == [tuple(row[:2]) for row in rows(theirs)]
    for a, b in zip(ours, rows(theirs), strict=True):
        exact = bound if a[1] != "train/loss" else max(bound, 1e-6)  # summed up in float32
        assert a[2] == pytest.approx(b[2], rel=exact, abs=exact), a
    assert abs(total - their_total) < bound * 100
    assert ours[0][2] != ours[-1][2], "nothing was learnt"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_of_several_batches_are_averaged_once(found, tmp_path, strategy):
    lines, total = two_ranks.curve(tmp_path, ALONE, double=True, max_steps=12, grad_accum=2)
    theirs, their_total = found[f"{strategy} parts"]
    for ours, other in zip(rows(lines), rows(theirs), strict=True):
        assert ours[2] == pytest.approx(other[2], abs=1e-6 if ours[1] == "train/loss" else 1e-10)
    assert total == pytest.approx(their_total, abs=1e-8)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_signal_to_one_stops_all_and_they_go_on_as_if_nothing_was(found, strategy):
    assert found[f"{strategy} stopped"] == ["KILLED", 8]
    assert found[f"{strategy} resumed"] == [True, True], "dropout's masks and weights repeat"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nan_in_the_batch_of_one_is_told_by_all(found, strategy):
    assert found[f"{strategy} bad"].startswith(
        "loss or gradients became NaN or infinite at step 6, first in the output of layers.0"
    )


def test_one_goes_on_from_what_two_saved(folder, tmp_path):
    path = folder / "changing"
    source = checkpoint.find(path, "last")
    assert source is not None
    assert source.step == 8
    runner, lines = two_ranks.resumed(path, ALONE, double=True, max_steps=12)
    runner.run()
    whole, total = two_ranks.curve(tmp_path, ALONE, double=True, max_steps=12)
    last = [row for row in rows(whole) if row[0] > 8]
    for ours, other in zip(rows(lines.rows), last, strict=True):
        assert ours[:2] == other[:2]
        assert ours[2] == pytest.approx(other[2], abs=1e-6 if ours[1] == "train/loss" else 1e-10)
    assert two_ranks.outcome(runner, lines)[1] == pytest.approx(total, abs=1e-9)


def test_measurements_are_shared_out(found):
    told = found["measured"]
    assert told["sums"] == {"a": 10.0, "b": 2.0}
    assert told["stopped"] == "SIGINT", "rank 1 stopped, and so rank 0 did"
    assert told["told"] == {"x": 1}
    assert told["agreed"] == [None, 5.0]


def test_one_process_agrees_with_itself():
    assert Ranks().agree("SIGINT", 2.0) == ("SIGINT", 2.0)
    assert Ranks().tell(7) == 7
    assert Ranks().is_first


@pytest.mark.parametrize(
    ("strategy", "name", "odd"),
    [*((s, *item) for s in STRATEGIES for item in SAME.items()), ("ddp", "idle", Idle)],
)
def test_odd_models_train_as_with_one_process(found, tmp_path, strategy, name, odd):
    lines, total = two_ranks.curve(tmp_path, ALONE, odd=odd, **two_ranks.ODD_LIMITS)
    theirs, their_total = found[f"{strategy} {name}"]
    for ours, other in zip(rows(lines), rows(theirs), strict=True):
        assert ours[2] == pytest.approx(other[2], abs=1e-6 if ours[1] == "train/loss" else 1e-10)
    assert total == pytest.approx(their_total, abs=1e-9)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_evaluate_with_the_running_statistics_of_the_first(folder, strategy):
    second = json.loads((folder / "found-1.json").read_text())
    first, own = second[f"{strategy} statistics"]
    assert first == own


def test_a_step_that_is_kept_later_has_its_weights(folder):
    kept = checkpoint.find(folder / "kept", "step")
    assert kept is not None
    weights, *_ = checkpoint.load(kept, torch.device("cpu"))
    last = checkpoint.find(folder / "kept", "last")
    assert last is not None
    for name, tensor in checkpoint.load(last, torch.device("cpu"))[0].items():
        assert tensor.numel()
        assert torch.equal(weights[name], tensor)


def test_layers_that_share_weights_are_none_of_their_own():
    def names(model: nn.Module) -> list[str]:
        found = layers_of(model)
        return [name for name, module in model.named_modules() if module in found]

    assert names(SAME["tied"]()) == ["layers.2", "layers.3"]
    assert names(SAME["twice"]()) == ["layers.0", "layers.2"], "one layer, called at two places"
    assert names(SAME["nested"]()) == ["layers.0", "layers.1", "layers.2"]
    assert names(SAME["groups"]()) == ["groups.0.0", "groups.2.0", "groups.2.1"]


def test_a_scalar_cannot_be_shared_out():
    model = nn.Linear(2, 1)
    model.temperature = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(UserError, match="fsdp2: the parameter temperature of the model is a scal"):
        Shards(model, LIMITS, Ranks(0, 2)).begin(None, build_optimizer)  # pyright: ignore


def test_a_process_with_other_data_is_refused(tmp_path, monkeypatch):
    runner, _ = trainer(tmp_path)
    runner.keeper.together = Together(runner.model, LIMITS, Ranks(1, 2))
    monkeypatch.setattr(Ranks, "tell", lambda self, value: "those of the first")
    message = r"process 1 has other data than process 0 \(sha256 toy, not those of the first\)"
    with pytest.raises(UserError, match=message):
        runner.keeper.begin_together()


def test_an_error_of_ones_own_is_no_other_process_that_ended(monkeypatch):
    monkeypatch.setattr(ranks_module, "_LAST_WORDS", 3600.0)
    with pytest.raises(RuntimeError, match="my own"), ending_together(Ranks(0, 2), lambda: None):
        raise RuntimeError("my own")
    ours = pytest.raises(RuntimeError, match="shapes cannot be multiplied")
    with ours, ending_together(Ranks(0, 2), lambda: None):
        nn.Linear(2, 1)(torch.zeros(1, 3))
    with pytest.raises(LostRankError), ending_together(Ranks(0, 2), lambda: "SIGTERM"):
        torch.zeros(1).backward()  # where DDP waits for the others


def test_a_process_that_ends_before_training_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(ranks_module, "_LAST_WORDS", 0.0)
    with pytest.raises(LostRankError, match="before training"), beginning_together(Ranks(1, 2)):
        raise RuntimeError("Connection closed by peer")


def test_every_step_and_every_process_draws_numbers_of_its_own():
    drawn = set()
    for rank in range(3):
        runs = Copies(nn.Linear(1, 1), LIMITS, Ranks(rank, 3), seed=7)
        for step in range(3):
            runs.seed_step(step)
            first = float(torch.rand(()))
            runs.seed_step(step)
            assert float(torch.rand(())) == first
            drawn.add(first)
    assert len(drawn) == 9
