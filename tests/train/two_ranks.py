"""One of two processes that train the toy model together: `python -m tests.train.two_ranks FOLDER`.

Each goes through all scenarios; writes what came of them into FOLDER/found-RANK.json.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mambalab.settings.train import Precision, Strategy
from mambalab.train import ranks as ranks_module
from mambalab.train.loop import Trainer
from mambalab.train.nonfinite import NonFiniteError
from mambalab.train.progress import StoppedError
from mambalab.train.ranks import Ranks, SharedMeasurement
from mambalab.train.together import together
from tests.train.odd_models import SAME, Idle, normed
from tests.train.toy import LIMITS, OPTIM, Lines, ToyTask

SEED = 3
ODD_LIMITS: dict[str, Any] = {"max_steps": 4, "log_every": 1, "grad_accum": 2}


class DoubleTask(ToyTask):
    """The toy task in float64."""

    def batch(self, position):
        x, y = super().batch(position)
        return x.double(), y.double()

    def loss(self, model, batch):
        x, y = batch
        return (model(x) - y).square().mean()

    def batch_of_validation(self):
        x, y = super().batch_of_validation()
        return x.double(), y.double()


def model(dropout: float, *, double: bool) -> nn.Module:
    """A model with numbered layers."""
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 1)])
    found = Stack(layers, dropout)
    return found.double() if double else found


class Stack(nn.Module):
    """Layers with a GELU and dropout between them."""

    def __init__(self, layers: nn.ModuleList, dropout: float) -> None:
        super().__init__()
        self.layers = layers
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = self.dropout(nn.functional.gelu(layer(x)))
        return self.layers[-1](x)


def trainer(
    folder: Path,
    ranks: Ranks,
    strategy: Strategy = Strategy.ddp,
    *,
    double: bool = False,
    dropout: float = 0.0,
    bad_at: int | None = None,
    stop_at: int | None = None,
    odd: Callable[[], nn.Module] | None = None,
    **limits: Any,
) -> tuple[Trainer, Lines]:
    """A trainer as each process makes it; `stop_at` that step a signal reaches the last rank."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    made, lines, built = model(dropout, double=double), Lines(), []
    if odd is not None:
        made, double = odd().double(), True

    def stop() -> str | None:
        here = ranks.rank == ranks.size - 1 and stop_at is not None
        return "SIGTERM" if here and built[0].state.step >= stop_at else None

    settings = dataclasses.replace(LIMITS, strategy=strategy, **limits)
    runner = Trainer(
        made,
        DoubleTask(bad_at) if double else ToyTask(bad_at),
        optim=OPTIM,
        settings=settings,
        run_dir=folder,
        recorder=lines,
        device=torch.device("cpu"),
        precision=Precision.fp32,
        stop_requested=stop,
        together=together(made, settings, ranks, SEED),
    )
    built.append(runner)
    return runner, lines


def resumed(folder: Path, ranks: Ranks, *words: Any, **options: Any) -> tuple[Trainer, Lines]:
    """A trainer that goes on from the newest checkpoint, which rank 0 alone reads."""
    from mambalab.train import checkpoint

    runner, lines = trainer(folder, ranks, *words, **options)
    if ranks.is_first:
        source = checkpoint.find(folder, "last")
        assert source is not None
        runner.restore(source)
    return runner, lines


def curve(folder: Path, ranks: Ranks, *words: Any, **options: Any) -> list[Any]:
    """All that a run records, and its weights at the end."""
    runner, lines = trainer(folder, ranks, *words, **options)
    runner.run()
    return outcome(runner, lines)


def outcome(runner: Trainer, lines: Lines) -> list[Any]:
    """Rows of the recorder, and the sum of all weights."""
    with runner.together.whole():
        total = sum(float(p.detach().double().sum()) for p in runner.model.parameters())
    return [lines.rows, total]


