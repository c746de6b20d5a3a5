"""Dropout: keep rates, scaling, resets, gradient flow, identity in evaluation."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from mambalab.models.dropout import NO_DROPOUT, Dropout, SSMDropout, s4d_real_log
from mambalab.settings.model import DropoutSettings


@pytest.mark.parametrize("p", [0.1, 0.35, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keep_rate_and_scale(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(400_003, dtype=dtype)
    y = Dropout(p)(x)
    dropped = (y == 0).double().mean().item()
    assert abs(dropped - p) < 5 * (p * (1 - p) / x.numel()) ** 0.5 + 1 / 65536
    kept = y[y != 0]
    assert kept.dtype == dtype
    torch.testing.assert_close(kept.float(), torch.full(kept.shape, 1 / (1 - p)), rtol=5e-3, atol=0)


def test_masks_are_independent_between_entries_and_calls():
    torch.manual_seed(0)
    drop = Dropout(0.5)
    first, second = (drop(torch.ones(2, 100_000)) > 0 for _ in range(2))
    for a, b in [(first, second), (first[:, 1:], first[:, :-1]), (first[0], first[1])]:
        agreement = (a == b).double().mean().item()
        assert abs(agreement - 0.5) < 0.01


def test_the_seed_decides_the_mask():
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(Dropout(0.5)(torch.ones(1000)))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_gradient_follows_the_mask():
    torch.manual_seed(0)
    x = torch.randn(1000, requires_grad=True)
    y = Dropout(0.25)(x)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)
    torch.testing.assert_close(x.grad[y != 0], torch.full_like(x.grad[y != 0], 4 / 3))


def test_evaluation_is_the_identity():
    x, A_log, B, C = torch.randn(10), torch.randn(4, 3), torch.randn(1, 5, 3), torch.randn(1, 5, 3)
    assert Dropout(0.5).eval()(x) is x
    out = SSMDropout(0.5, reset_A=True).eval()(A_log, B, C)
    assert out[0] is A_log
    assert out[1] is B
    assert out[2] is C


def test_reset_entries_return_to_log_n_and_get_no_gradient():
    torch.manual_seed(0)
    A_log = torch.randn(3000, 16, requires_grad=True)
    B = torch.ones(4, 50, 16, requires_grad=True)
    C = torch.ones(4, 50, 16, requires_grad=True)
    dropped_A, dropped_B, dropped_C = SSMDropout(0.1, reset_A=True)(A_log, B, C)
    initial = torch.arange(1, 17).float().log().expand(3000, 16)
    reset = dropped_A != A_log
    assert abs(reset.double().mean().item() - 0.1) < 0.01
    assert torch.equal(dropped_A[reset], initial[reset])
    assert torch.equal(dropped_A[~reset], A_log.detach()[~reset])  # no rescaling
    dropped_A.sum().backward()
    assert torch.equal(A_log.grad == 0, reset)
    for dropped in (dropped_B, dropped_C):
        rate = (dropped == 0).double().mean().item()
        assert abs(rate - 0.1) < 0.03
        values = dropped[dropped != 0]
        torch.testing.assert_close(values, torch.full_like(values, 1 / 0.9), rtol=1e-4, atol=0)
    assert not torch.equal(dropped_B, dropped_C)


def test_without_reset_A_log_gets_ordinary_dropout():
    torch.manual_seed(0)
    A_log = torch.randn(3000, 16)
    dropped, _, _ = SSMDropout(0.2, reset_A=False)(A_log, torch.ones(1), torch.ones(1))
    zero = dropped == 0
    assert abs(zero.double().mean().item() - 0.2) < 0.01
    torch.testing.assert_close(dropped[~zero], A_log[~zero] / 0.8)


def test_s4d_real_log():
    assert torch.equal(s4d_real_log(2, 3), torch.tensor([[1.0, 2, 3], [1, 2, 3]]).log())


@pytest.mark.parametrize(
    ("p", "ssm_p", "changes"), [(0, 0, False), (0.1, 0, True), (0, 0.1, True), (0.1, 0.1, True)]
)
def test_a_model_drops_where_it_should(build_model, tokens, p, ssm_p, changes):
    dropout = DropoutSettings(name="test", p=p, ssm_p=ssm_p, reset_A=True)
    model = build_model(dropout)
    with torch.no_grad():
        for layer in model.backbone.layers:
            layer.mixer.A_log += torch.randn_like(layer.mixer.A_log)
    quiet = model(tokens)
    model.train()
    assert torch.equal(model(tokens), quiet) is not changes
    assert torch.equal(model.eval()(tokens), quiet)


def test_ordinary_dropout_acts_on_embedding_and_every_block(build_model, tokens):
    model = build_model(DropoutSettings(name="test", p=0.4, ssm_p=0.0, reset_A=True), pattern="MA")
    model.train()
    rates = []
    for module in model.modules():
        if isinstance(module, Dropout) and module.p:
            module.register_forward_hook(
                lambda _m, _i, out: rates.append((out == 0).double().mean().item())
            )
    model(tokens)
    assert len(rates) == 1 + 1 + 2 + 1  # embedding, M, A (attention and FFN), M
    assert all(0.3 < rate < 0.5 for rate in rates)


@pytest.mark.parametrize("p", [1.0, 1 - 1e-6])
def test_nearly_everything_may_be_dropped(p):
    assert not Dropout(p)(torch.ones(100)).any()


def test_no_dropout_is_the_option_none():
    path = Path(__file__).parents[2] / "conf/dropout/none.yaml"
    assert dataclasses.asdict(NO_DROPOUT) == yaml.safe_load(path.read_text())
