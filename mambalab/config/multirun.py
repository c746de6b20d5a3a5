"""`mambalab train -m`: one job for every combination of the values given, through Hydra."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from mambalab.config import search
from mambalab.config.compose import compose_prepared, finish, register_user_conf, typed
from mambalab.config.overrides import jobs, prepare
from mambalab.config.schema import TrainConfig
from mambalab.errors import UserError

STOPPED = (130, 143)  # what a job returns when SIGINT or SIGTERM stopped it


class _StopSweep(BaseException):
    """Ends Hydra's loop over the jobs; it must pass what Hydra catches of a job."""


@dataclass
class Sweep:
    """Jobs that were checked, ready to run.

    Attributes:
        overrides: as Hydra takes them, sweeps unexpanded.
        names: what distinguishes each job, for people.
        configs: the configuration of each job.
    """

    overrides: list[str]
    names: list[str]
    configs: list[DictConfig]
    failed: list[str] = field(default_factory=list)
    started: int = 0
    stopped: int = 0  # status of a job that a signal stopped; it ended the sweep

    def run(self, command: Callable[[TrainConfig], int]) -> int:
        """Run every job, the rest also when one fails.

        Returns:
            0; 1 if any failed; 130 or 143 if a signal stopped one, which ends the sweep.

        Raises:
            UserError: nothing could be started.
        """
        import hydra

        def job(cfg: DictConfig) -> int:
            name = self.names[self.started]
            self.started += 1
            print(f"[{self.started}/{len(self.names)}] {name}", flush=True)
            status = self._run_one(command, cfg)
            if status in STOPPED:
                self.stopped = status
                raise _StopSweep
            if status:
                self.failed.append(name)
            return status

        app = hydra.main(str(search.package_conf()), "train", version_base="1.3")(job)
        register_user_conf()
        with _command_line(["mambalab", "--multirun", *self.overrides]):
            try:
                app()
            except _StopSweep:
                pass
            except KeyboardInterrupt:
                self._list_rest()
                raise
            except OSError as error:
                raise UserError(f"{error.filename}: {error.strerror}") from error
            except (TypeError, ValueError) as error:
                if self.started == 0 and sys.version_info >= (3, 14):
                    raise UserError(
                        f"-m: Hydra {hydra.__version__} cannot sweep on Python 3.14 ({error}); "
                        "use Python 3.13, or start the runs one by one"
                    ) from error
                raise
        return self._report()

    def _run_one(self, command: Callable[[TrainConfig], int], cfg: DictConfig) -> int:
        try:
            return command(typed(finish("train", cfg)))
        except UserError as error:
            print(f"mambalab: error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        except Exception:  # a bug ends its own job, not the night's other ones
            traceback.print_exc()
        return 1

    def _report(self) -> int:
        total = len(self.names)
        if self.started != total and not self.stopped:
            raise UserError(f"only {self.started} of {total} jobs were started")
        for name in self.failed:
            print(f"failed: {name}", file=sys.stderr)
        if self.stopped:
            print(f"stopped: {self.names[self.started - 1]}", file=sys.stderr)
        self._list_rest()
        done = self.started - len(self.failed) - bool(self.stopped)
        on = "; the same command goes on" if self.stopped else ""
        print(f"{done} of {total} jobs finished{on}")
        return self.stopped or (1 if self.failed else 0)

    def _list_rest(self) -> None:
        for name in self.names[self.started :]:
            print(f"not run: {name}", file=sys.stderr)


@contextmanager
def _command_line(argv: list[str]) -> Iterator[None]:
    """Lets Hydra see `argv`, and pass exceptions on instead of printing them itself."""
    before, switch = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = argv, "1"
    try:
        yield
    finally:
        sys.argv = before
        if switch is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = switch


def plan(overrides: list[str]) -> Sweep:
    """Expand the sweep and check every job of it; nothing is created.

    Raises:
        UserError: the first mistake in any job, named with the job.
    """
    prepared = prepare("train", overrides, multirun=True)
    expanded = jobs(prepared)
    common = set.intersection(*map(set, expanded))
    names = [" ".join(o for o in job if o not in common) or "as it is" for job in expanded]
    configs: list[Any] = []
    for job, name in zip(expanded, names, strict=True):
        try:
            configs.append(compose_prepared("train", job))
        except UserError as error:
            raise UserError(f"{error} (in job {name})" if len(names) > 1 else str(error)) from error
    return Sweep(prepared, names, configs)