def scenarios(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Go through everything that two processes do together."""
    found: dict[str, Any] = {}
    for strategy in Strategy:
        name = strategy.value
        for double in (False, True):
            found[f"{name} {double}"] = curve(
                folder / f"{name}-{double}", ranks, strategy, double=double, max_steps=50
            )
        found[f"{name} parts"] = curve(
            folder / f"{name}-parts", ranks, strategy, double=True, max_steps=12, grad_accum=2
        )
        whole = curve(folder / f"{name}-d", ranks, strategy, dropout=0.3, max_steps=16)
        half = folder / f"{name}-h"
        stopped, lines = trainer(half, ranks, strategy, dropout=0.3, max_steps=16, stop_at=8)
        found[f"{name} stopped"] = [stopped.run().status.value, stopped.state.step]
        again, more = resumed(half, ranks, strategy, dropout=0.3, max_steps=16)
        again.run()
        found[f"{name} resumed"] = [
            whole[0] == lines.rows + more.rows, whole[1] == outcome(again, more)[1],
        ]  # fmt: skip
        try:
            curve(folder / f"{name}-bad", ranks, strategy, bad_at=5, max_steps=16)
        except NonFiniteError as error:
            found[f"{name} bad"] = str(error)
    # One process, then two with parts of the model, then one again (in the test).
    path = folder / "changing"
    if ranks.is_first:
        curve(path, Ranks(), double=True, max_steps=12, stop_at=4)
    ranks.wait()
    runner, _ = resumed(path, ranks, Strategy.fsdp2, double=True, max_steps=12, stop_at=8)
    runner.run()
    found["measured"] = measured(ranks)
    return found | odd_models(folder, ranks)


def odd_models(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Train odd models, look at running statistics, and keep a step that was not kept."""
    found: dict[str, Any] = {}
    kinds = [(strategy, *item) for strategy in Strategy for item in SAME.items()]
    for strategy, name, odd in [*kinds, (Strategy.ddp, "idle", Idle)]:
        path = folder / f"{strategy.value}-{name}"
        found[f"{strategy.value} {name}"] = curve(path, ranks, strategy, odd=odd, **ODD_LIMITS)
    for strategy in Strategy:
        path = folder / f"{strategy.value}-normed"
        runner, _ = trainer(path, ranks, strategy, odd=normed, max_steps=3)
        runner.run()
        with runner.together.whole():
            there = [buffer.tolist() for buffer in runner.model.buffers()]
            found[f"{strategy.value} statistics"] = [ranks.tell(there), there]
    for keep in ("best", "all"):
        runner, _ = (resumed if keep == "all" else trainer)(
            folder / "kept", ranks, Strategy.fsdp2, max_steps=4, keep=keep
        )
        runner.run()
    return found


def measured(ranks: Ranks) -> dict[str, Any]:
    """Share a measurement out; then stop one in the last process alone."""
    sharing = SharedMeasurement(ranks)
    seen = list(sharing.batches(range(5), None))
    sums = sharing.sums({"a": float(sum(seen)), **({"b": 2.0} if ranks.is_first else {})})

    def watch(done: int, total: int) -> None:
        if done == 1 and not ranks.is_first:
            raise StoppedError("SIGINT")

    stopped = None
    for _ in sharing.batches(range(8), watch):
        pass
    try:
        sharing.sums({})
    except StoppedError as error:
        stopped = error.signal
    told = ranks.tell({"x": 1} if ranks.is_first else None)
    return {"sums": sums, "stopped": stopped, "told": told, "agreed": ranks.agree(None, 5.0)}


def main() -> None:
    """Take part; a process that fails ends with its traceback."""
    folder = Path(sys.argv[1])
    ranks = ranks_module.join(torch.device("cpu"))
    found = scenarios(folder, ranks)
    (folder / f"found-{ranks.rank}.json").write_text(json.dumps(found))
    ranks.wait()
    ranks_module.leave()


if __name__ == "__main__":
    main()
