"""The CPU kernels among threads, forks and caches; each result must be the same bit for bit."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
from types import SimpleNamespace

import numba
import pytest
import torch

from mambalab.ops import selective_scan
from mambalab.ops.cpu import conv_kernels
from mambalab.ops.cpu import runtime as cpu_runtime
from tests.ops.cases import cast, identical, results, scan_case


def scan(**tensors):
    return selective_scan(**tensors, delta_softplus=True, return_final_state=True, backend="cpu")


def large_case():
    """Enough work for several threads."""
    return cast(scan_case(4, 100, 48, 16), torch.float32)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_the_number_of_threads_changes_nothing(monkeypatch):
    case = large_case()
    two = results(scan, case)
    monkeypatch.setattr(cpu_runtime, "_openmp_team", lambda: None)
    pooled = results(scan, case)
    torch.set_num_threads(1)
    one = results(scan, case)
    torch.set_num_threads(7)
    seven = results(scan, case)
    assert identical(two, one)
    assert identical(two, pooled)
    assert identical(two, seven)


@pytest.mark.usefixtures("two_threads")
def test_torch_threads_are_used(monkeypatch):
    def team(call, address, threads, flags):
        used.append(threads)
        call(address)

    used = []
    monkeypatch.setattr(cpu_runtime, "_openmp_team", lambda: team)
    scan(**large_case())
    scan(**cast(scan_case(1, 1, 8, 4), torch.float32))  # too small to share
    torch.set_num_threads(1)
    scan(**large_case())
    assert used == [2]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("pool", [False, True])
def test_several_python_threads_at_once(pool, monkeypatch):
    if pool:
        monkeypatch.setattr(cpu_runtime, "_openmp_team", lambda: None)
    case = large_case()
    expected = results(scan, case)
    found = []

    def work():
        torch.set_num_threads(2)  # OpenMP's setting belongs to each thread
        found.extend(identical(results(scan, case), expected) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 20


def run(program, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_children_compute_too():
    """Neither OpenMP nor a pool survives a fork: children and their children run alone."""
    run(
        """
        import os, signal, torch
        from tests.ops.cases import identical, results
        from tests.ops.cpu.test_runtime import large_case, scan

        torch.set_num_threads(2)
        case = large_case()
        expected = results(scan, case)

        def child():
            signal.alarm(300)
            if not identical(results(scan, case), expected):
                os._exit(1)

        pid = os.fork()
        if pid == 0:
            child()
            if (grandchild := os.fork()) == 0:
                child()
                os._exit(0)
            os._exit(os.waitpid(grandchild, 0)[1] != 0)
        assert os.waitpid(pid, 0)[1] == 0
        assert identical(results(scan, case), expected)
        """
    )


def _first_sum(index):
    case = large_case()
    return scan(**case)[0].sum().item()


@pytest.mark.skipif(sys.platform != "linux", reason="DataLoader workers are forked on Linux")
def test_data_loader_workers_compute_too():
    run(
        """
        import warnings
        import torch
        from tests.ops.cpu.test_runtime import Sums, _first_sum

        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork")
        torch.set_num_threads(2)
        expected = _first_sum(0)
        loader = torch.utils.data.DataLoader(
            Sums(), batch_size=None, num_workers=2, multiprocessing_context="fork"
        )
        assert list(loader) == [expected] * 4
        """
    )


class Sums(torch.utils.data.Dataset):
    """Four times the same scan."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return _first_sum(index)


def test_spawned_children_compute_too():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_first_sum, [0]) == [_first_sum(0)]


def test_compilation_is_announced_once_and_cached(tmp_path):
    program = """
        import torch
        from mambalab.ops import causal_conv1d
        x, weight = torch.ones(1, 3, 4), torch.ones(4, 2)
        assert causal_conv1d(x, weight, backend="cpu").sum().item() == 20
        causal_conv1d(x, weight, backend="cpu")
        """
    first = run(program, NUMBA_CACHE_DIR=str(tmp_path))
    assert first.stderr.count("compiling the CPU kernels") == 1
    assert first.stdout == ""
    assert run(program, NUMBA_CACHE_DIR=str(tmp_path)).stderr == ""


@pytest.fixture
def unwritable(monkeypatch, tmp_path):
    """numba that can keep nothing but in the folders listed here; temporary files in tmp_path."""
    writable = []

    def compiled(signature, cache=False):
        if cache and numba.config.CACHE_DIR not in writable:
            raise RuntimeError("cannot cache function 'f': no locator available for file 'x.py'")
        return lambda function: SimpleNamespace(address=0)

    monkeypatch.setattr(numba, "cfunc", compiled)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(cpu_runtime, "_cacheable", True)
    return writable


def load_kernels(capsys) -> list[str]:
    for _ in range(2):
        cpu_runtime.Kernel(conv_kernels.build_forward, conv_kernels.ConvArgs._fields).load()
    return capsys.readouterr().err.splitlines()


def test_without_a_writable_folder_a_private_one_keeps_kernels(unwritable, tmp_path, capsys):
    folder = tmp_path / f"mambalab-numba-{os.getuid()}"
    unwritable.append(str(folder))
    (line,) = load_kernels(capsys)
    assert f"are kept in {folder}; set NUMBA_CACHE_DIR to a writable folder" in line
    assert folder.stat().st_mode & 0o777 == 0o700


def test_without_any_folder_it_compiles_each_time_and_says_so(unwritable, tmp_path, capsys):
    (tmp_path / f"mambalab-numba-{os.getuid()}").mkdir(mode=0o777)
    (tmp_path / f"mambalab-numba-{os.getuid()}").chmod(0o777)
    (line,) = load_kernels(capsys)
    assert "cannot be kept and are compiled at each start; set NUMBA_CACHE_DIR" in line


def test_no_folder_is_called_tilde(unwritable, monkeypatch, capsys):
    monkeypatch.setattr(cpu_runtime, "home_is_known", lambda: False)
    monkeypatch.setattr(os, "access", lambda path, mode: "mambalab-numba" in str(path))
    asked = []

    def compiled(signature, cache=False):
        asked.append(numba.config.CACHE_DIR)
        return lambda function: SimpleNamespace(address=0)

    monkeypatch.setattr(numba, "cfunc", compiled)
    assert len(load_kernels(capsys)) == 1
    assert all("mambalab-numba" in folder for folder in asked)


def test_other_failures_of_numba_are_not_hidden(monkeypatch):
    def broken(signature, cache=False):
        raise RuntimeError("LLVM is out of order")

    monkeypatch.setattr(numba, "cfunc", broken)
    kernel = cpu_runtime.Kernel(conv_kernels.build_forward, conv_kernels.ConvArgs._fields)
    with pytest.raises(RuntimeError, match="out of order"):
        kernel.load()
