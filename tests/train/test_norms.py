"""Norms of gradient, weights and update, layer by layer."""

import pytest
import torch
from torch import nn

from mambalab.records.run_folder import name_problem
from mambalab.train.norms import StepNorms, layer_of
from tests.train.toy import trainer


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("backbone.layers.3.mixer.in_proj.weight", "backbone.layers.3"),
        ("backbone.embedding.weight", "backbone.embedding"),
        ("lm_head.weight", "lm_head"),
        ("0.weight", "0"),
        ("scale", "scale"),
        ("params.0", "params"),  # a ParameterList
    ],
)
def test_the_layer_of_a_parameter(name, layer):
    assert layer_of(name) == layer


def test_they_are_the_norms_of_one_step():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    net[1].bias.requires_grad_(False)
    net(torch.ones(1, 3)).sum().backward()
    before = [p.detach().clone() for p in net.parameters()]
    grads = [p.grad for p in net.parameters()]
    norms = StepNorms(net)
    torch.optim.SGD(net.parameters(), lr=0.5).step()
    found = norms.after_step()
    assert len(found) == 6
    assert all(name_problem(name) is None for name in found)

    def norm(*tensors):
        return float(torch.cat([t.flatten() for t in tensors]).norm())

    assert found["norms/grad/0"] == pytest.approx(norm(*grads[:2]))
    assert found["norms/weight/0"] == pytest.approx(norm(*before[:2]))
    assert found["norms/update_ratio/0"] == pytest.approx(
        0.5 * norm(*grads[:2]) / norm(*before[:2])
    )
    assert found["norms/weight/1"] == pytest.approx(norm(before[2]))


def test_they_are_recorded_at_log_steps_and_change_nothing(tmp_path):
    run, lines = trainer(tmp_path / "on", norms=True)
    run.run()
    plain, without = trainer(tmp_path / "off")
    plain.run()
    rows = [v for _, v in lines.rows if "train/loss" in v]
    assert all({k for k in v if k.startswith("norms/")} for v in rows)
    total = sum(rows[0][f"norms/grad/{layer}"] ** 2 for layer in ("0", "3")) ** 0.5
    assert total == pytest.approx(rows[0]["train/grad_norm"])  # before it is clipped
    kept = [(s, {k: x for k, x in v.items() if "norms/" not in k}) for s, v in lines.rows]
    assert kept == without.rows
