"""The quarter of an hour on a GPU, its stages and its clock, without a GPU."""

import json
import time

import pytest

from mambalab.bench import mamba_ssm_source, peers
from mambalab.errors import UserError
from mambalab.ops.reference import selective_scan_reference
from tests.gpu import __main__ as quarter
from tests.gpu.__main__ import Stage, carry_out, stages

SLEEPS = ("timeit", "-n1", "-r1", "import time; time.sleep(600)")


def test_stages_are_in_order_and_have_their_share_of_the_time(tmp_path):
    found = stages("cuda", tmp_path, quick=False)
    limits = [(stage.name, stage.seconds) for stage in found[:4]]
    assert limits == [("correctness", 60), ("scan", 150), ("train", 120), ("generate", 60)]
    assert all(stage.seconds is None for stage in found[4:])
    assert all("tracking=jsonl" in stage.words for stage in found[4:]), "no mlflow there"


def test_a_stage_ends_when_its_time_is_over(tmp_path):
    told = carry_out(Stage("slow", SLEEPS, 0.5), tmp_path, time.monotonic() + 300)
    assert told["status"] == "its time was over"
    assert (tmp_path / "slow.log").exists()


def test_what_fails_is_told_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    made = [Stage("bad", ("no_such_module",)), Stage("good", ("timeit", "-n1", "-r1", "1"))]
    monkeypatch.setattr(quarter, "stages", lambda *_, **__: made)
    monkeypatch.setattr("sys.argv", ["gpu", "--out", str(tmp_path)])
    assert quarter.main() == 1
    told = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["status"] for row in told] == ["exit 1", "done"]
    assert "no_such_module" in (tmp_path / "bad.log").read_text()
    assert "bad: exit 1" in capsys.readouterr().out


def test_nothing_is_begun_without_time(tmp_path):
    told = carry_out(Stage("late", SLEEPS), tmp_path, time.monotonic() + 20)
    assert told["status"] == "no time left"


def test_sources_that_are_not_there_are_told(tmp_path, monkeypatch):
    import torch

    monkeypatch.setenv(mamba_ssm_source.VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match="no csrc/selective_scan there"):
        mamba_ssm_source.build(tmp_path)
    found = peers.mamba_ssm(torch.device("cuda"))
    assert found.scan is None
    assert "no csrc/selective_scan there" in (found.missing or "")


class Kernels:
    """The interface of mamba_ssm's extension, computed by the reference."""

    def fwd(self, u, delta, A, B, C, D, z, bias, softplus):
        assert (z, bias, softplus) == (None, None, False)
        assert B.shape == (u.shape[0], 1, A.shape[1], u.shape[2])
        y, _ = selective_scan_reference(
            u.transpose(1, 2), delta.transpose(1, 2), A, B[:, 0].transpose(1, 2),
            C[:, 0].transpose(1, 2), D,
        )  # fmt: skip
        return [y.transpose(1, 2), None]

    def bwd(self, u, delta, A, B, C, D, z, bias, dout, x, out, dz, softplus, recompute):
        import torch

        leaves = [t.detach().requires_grad_() for t in (u, delta, A, B, C, D)]
        with torch.enable_grad():
            y = self.fwd(*leaves, None, None, False)[0]
        return [*torch.autograd.grad(y, leaves, dout), None, None]


def test_the_compiled_scan_has_our_shapes_and_gradients():
    import torch

    make = torch.Generator().manual_seed(0)
    u, delta = torch.rand(2, 2, 5, 3, generator=make, dtype=torch.float64)
    B, C = torch.randn(2, 2, 5, 4, generator=make, dtype=torch.float64)
    A, D = -torch.rand(3, 4, generator=make).double(), torch.randn(3, generator=make).double()
    ours = [x.clone().requires_grad_() for x in (u, delta, A, B, C, D)]
    theirs = [x.clone().requires_grad_() for x in (u, delta, A, B, C, D)]
    y = mamba_ssm_source.scan_of(Kernels())(*ours)
    z, _ = selective_scan_reference(*theirs)
    assert torch.allclose(y, z)
    grads = torch.autograd.grad(y.sum(), ours)
    for ours_grad, other in zip(grads, torch.autograd.grad(z.sum(), theirs), strict=True):
        assert torch.allclose(ours_grad, other)
