"""Memory that runs out is told in one line, whichever library found out."""

import errno
import sys

import pytest
import torch

from mambalab.errors import UserError
from mambalab.utils import memory
from mambalab.utils.packages import why_not_imported


def too_much_of_torch():
    torch.empty(2**46)


def beyond_all_numbers():
    torch.empty(2**40, 2**40)


def fails_with(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    "run",
    [
        too_much_of_torch,
        beyond_all_numbers,
        fails_with(MemoryError()),
        fails_with(OSError(errno.ENOMEM, "Cannot allocate memory")),
        fails_with(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")),
        fails_with(RuntimeError("std::bad_alloc")),
        fails_with(RuntimeError("could not create a primitive")),
        fails_with(RuntimeError("could not create a primitive descriptor for a matmul primitive")),
        fails_with(RuntimeError("could not execute a primitive")),
        fails_with(RuntimeError("Resource temporarily unavailable")),
        fails_with(ImportError("a.so: failed to map segment from shared object")),
        fails_with(ImportError("a.so: cannot allocate memory in static TLS block")),
        fails_with(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`")),
    ],
)
def test_one_line_names_what_to_lower(run):
    with pytest.raises(UserError) as caught, memory.told_in_one_line():
        run()
    line = str(caught.value)
    assert "\n" not in line
    for word in ("out of ", "task.batch_size", "task.seq_len", "trainer.grad_accum", "model."):
        assert word in line


@pytest.mark.parametrize(
    "error",
    [
        *(RuntimeError("shape mismatch"), OSError(errno.EACCES, "no"), ValueError("memory")),
        *(KeyError(), ModuleNotFoundError("No module named 'a'")),
        ImportError("a.so: undefined symbol: b"),
    ],
)
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, memory.told_in_one_line():
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModuleNotFoundError("No module named 'a'"), "not installed (No module named 'a')"),
        (ImportError("a.so: undefined symbol"), "installed, but cannot be imported (a.so: undef"),
    ],
)
def test_a_package_that_fails_is_not_called_absent(error, told):
    assert why_not_imported(error).startswith(told)


def test_a_package_for_which_there_is_no_memory_is_not_called_absent(monkeypatch):
    from mambalab.tasks.digits import DigitsTask

    class NoMemory:
        def find_spec(self, name, *_):
            if name == "sklearn.datasets":
                raise ImportError("x.so: failed to map segment from shared object")

    monkeypatch.delitem(sys.modules, "sklearn.datasets", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoMemory(), *sys.meta_path])
    with pytest.raises(UserError, match="out of memory"), memory.told_in_one_line():
        DigitsTask.read(None)


def test_a_run_that_finds_no_memory_is_marked_failed(folder, capsys, monkeypatch):
    from mambalab.train.loop import Trainer
    from tests.lab import one_line, only_run, summary, train

    monkeypatch.setattr(Trainer, "_train_step", lambda self: too_much_of_torch())
    assert train() == 1
    assert "task.batch_size" in one_line(capsys)
    facts = summary(only_run(folder))
    assert facts["status"] == "FAILED"
    assert "task.batch_size" in facts["reason"]
    log = (only_run(folder) / "train.log").read_text()
    assert "Traceback" not in log


def test_a_model_that_does_not_fit_leaves_nothing_behind(folder, capsys, monkeypatch):
    from mambalab.runs import build
    from tests.lab import one_line, train

    monkeypatch.setattr(build, "build_model", lambda *_: too_much_of_torch())
    assert train() == 1
    assert "model.d_model" in one_line(capsys)
    assert not list(folder.glob("outputs/*/*/*/summary.json"))
