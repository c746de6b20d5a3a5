"""The scene of one try: a folder of its own, a run in it, and what must come of that run."""

import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import oracle, traps
from tests.faults.process import LIMIT_SECONDS, Before, BrokenPromiseError, Child, Result
from tests.lab import TEXT

STEPS = 24
CHECKPOINTS = (5, 10, 15, 20, 24)
COMMON = [
    *("model.d_model=16", "model.n_layer=1", "model.d_state=4"),
    *(f"trainer.max_steps={STEPS}", "trainer.max_minutes=null", "trainer.checkpoint_every=5"),
    *("trainer.sample_chars=20", "device=cpu", "output_dir=out"),
]
ON_TEXT = ["task=text", "task.path=text.txt", "task.seq_len=32", "task.batch_size=4"]
VARIANTS = {
    "text": [*ON_TEXT, "dropout=ssm", "trainer.eval_every=8", "trainer.log_every=3"],
    "odd": [
        *ON_TEXT,
        *("trainer.eval_every=9", "trainer.log_every=7", "trainer.grad_accum=2"),
    ],
    "transformer": [
        *ON_TEXT,
        *("model=transformer_equal_depth", "trainer.eval_every=6", "trainer.log_every=4"),
        "trainer.patience=9",
    ],
    "digits": [
        *("task=digits", "task.batch_size=8", "task.eval_batch_size=180", "task.val_size=60"),
        *("model.bidirectional=true", "data_fraction=0.1"),
        *("trainer.eval_every=12", "trainer.log_every=6"),
    ],
}


