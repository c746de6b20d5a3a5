"""Places in which jobs run at once on one machine: a share of the cores each, and of the GPUs.

A GPU is leased by a file lock in the temporary folder, so that two sweeps on one machine do not
meet on it; the kernel ends the lease when its holder dies.
"""

import contextlib
import fcntl
import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus() -> list[str]:
    """GPUs that a job could be given, as CUDA_VISIBLE_DEVICES names them; torch is not loaded."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in found.stdout.splitlines() if line.strip()]


@dataclass
class Slot:
    """A place for one job.

    Attributes:
        threads: CPU threads of its job; None = as many as torch likes.
        gpu: the GPU of its job, or None.
    """

    threads: int | None = None
    gpu: str | None = None
    lease: int | None = None  # descriptor of the lock

    def environment(self) -> dict[str, str]:
        """Variables for the process of the job; what the user has set for threads stays."""
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
        gpus: GPUs to be leased; empty = jobs are given none, or take what they see.
        jobs_per_gpu: jobs that may share one.
    """

    count: int
    threads: int | None = None
    gpus: list[str] = field(default_factory=list)
    jobs_per_gpu: int = 1
    taken: list[Slot] = field(default_factory=list)

    @classmethod
    def plan(
        cls,
        n_jobs: int,
        jobs_per_gpu: int,
        device: str,
        noted_threads: int | None = None,
    ) -> "Slots":
        """The places for `n_jobs` at once; -1 means as many as there are GPUs, or cores.

        Args:
            n_jobs: as in `hydra.launcher.n_jobs`.
            jobs_per_gpu: as in `hydra.launcher.jobs_per_gpu`.
            device: of the jobs. One that names a GPU by number is theirs to find: no leases.
            noted_threads: threads that the sweep's jobs had before. With n_jobs=-1 they stay:
                another number of threads would change the last bits of a resumed run.
        """
        cards = gpus() if device in ("auto", "cuda") else []
        if n_jobs == 1 and not cards:
            return cls(1)
        if n_jobs != -1:
            count = n_jobs
        elif cards:
            count = len(cards) * jobs_per_gpu
        else:
            count = max(1, cores() // noted_threads) if noted_threads else cores()
        return cls(count, max(1, cores() // count), cards, jobs_per_gpu)

    def take(self) -> Slot | None:
        """A free place, or None: all are taken, or every GPU is leased by somebody."""
        if len(self.taken) >= self.count:
            return None
        slot = Slot(self.threads)
        if self.gpus:
            leased = self._lease()
            if leased is None:
                return None
            slot.gpu, slot.lease = leased
        self.taken.append(slot)
        return slot

    def give_back(self, slot: Slot) -> None:
        """Free a place."""
        self.taken.remove(slot)
        if slot.lease is not None:
            os.close(slot.lease)

    def _lease(self) -> tuple[str, int] | None:
        """The least used GPU with room, and the descriptor of its lock."""
        used = [slot.gpu for slot in self.taken]
        for gpu in sorted(self.gpus, key=used.count):
            for share in range(self.jobs_per_gpu):
                path = _leases() / f"{gpu.replace('/', '-')}.{share}"
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return gpu, descriptor
                os.close(descriptor)
        return None


def _leases() -> Path:
    folder = Path(tempfile.gettempdir(), f"mambalab-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
