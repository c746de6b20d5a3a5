import os
import stat
import subprocess
import sys

import pytest

from mambalab.errors import UserError
from mambalab.sweep import slots
from mambalab.sweep.slots import Slot, Slots
from mambalab.utils import cores

TWO = {"0": "GPU-a", "1": "GPU-b"}


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """Eight cores, no GPU, leases in a folder of the test."""
    monkeypatch.setattr(cores, "allowed", lambda: 8)
    monkeypatch.setattr(slots, "gpus", dict)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    for name in slots.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def plan(n_jobs=-1, jobs_per_gpu=1, device="auto", threads=None) -> tuple[int, int | None, int]:
    found = Slots.plan(n_jobs, jobs_per_gpu, device, threads)
    return found.count, found.threads, len(found.gpus)


def test_cores_are_shared_out(monkeypatch):
    assert plan() == (8, 1, 0)
    assert plan(3) == (3, 2, 0)
    assert plan(20) == (20, 1, 0)
    assert plan(1) == (1, None, 0)
    monkeypatch.setattr(slots, "gpus", lambda: TWO)
    assert plan() == (2, 4, 2)
    assert plan(jobs_per_gpu=3) == (6, 1, 2)
    assert plan(1) == (1, 8, 2)
    assert plan(device="cpu") == (8, 1, 0)
    assert plan(device="cuda:1") == (8, 1, 0)


def test_threads_stay_when_a_sweep_goes_on():
    assert plan(threads=4) == (2, 4, 0)
    assert plan(threads=3) == (2, 3, 0)
    assert plan(1, threads=2) == (1, 2, 0)
    assert plan(4, threads=4) == (4, 2, 0)  # as asked for


def test_a_gpu_is_leased_once_also_between_sweeps():
    ours, theirs = Slots(2, 1, TWO), Slots(2, 1, {"GPU-b": "GPU-b", "GPU-a": "GPU-a"})
    first, second = ours.take(), theirs.take()
    assert first is not None
    assert str(first) == "GPU 0, 1 thread"
    assert str(second) == "GPU GPU-b, 1 thread"
    assert not ours.has_room()
    assert theirs.take() is None
    ours.give_back(first)
    again = theirs.take()
    assert str(again) == "GPU GPU-a, 1 thread"
    assert theirs.take() is None


def test_room_is_kept_for_whoever_asked():
    ours, theirs = Slots(1, 1, {"0": "GPU-a"}), Slots(1, 1, {"0": "GPU-a"})
    assert ours.has_room()
    assert not theirs.has_room()
    assert ours.take()
    assert not ours.has_room()


def test_several_jobs_share_a_gpu_when_all_have_one():
    ours = Slots(9, 1, TWO, jobs_per_gpu=2)
    taken = [ours.take() for _ in range(4)]
    assert [slot and slot.gpu for slot in taken] == ["0", "1", "0", "1"]
    assert ours.take() is None
    assert Slots(9, 1, TWO, jobs_per_gpu=3).take()  # who also shares
    for slot in taken:
        assert slot
        ours.give_back(slot)
    ours.give_back(Slot())  # not taken: nothing happens
    assert ours.taken == []


def test_who_wants_a_gpu_alone_does_not_get_a_shared_one():
    shared, alone = Slots(1, 1, TWO, jobs_per_gpu=2), Slots(2, 1, TWO)
    slot = shared.take()
    assert slot
    mine = alone.take()
    assert str(mine) == "GPU 1, 1 thread"
    assert alone.take() is None
    assert Slots(1, 1, {"1": "GPU-b"}, jobs_per_gpu=2).take() is None
    shared.give_back(slot)
    assert alone.take()


def test_a_lease_ends_with_its_process(tmp_path):
    code = (
        "from mambalab.sweep.slots import Slots; import os\n"
        "assert Slots(1, 1, {'0': 'GPU-a'}).take(); os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], check=False, env=environment)
    assert done.returncode == -9
    assert Slots(1, 1, {"0": "GPU-a"}).take()


def test_leases_that_cannot_be_made_are_one_line(tmp_path):
    (tmp_path / f"mambalab-gpus-{os.getuid()}").write_text("")
    with pytest.raises(UserError, match="cannot lease a GPU in"):
        Slots(1, 1, TWO).take()


@pytest.mark.parametrize("kind", ["link", "writable", "another's"])
def test_leases_are_made_in_a_folder_of_ones_own_only(tmp_path, monkeypatch, kind):
    folder = tmp_path / f"mambalab-gpus-{os.getuid()}"
    folder.mkdir()
    if kind == "link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to("elsewhere")
    elif kind == "writable":
        folder.chmod(0o777)
    else:
        other = os.getuid() + 1
        folder.rename(tmp_path / f"mambalab-gpus-{other}")
        monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(UserError, match="is not yours alone"):
        Slots(1, 1, TWO).take()


def test_the_environment_of_a_job(monkeypatch):
    assert Slot().environment() == {}
    monkeypatch.setenv("MKL_NUM_THREADS", "5")
    found = Slot(2, "GPU-a").environment()
    assert found["OMP_NUM_THREADS"] == "2"
    assert found["MKL_NUM_THREADS"] == "5"
    assert found["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    assert str(Slot(2, "1")) == "GPU 1, 2 threads"
    assert str(Slot(1)) == "1 thread"


@pytest.fixture
def nvidia(monkeypatch, tmp_path):
    """An nvidia-smi that knows two GPUs."""
    monkeypatch.undo()
    tool = tmp_path / "bin/nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho '0, GPU-a'\necho '1, GPU-b'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, {"GPU-a": "GPU-a", "GPU-b": "GPU-b"}),
        ("1", {"1": "GPU-b"}),
        ("GPU-b, 0", {"GPU-b": "GPU-b", "0": "GPU-a"}),
        ("MIG-7", {"MIG-7": "MIG-7"}),
        ("", {}),
        ("-1", {}),
    ],
)
def test_gpus_are_those_the_person_lets_us_see(nvidia, monkeypatch, visible, found):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert slots.gpus() == found


def test_no_nvidia_smi_no_gpus(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert slots.gpus() == {}


def test_jobs_of_several_gpus_get_as_many(monkeypatch):
    four = {name: f"GPU-{name}" for name in "0123"}
    monkeypatch.setattr(slots, "gpus", lambda: four)
    found = Slots.plan(-1, 1, "auto", devices=2)
    assert (found.count, found.threads) == (2, 4)
    first, second = found.take(), found.take()
    assert first is not None
    assert second is not None
    assert [first.environment()["CUDA_VISIBLE_DEVICES"], second.gpu] == ["0,1", "2,3"]
    assert Slots.plan(-1, 1, "auto", devices=2).take() is None  # another sweep's
    found.give_back(first)
    again = Slots.plan(-1, 1, "auto", devices=2).take()
    assert again is not None
    assert again.gpu == "0,1"
    with pytest.raises(UserError, match=r"trainer.devices=5: there are 4 GPU\(s\)"):
        Slots.plan(-1, 1, "auto", devices=5)
    with pytest.raises(UserError, match="give jobs_per_gpu=1"):
        Slots.plan(-1, 2, "auto", devices=2)


def test_on_a_cpu_jobs_of_several_processes_share_the_cores():
    found = Slots.plan(-1, 1, "cpu", devices=4)
    assert (found.count, found.threads) == (2, 4)
