"""Threads are not more than a container or a job of SLURM may run."""

import os

import pytest

from mambalab.utils import cores


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine of 64 cores without a quota, in whose control groups a test may write."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "OWN_GROUPS", tmp_path / "own")
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "nonsense"}, 64),
        ({"cpu.max": "100 0"}, 64),
        # A group of one's own, and the one above it.
        ({"own": "0::/a/b\n", "a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        # Version 1, with several controllers in one place.
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "800000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        (
            {
                "own": "5:memory:/x\n4:cpu,cpuacct:/box\nrubbish\n",
                "cpu,cpuacct/box/cpu.cfs_quota_us": "200000",
                "cpu,cpuacct/box/cpu.cfs_period_us": "100000",
            },
            2,
        ),
    ],
)
def test_a_quota_counts(tmp_path, files, count):
    for name, text in files.items():
        write(tmp_path / name, text)
    assert cores.allowed() == count
    cores.limit_threads()
    assert os.environ.get("OMP_NUM_THREADS") == (None if count == 64 else str(count))


@pytest.mark.parametrize(("given", "count"), [("8", 8), ("100", 64), ("", 64), ("many", 64)])
def test_a_task_of_slurms_counts(monkeypatch, given, count):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
    assert cores.allowed() == count


def test_what_the_user_has_set_wins(monkeypatch, tmp_path):
    write(tmp_path / "cpu.max", "200000 100000")
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    cores.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "16"
