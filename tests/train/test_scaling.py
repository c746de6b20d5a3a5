"""fp16: the loss scale, skipped steps, and where it is refused."""

import pytest
import torch
from torch import nn

from mambalab.errors import UserError
from mambalab.settings.train import Precision
from mambalab.train import runtime
from mambalab.train.nonfinite import NonFiniteError
from mambalab.train.scaling import MAX_SKIPPED_IN_A_ROW, LossScaler
from tests.train.toy import MUON, OPTIM, ToyTask, trainer

CPU = torch.device("cpu")


def test_it_is_refused_where_it_cannot_work():
    with pytest.raises(UserError, match="precision=fp16: only on NVIDIA GPUs") as caught:
        runtime.choose_precision(Precision.fp16, CPU)
    assert "\n" not in str(caught.value)
    assert runtime.choose_precision(Precision.fp16, torch.device("cuda")) is Precision.fp16


class Overflows(ToyTask):
    """A task whose gradients, once scaled, are more than float32 holds at some batches."""

    def __init__(self, at) -> None:
        super().__init__()
        self.at = at

    def loss(self, model, batch):
        loss = super().loss(model, batch)
        return loss * 1e36 if self.seen[-1] in self.at else loss


@pytest.mark.parametrize("optim", [OPTIM, MUON])
def test_a_step_that_overflows_is_skipped_counted_and_said(tmp_path, optim, caplog):
    task = Overflows({4})
    run, lines = trainer(tmp_path, task=task, optim=optim, precision=Precision.fp16)
    run.scaler._scaler = torch.amp.GradScaler("cpu", init_scale=1024)  # the first steps are good
    weights = {}
    step = run._train_step

    def watched():
        before = run.model[0].weight.detach().clone()
        step()
        weights[run.state.step] = not torch.equal(before, run.model[0].weight)

    run._train_step = watched
    with caplog.at_level("INFO"):
        result = run.run()
    assert result.status == "FINISHED"
    assert [step for step, moved in weights.items() if not moved] == [5]
    logged = {s: v for s, v in lines.rows if "train/loss" in v}
    assert [logged[s]["train/skipped_steps"] for s in (3, 6, 18)] == [0, 1, 1]
    assert [logged[s]["train/loss_scale"] for s in (3, 6, 18)] == [1024, 512, 512]
    assert run.scaler.skipped() == 1
    assert caplog.text.count("1 step was skipped before step 6") == 1


def test_the_norm_is_that_of_the_gradients_themselves(tmp_path):
    norms = []
    for precision in (Precision.fp32, Precision.fp16):
        run, lines = trainer(tmp_path / precision.value, precision=precision, log_every=1)
        if run.scaler is not None:
            run.scaler._scaler = torch.amp.GradScaler("cpu", init_scale=1024)
        run._train_step()
        norms.append(lines.rows[0][1]["train/grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=0.02)


def test_what_no_scale_helps_ends_the_run_in_one_line(tmp_path):
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4, 1))

        def forward(self, x):
            return x @ self.weight * float("inf")

    run, _ = trainer(tmp_path, net=Broken(), precision=Precision.fp16, max_steps=99, eval_every=99)
    with pytest.raises(NonFiniteError, match=rf"{MAX_SKIPPED_IN_A_ROW} steps in a row overflowed"):
        run.run()
    assert run.state.step < 2 * MAX_SKIPPED_IN_A_ROW
    assert torch.equal(run.model.weight.detach(), torch.zeros(4, 1))


def test_the_state_comes_back():
    one, two = LossScaler(CPU), LossScaler(CPU)
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter])
    for factor in (1.0, float("inf"), 1.0, 1.0):
        one.scale((parameter * factor).sum()).backward()
        one.unscale(optimizer)
        one.update((~torch.isfinite(parameter.grad).all()).float())
        optimizer.zero_grad()
    two.load_state_dict(one.state_dict())
    assert two.state_dict() == one.state_dict()
    assert two.values(5) == {"train/loss_scale": 32768.0, "train/skipped_steps": 1.0}
    with pytest.raises(LookupError):
        two.load_state_dict({})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu():
    device = torch.device("cuda")
    net = nn.Linear(8, 8, device=device)
    scaler = LossScaler(device)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    x = torch.randn(4, 8, device=device)
    with runtime.autocast(device, Precision.fp16):
        y = net(x)
    assert y.dtype == torch.float16
    before = net.weight.detach().clone()
    for factor, moves in ((float("inf"), False), (1.0, True)):
        scaler.scale((y * factor).float().sum()).backward(retain_graph=True)
        scaler.unscale(optimizer)
        bad = (~torch.isfinite(nn.utils.clip_grad_norm_(net.parameters(), 1.0))).float()
        scaler.update(bad)
        optimizer.found_inf = bad
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(net.weight, before) is not moves
    assert scaler.values(2) == {"train/loss_scale": 32768.0, "train/skipped_steps": 1.0}
