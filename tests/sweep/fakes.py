"""Jobs that no process runs, for tests of what watches them."""

from dataclasses import dataclass, field

from omegaconf import OmegaConf

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.sweep.folder import SweepFolder
from mambalab.sweep.plan import Job
from mambalab.utils.files import write_json


def job(sweep: SweepFolder, name: str) -> Job:
    """A job that is nothing but a name and a folder."""
    return Job(name, OmegaConf.create({"run_dir": str(sweep.path / name), "device": "cpu"}))


def run_of(folder, metric: str = "val/loss", values=((4, 2.0),), **summary) -> None:
    """A run folder with some values."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("seed: 1\n")
    rows = b"".join(run_folder.encode(step, {metric: value}) for step, value in values)
    (folder / "metrics.jsonl").write_bytes(rows)
    facts = {"status": "FINISHED", "metric": metric, **summary}
    write_json(folder / "summary.json", facts)


@dataclass
class FakeHandle:
    """A job that ends after some polls, or when asked, or when killed."""

    sweep: SweepFolder
    job: Job
    polls: float = 2
    answer: int | None = 0  # None: it ends without a word
    status: int | None = 0
    reason: str | None = None
    obeys: bool = True
    where: str = ""
    asked: list[int] = field(default_factory=list)
    killed: bool = False

    def poll(self):
        self.polls -= 1
        if self.polls > 0 and not self.killed:
            return False, None
        if self.answer is not None and not self.killed:
            answer = self.sweep.answer_file(self.job.name)
            answer.parent.mkdir(parents=True, exist_ok=True)
            write_json(answer, {"status": self.answer, "reason": self.reason})
        return True, -9 if self.killed else self.status

    def waits(self) -> None:
        return None

    def fate(self) -> None:
        return None

    def stop(self, number: int) -> None:
        self.asked.append(int(number))
        if self.obeys:
            self.polls, self.answer, self.status = 0, 130, 130

    def kill(self) -> None:
        self.killed = True


class FakeLauncher:
    """Has room for some jobs; `how` says of a name how its job behaves."""

    def __init__(self, sweep: SweepFolder, places: int = 2, breaks_at: int | None = None, **how):
        self.sweep = sweep
        self.places = places
        self.breaks_at = breaks_at
        self.how = how
        self.handles: list[FakeHandle] = []

    def room(self) -> int:
        return self.places - sum(h.polls > 0 and not h.killed for h in self.handles)

    def start(self, jobs):
        if self.breaks_at is not None and len(self.handles) >= self.breaks_at:
            raise UserError("the cluster is on fire")
        new = [FakeHandle(self.sweep, j, **self.how.get(j.name, {})) for j in jobs]
        self.handles += new
        return list(new)