SECOND_SEED = "text, seed 2"  # of sweeps


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to.

    Attributes:
        facts: what it left.
        seconds: from its start to its end, measured when the harness began.
        events: on files of its folder, as `traps` counts them.
        writes: those among them that make or change a file.
    """

    facts: oracle.Facts
    seconds: float
    events: int
    writes: int


@dataclass
class Scene:
    """One try.

    Attributes:
        folder: working directory of all its commands.
        rng: decides everything that is random in it.
        undisturbed: by variant.
        template: an empty MLflow store.
        variant: which run, of VARIANTS.
        message: what the program said to the fault.
        tracking: more words of the command.
        explicit: the run folder if it is not to lie below the output folder.
    """

    folder: Path
    rng: random.Random
    undisturbed: dict[str, Undisturbed]
    template: Path
    variant: str = "text"
    message: str = ""
    tracking: list[str] = field(default_factory=list)
    explicit: Path | None = None
    _outputs: int = 0

    def __post_init__(self) -> None:
        (self.folder / "out").mkdir(parents=True, exist_ok=True)
        (self.folder / "text.txt").write_text(TEXT[:4000])
        shutil.copyfile(self.template, self.store)

    # -- places -------------------------------------------------------------------------------

    @property
    def store(self) -> Path:
        """The MLflow database that belongs to the output folder."""
        return self.folder / "out" / "mlflow.db"

    @property
    def run_dir(self) -> Path:
        """The run folder; BrokenPromiseError if there is none, or more than one."""
        if self.explicit is not None:
            return self.explicit
        found = [p.parent for p in self.folder.glob("out/*/*/*/.lock")]
        found = found or [p.parent for p in self.folder.glob("out/*/*/*/config.yaml")]
        found = [p for p in found if ".old" not in p.name]
        if len(found) != 1:
            raise BrokenPromiseError(f"{len(found)} run folders, expected one")
        return found[0]

    def choose_text(self) -> None:
        """Take one of the variants that read text.txt."""
        own = [v for v in ("text", "odd", "transformer") if v in self.undisturbed]
        self.variant = self.rng.choice(own)

    def checkpoint(self, kind: str = "last") -> Path:
        """Folder of the newest checkpoint of a kind."""
        found = oracle.newest(self.run_dir, kind)
        if found is None:
            raise BrokenPromiseError(f"no checkpoint {kind}")
        return found

    @property
    def calm(self) -> Undisturbed:
        """The undisturbed run of this variant."""
        return self.undisturbed[self.variant]

    # -- commands -----------------------------------------------------------------------------

    def command(self, *extra: str) -> list[str]:
        """The words of the run's command."""
        place = [] if self.explicit is None else [f"run_dir={self.explicit}"]
        if self.variant == SECOND_SEED:
            return ["train", *VARIANTS["text"], *COMMON, "seed=2"]
        return ["train", *VARIANTS[self.variant], *COMMON, *place, *self.tracking, *extra]

    def start(
        self, argv: list[str] | None = None, before: Before | None = None, *extra: str
    ) -> Child:
        """Start a command, by default the run's own."""
        self._outputs += 1
        output = self.folder / f"output-{self._outputs}.txt"
        return Child(argv or self.command(*extra), self.folder, output, before)

    def call(
        self,
        *extra: str,
        argv: list[str] | None = None,
        before: Before | None = None,
        limit: float = LIMIT_SECONDS,
    ) -> Result:
        """Run a command to its end, by default the run's own."""
        return self.start(argv, before, *extra).wait(limit)

    def stop_after(self, step: int, *, events: int = 3, by: int = signal.SIGKILL) -> Result:
        """Start the run; a signal strikes it a few events after its checkpoint of `step`."""
        trap = traps.when_renamed(f"last-{step:08d}", events, traps.signal_self(by))
        return self.call(before=trap)

    def stopped(self, by: int = signal.SIGKILL) -> int:
        """Begin the run and stop it on its way; returns the step of its newest checkpoint."""
        step = self.rng.choice((10, 15, 20))
        self.stop_after(step, events=self.rng.randrange(1, 9), by=by)
        if (self.run_dir / "checkpoints").exists() and oracle.newest(self.run_dir, "last"):
            return int(self.checkpoint().name[-8:])
        raise BrokenPromiseError("the run was to be stopped after a checkpoint and has none")

    # -- promises -----------------------------------------------------------------------------

    def heard(self, result: Result) -> Result:
        """Keep what was said, for the table."""
        self.message = self.message or result.line
        return result

    def expect(self, result: Result, status: int | tuple[int, ...], what: str) -> Result:
        """Raise BrokenPromiseError unless a command ended with (one of) these statuses."""
        wanted = (status,) if isinstance(status, int) else status
        if result.status not in wanted:
            line = result.line or " ".join(result.output[-160:].split())
            raise BrokenPromiseError(f"{what}: status {result.status}, not {wanted}: {line}")
        return result

    def refused(self, result: Result, *words: str) -> None:
        """The command must have failed with one line that holds one of the words."""
        self.heard(result)
        self.expect(result, (1, 2), "should be refused")
        lines = [x for x in result.output.splitlines() if x.startswith("mambalab: error")]
        if len(lines) != 1:
            raise BrokenPromiseError(f"{len(lines)} lines of error, expected one")
        if words and not any(word.lower() in lines[0].lower() for word in words):
            raise BrokenPromiseError(f"the error does not say {' or '.join(words)}: {lines[0]}")

    def completes(self, *extra: str, mlflow: bool = True) -> Result:
        """The same command must end the run, and everything must be as if undisturbed."""
        result = self.heard(self.call(*extra))
        self.expect(result, 0, "the same command again")
        self.equals(mlflow=mlflow)
        return result

    def equals(self, *, mlflow: bool = True, swept: bool = True) -> None:
        """The run folder must equal an undisturbed one, and MLflow the folder."""
        oracle.facts(self.run_dir).check(self.calm.facts)
        if mlflow:
            oracle.check_mlflow(self.run_dir, self.store)
            if len(found := oracle.runs_in(self.store)) != 1:
                raise BrokenPromiseError(f"MLflow holds {len(found)} runs, expected one")
        if swept and (left := oracle.litter(self.run_dir)):
            raise BrokenPromiseError(f"litter: {', '.join(left[:4])}")

    def syncs(self) -> Result:
        """`mambalab sync` must bring MLflow up to date, and a second one must find all there."""
        first = self.call(argv=["sync", str(self.run_dir), "output_dir=out"])
        self.expect(first, 0, "mambalab sync")
        second = self.call(argv=["sync", str(self.run_dir), "output_dir=out"])
        self.expect(second, 0, "a second mambalab sync")
        if " 0 points sent" not in second.output:
            raise BrokenPromiseError(f"a second sync sends again: {second.output[:200]}")
        return first


def promise(kept: object, broken: str) -> None:
    """Raise BrokenPromiseError with this text unless `kept` is true."""
    if not kept:
        raise BrokenPromiseError(broken)


Play = Callable[[Scene], None]
