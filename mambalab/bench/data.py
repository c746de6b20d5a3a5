"""`mambalab bench data`: is a task's pipeline ever what training waits for?"""

from itertools import count
from pathlib import Path
from typing import Any

import torch

from mambalab import config
from mambalab.bench.report import Result
from mambalab.bench.timing import in_turns, milliseconds
from mambalab.config import paths
from mambalab.data.catalog import CATALOG
from mambalab.errors import UserError
from mambalab.runs import build
from mambalab.train import runtime
from mambalab.train.optim import build_optimizer


def measure(device: torch.device, names: list[str] | None, seconds: float, data_dir: str) -> Result:
    """Time each task's batches alone, and whole training steps on them.

    Each task is taken as `experiment=<task>/cpu` has it (`/gpu` on a GPU), augmentation and all,
    else as `task=<task>`. Tasks whose data are not here are listed as missing.
    """
    result = Result(
        what="data",
        device=device.type,
        machine=runtime.device_name(device),
        versions=runtime.package_versions(),
        options={"seconds": seconds, "git_revision": runtime.git_revision()},
        columns=["task", "model", "batch", "batch ms", "samples/s", "step ms", "share %"],
        notes=[
            "samples/s: of the pipeline alone; share: of a training step that a batch takes, "
            "while nothing else runs"
        ],
    )
    for name in names or sorted(paths.options("task")):
        try:
            result.rows.append(_row(name, device, seconds, data_dir))
        except UserError as error:
            result.missing[name] = str(error)
    return result


def _row(name: str, device: torch.device, seconds: float, data_dir: str) -> dict[str, Any]:
    found = CATALOG.get(name)
    if found is not None and found.missing(Path(data_dir)):
        raise UserError(f"its data are not in {data_dir}")
    budget = f"{name}/{'gpu' if device.type == 'cuda' else 'cpu'}"
    ready = budget in paths.options("experiment")
    overrides = [f"experiment={budget}"] if ready else [f"task={name}"]
    settings = config.compose("train", [*overrides, f"data_dir={data_dir}"])
    task = build.build_task(settings)
    task.prepare(device)
    runtime.seed_everything(settings.seed)
    model = build.build_model(settings, task.spec).to(device).train()
    optimizer = build_optimizer(model, settings.optim)
    precision = runtime.choose_precision(settings.precision, device)
    position = count()

    def batch() -> Any:
        return task.batch(next(position))

    def step() -> None:
        examples = batch()
        with runtime.autocast(device, precision):
            loss = task.loss(model, examples)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    took = in_turns({"batch": batch, "step": step}, device, seconds)
    alone, whole = milliseconds(took["batch"]), milliseconds(took["step"])
    size = settings.task.batch_size
    return {
        "task": name,
        "model": settings.model.name,
        "batch": size,
        "batch ms": alone,
        "samples/s": size / alone * 1e3,
        "step ms": whole,
        "share %": 100 * alone / whole,
    }
