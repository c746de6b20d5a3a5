"""Places in which jobs run at once on one machine: a share of the cores each, and of the GPUs.

A GPU is leased by a file lock in the temporary folder, so that two sweeps on one machine do not
meet on it; the kernel ends the lease when the sweep and the job that holds it are gone. The lease
is no `utils.locks.locked`: it may be shared, and the job inherits its descriptor.
"""

import fcntl
import os
import stat
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from mambalab.errors import UserError
from mambalab.utils import cores

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def gpus() -> dict[str, str]:
    """Name the GPUs that a job could be given as CUDA_VISIBLE_DEVICES does, and their leases.

    The lease goes by the UUID: one sweep may call `0` what another calls `GPU-1a2b`. torch is not
    loaded.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if given is None else [name.strip() for name in given.split(",")]
    if names is not None and not set(names) - {"", "-1"}:
        return {}
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        lines = [line.partition(",") for line in found.stdout.splitlines() if "," in line]
    except (OSError, subprocess.SubprocessError):
        lines = []
    known = {index.strip(): uuid.strip() for index, _, uuid in lines}
    if names is None:
        return {uuid: uuid for uuid in known.values()}
    return {name: known.get(name, name) for name in names if name not in ("", "-1")}


@dataclass
class Slot:
    """A place for one job.

    Attributes:
        threads: CPU threads of its job; None = as many as torch likes.
        gpu: the GPU of its job, or several with commas between; None = it is given none.
    """

    threads: int | None = None
    gpu: str | None = None
    lease: list[int] = field(default_factory=list)  # descriptors of the locks

    def environment(self) -> dict[str, str]:
        """Return variables for the process of the job; what the user has set for threads stays."""
        found: dict[str, str] = {}
        if self.threads is not None:
            found = {k: os.environ.get(k, str(self.threads)) for k in THREAD_VARIABLES}
        if self.gpu is not None:
            found["CUDA_VISIBLE_DEVICES"] = self.gpu
        return found

    def __str__(self) -> str:
        words = [f"GPU {self.gpu}"] if self.gpu is not None else []
        if self.threads is not None:
            words.append(f"{self.threads} thread{'s' if self.threads > 1 else ''}")
        return ", ".join(words)


@dataclass
class Slots:
    """All places of this machine that a sweep uses.

    Attributes:
        count: jobs at once.
        threads: CPU threads of each; None = as many as torch likes.
        gpus: GPUs to be leased, from `gpus()`; empty = jobs are given none, or take what they see.
        jobs_per_gpu: jobs that may share one.
        devices: GPUs of a job (`trainer.devices`).
    """

    count: int
    threads: int | None = None
    gpus: dict[str, str] = field(default_factory=dict)
    jobs_per_gpu: int = 1
    devices: int = 1
    taken: list[Slot] = field(default_factory=list)
    _next: Slot | None = None  # promised by `has_room`

    @classmethod
    def plan(
        cls,
        n_jobs: int,
        jobs_per_gpu: int,
        device: str,
        noted_threads: int | None = None,
        jobs: int | None = None,
        devices: int = 1,
    ) -> "Slots":
        """Plan the places for `n_jobs` at once; -1 means as many as there are GPUs, or cores.

        Args:
            n_jobs: as in `hydra.launcher.n_jobs`.
            jobs_per_gpu: as in `hydra.launcher.jobs_per_gpu`.
            device: of the jobs. One that names a GPU by number is theirs to find: no leases.
            noted_threads: threads that the sweep's jobs had before. Unless n_jobs asks for
                several jobs they stay: another number of threads would change the last bits of
                a resumed run.
            jobs: how many there are; with n_jobs=-1 fewer than cores have more threads each.
            devices: processes of a job, each with a GPU or its share of the job's threads.

        Raises:
            UserError: there are not so many GPUs, or jobs of several GPUs are to share them.
        """
        cards = gpus() if device in ("auto", "cuda") else {}
        if n_jobs == 1 and not cards:
            return cls(1, noted_threads)
        if cards and devices > 1:
            if jobs_per_gpu > 1:
                raise UserError(
                    f"hydra.launcher.jobs_per_gpu={jobs_per_gpu}: jobs of trainer.devices={devices}"
                    " GPUs share none; give jobs_per_gpu=1"
                )
            if devices > len(cards):
                raise UserError(f"trainer.devices={devices}: there are {len(cards)} GPU(s)")
        if cards:
            places = len(cards) * jobs_per_gpu // devices
            count = places if n_jobs == -1 else min(n_jobs, places)
        elif n_jobs != -1:
            count = n_jobs
        elif noted_threads:
            return cls(max(1, cores.allowed() // noted_threads), noted_threads)
        else:
            count = min(max(1, cores.allowed() // devices), jobs or cores.allowed())
        return cls(count, max(1, cores.allowed() // count), cards, jobs_per_gpu, devices)

    def has_room(self) -> bool:
        """Tell whether `take` will give a place, which nobody else can have until then."""
        if self._next is None:
            self._next = self._find()
        return self._next is not None

    def take(self) -> Slot | None:
        """Take a free place; None if all are taken, or every GPU is leased by somebody."""
        slot, self._next = self._next or self._find(), None
        if slot is not None:
            self.taken.append(slot)
        return slot

    def give_back(self, slot: Slot) -> None:
        """Free a place."""
        self.taken = [other for other in self.taken if other is not slot]
        while slot.lease:
            os.close(slot.lease.pop())

    def _find(self) -> Slot | None:
        if len(self.taken) >= self.count:
            return None
        if not self.gpus:
            return Slot(self.threads)
        used = [slot.gpu for slot in self.taken]
        order = sorted(self.gpus, key=used.count)
        if self.devices > 1:
            return self._find_several()
        for share in range(self.jobs_per_gpu):  # a second job only where each has a first
            for gpu in order:
                if lease := _lease(self.gpus[gpu], share, alone=self.jobs_per_gpu == 1):
                    return Slot(self.threads, gpu, lease)
        return None

    def _find_several(self) -> Slot | None:
        """Lease as many GPUs as a job needs; none if there are fewer free ones."""
        held, leases = [], []
        for gpu, name in self.gpus.items():
            if lease := _lease(name, 0, alone=True):
                held.append(gpu)
                leases += lease
            if len(held) == self.devices:
                return Slot(self.threads, ",".join(held), leases)
        for descriptor in leases:
            os.close(descriptor)
        return None


def _lease(gpu: str, share: int, *, alone: bool) -> list[int]:
    """Lock a share of a GPU; returns the descriptors of the locks, none if somebody has it.

    Those who share a GPU hold its own lock together; who wants it alone, alone.
    """
    folder = Path(tempfile.gettempdir(), f"mambalab-gpus-{os.getuid()}")
    name = gpu.replace("/", "-")
    held: list[int] = []
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise UserError(
                f"{folder} is not yours alone: it is a link, or another user made it or may write "
                f"in it; remove it, or set TMPDIR to a folder of your own"
            )
        for file, kind in (
            (name, fcntl.LOCK_EX if alone else fcntl.LOCK_SH),
            (f"{name}.{share}", fcntl.LOCK_EX),
        ):
            held.append(
                os.open(folder / file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            )
            fcntl.flock(held[-1], kind | fcntl.LOCK_NB)
    except OSError as error:
        for descriptor in held:
            os.close(descriptor)
        if not isinstance(error, BlockingIOError):
            raise UserError(f"cannot lease a GPU in {folder}: {error.strerror}") from error
        return []
    return held
