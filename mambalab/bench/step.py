"""One training step of a model, exactly as `mambalab train` makes it, on random tokens.

As a program (`python -m mambalab.bench.step MODEL LENGTH BATCH D_MODEL N_LAYER`) it takes a few
steps and prints the resident memory that they needed at most, in bytes, beyond what the process
held before its model existed: each contender is measured in a process of its own.
"""

import sys
from collections.abc import Callable

import torch
from torch import nn

from mambalab import config
from mambalab.runs import build
from mambalab.settings.train import Precision
from mambalab.spec import ModelSpec
from mambalab.train import runtime
from mambalab.train.optim import build_optimizer

VOCABULARY = 65


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: int,
    length: int,
    precision: Precision,
) -> Callable[[], torch.Tensor]:
    """A function that takes one step: forward, loss, backward, clipping, optimiser."""
    device = next(model.parameters()).device
    make = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCABULARY, (batch, length + 1), generator=make).to(device)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].reshape(-1)
    model.train()

    def step() -> torch.Tensor:
        with runtime.autocast(device, precision):
            logits = model(inputs)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def own_model(
    name: str, length: int, d_model: int, n_layer: int, device: torch.device
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model of mambalab and its optimiser, from the presets; without dropout."""
    overrides = [f"model={name}", f"model.d_model={d_model}", f"model.n_layer={n_layer}"]
    overrides += ["task=shakespeare", "dropout=none"]
    settings = config.compose("train", overrides)
    torch.manual_seed(0)
    with device:
        model = build.build_model(settings, ModelSpec(vocab_size=VOCABULARY, seq_len=length))
    return model, build_optimizer(model, settings.optim)


def main() -> None:
    """Print the bytes that three steps needed."""
    name, *sizes = sys.argv[1:]
    length, batch, d_model, n_layer = map(int, sizes)
    runtime.prepare_process()
    device = torch.device("cpu")
    precision = runtime.choose_precision(Precision.auto, device)
    before = runtime.peak_memory_bytes(device)
    model, optimizer = own_model(name, length, d_model, n_layer, device)
    step = training_step(model, optimizer, batch, length, precision)
    for _ in range(3):
        step()
    print(runtime.peak_memory_bytes(device) - before)


if __name__ == "__main__":
    main()
