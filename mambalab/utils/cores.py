"""How many cores this process may use: by its affinity, by a container's quota, by SLURM."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
_QUOTA_V1, _PERIOD_V1 = "cpu.cfs_quota_us", "cpu.cfs_period_us"


def allowed() -> int:
    """Count the cores: in a container, or in a job of SLURM, fewer than the machine has."""
    count = by_affinity()
    limits = [*_quotas(), *_of_slurm()]
    return max(1, min([count, *limits]))


def by_affinity() -> int:
    """Count the cores on which the system lets this process run; torch takes as many threads."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def limit_threads() -> None:
    """Set OMP_NUM_THREADS where fewer cores may be used than the affinity has.

    Must run before torch is imported. What the user has set there wins. More threads than a quota
    allows are stopped for most of the time, all of them.
    """
    if "OMP_NUM_THREADS" not in os.environ and (count := allowed()) < by_affinity():
        os.environ["OMP_NUM_THREADS"] = str(count)


def _of_slurm() -> list[int]:
    """Cores of a task of SLURM's, which does not bind them on every cluster."""
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return [int(given)] if given.isdecimal() and int(given) else []


def _quotas() -> list[int]:
    """Cores that the quotas of this process's control groups and of those above them allow."""
    found = []
    for folder in _folders():
        try:
            if (folder / "cpu.max").is_file():  # version 2
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = ((folder / n).read_text() for n in (_QUOTA_V1, _PERIOD_V1))
            if int(quota) > 0:  # -1 in version 1 is none
                found.append(math.ceil(int(quota) / int(period)))
        except (OSError, ValueError, ZeroDivisionError):  # not there, or "max"
            continue
    return found


def _folders() -> list[Path]:
    """Folders that may hold a quota: of the root, and from this process's groups upwards."""
    found = [CGROUPS, CGROUPS / "cpu", CGROUPS / "cpu,cpuacct"]
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, kinds, place = line.split(":", 2) if line.count(":") >= 2 else ("", "x", "")
        if kinds and "cpu" not in kinds.split(","):
            continue
        root = CGROUPS / kinds
        own = root / place.lstrip("/")
        found += [own, *(p for p in own.parents if p.is_relative_to(root))]
    return found
