"""Starts the processes of `trainer.devices=K` on this machine, with torchrun's own launcher.

Each carries out `mambalab __rank` (runs/rank.py). This process waits, passes signals on, and says
how it ended; the run folder is rank 0's.
"""

import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mambalab import config
from mambalab.errors import UserError
from mambalab.tasks.base import check_share
from mambalab.train import runtime
from mambalab.utils import command, process, torchrun
from mambalab.utils.files import read_json

ORDER = "MAMBALAB_RANK_ORDER"
"""Environment variable that tells a process what to train: passwords are not written to disk."""
ANSWERS = "MAMBALAB_RANK_ANSWERS"
"""Environment variable with the folder in which a process says how it ended, in `RANK.json`."""
_ELASTIC = "torch.distributed.elastic"
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


def is_wanted(settings: config.TrainConfig) -> bool:
    """Whether processes have to be started: several are asked for, and torchrun started none."""
    return (settings.trainer.devices or 1) > 1 and torchrun.place() is None


def check(settings: config.TrainConfig) -> None:
    """Raise UserError if so many processes cannot train here."""
    wanted = settings.trainer.devices or 1
    device = runtime.choose_device(settings.device)
    if device.type == "cuda":
        if device.index is not None:
            raise UserError(
                f"device={settings.device}: trainer.devices={wanted} takes as many GPUs; leave the "
                "number out, and choose with CUDA_VISIBLE_DEVICES"
            )
        if wanted > torch.cuda.device_count():
            raise UserError(
                f"trainer.devices={wanted}: this machine has {torch.cuda.device_count()} GPU(s)"
            )
    elif device.type != "cpu":
        raise UserError(f"trainer.devices={wanted}: several processes need CUDA GPUs or a CPU")
    check_share(settings.task.batch_size, wanted)


def run(settings: config.TrainConfig) -> str | None:
    """Train with `trainer.devices` processes; returns when all have ended well, or were stopped.

    Returns:
        The name of the signal that stopped them; None if they came to the end.

    Raises:
        UserError: one of them failed.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    size = settings.trainer.devices or 1
    handled = [
        name for name in _SIGNALS if signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN
    ]
    with tempfile.TemporaryDirectory(prefix="mambalab-ranks-") as folder:
        options: dict[str, Any] = {"signals_to_handle": ",".join(handled), "shutdown_timeout": 60}
        known = {field.name for field in dataclasses.fields(LaunchConfig)}
        launch = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=size,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            **{key: value for key, value in options.items() if key in known},
        )
        order = {"config": config.to_plain(settings), "command": command.current()}
        environment = {
            ORDER: json.dumps(order),
            ANSWERS: folder,
            "PYTHONPATH": process.python_path(),
            "OMP_NUM_THREADS": str(_threads(size)),
            "TORCHELASTIC_SIGNALS_TO_HANDLE": ",".join(handled),
            # DDP's advice on speed to every process of a model of the user's own, and the like.
            "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
        }
        words = ("-P", "-m", "mambalab", "__rank")
        with _environment(environment), _as_before():
            try:
                elastic_launch(launch, sys.executable)(*words)
            except SignalException as stopped:
                return signal.Signals(stopped.sigval).name
            except ChildFailedError as error:
                rank, failure = error.get_first_failure()
                raise UserError(_why(Path(folder), rank, failure, size)) from error
    return None


def _why(folder: Path, rank: int, failure: Any, size: int) -> str:
    """Say what happened to the process that failed first."""
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        return (
            f"process {rank} of {size} was ended by {name}, and so the others were stopped; the "
            "same command goes on from the last checkpoint"
        )
    for number in (rank, *range(size)):
        reason = read_json(folder / f"{number}.json").get("reason")
        if reason:
            return reason
    return f"process {rank} of {size} ended with status {failure.exitcode}"


def _threads(size: int) -> int:
    """Threads for each process: its share of those that this one would use."""
    return max(1, torch.get_num_threads() // size)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables inside the block: processes started there inherit them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Undo what the launcher does to signals and loggers of this process."""
    # It says in many lines what is said in one here; some of its loggers have levels of their own.
    names = [name for name in logging.root.manager.loggerDict if name.startswith(_ELASTIC)]
    levels = {name: logging.getLogger(name).level for name in (_ELASTIC, *names)}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {n: signal.getsignal(getattr(signal, n)) for n in _SIGNALS} if in_main else {}
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name, handler in handlers.items():
            signal.signal(getattr(signal, name), handler)
