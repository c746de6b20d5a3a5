"""Configs that say the same in other words, and what the model then computes: a plain loop."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mambalab.pretrained.layout import Layout, config_of
from mambalab.pretrained.load import load

CPU = torch.device("cpu")
IDS = [3, 1, 4, 1, 5, 9, 2, 6]


def silu(x):
    return x / (1 + np.exp(-x))


def norm(x, weight, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def expected(weights, layers, eps):
    """Logits (l, v) of a Mamba in float64, one step and one layer at a time."""
    w = {name: tensor.double().numpy() for name, tensor in weights.items()}
    hidden = w["backbone.embedding.weight"][IDS]
    for n in range(layers):
        p = {k.split(".", 3)[3]: v for k, v in w.items() if k.startswith(f"backbone.layers.{n}.")}
        read = norm(hidden, p["norm.weight"], eps) @ p["mixer.in_proj.weight"].T
        x, z = np.split(read, 2, axis=1)
        kernel, bias = p["mixer.conv1d.weight"][:, 0], p["mixer.conv1d.bias"]
        padded = np.concatenate([np.zeros((kernel.shape[1] - 1, x.shape[1])), x])
        u = np.stack([(padded[t : t + kernel.shape[1]].T * kernel).sum(1) for t in range(len(x))])
        u = silu(u + bias)
        A = -np.exp(p["mixer.A_log"])
        rank = p["mixer.dt_proj.weight"].shape[1]
        state, out = np.zeros_like(A), []
        for t in range(len(u)):
            low, B, C = np.split(p["mixer.x_proj.weight"] @ u[t], [rank, rank + A.shape[1]])
            delta = np.log1p(np.exp(p["mixer.dt_proj.weight"] @ low + p["mixer.dt_proj.bias"]))
            state = np.exp(delta[:, None] * A) * state + (delta * u[t])[:, None] * B
            out.append((state @ C + p["mixer.D"] * u[t]) * silu(z[t]))
        hidden = hidden + np.stack(out) @ p["mixer.out_proj.weight"].T
    return norm(hidden, w["backbone.norm_f.weight"], eps) @ w["lm_head.weight"].T


@pytest.mark.parametrize(
    ("layout", "inner", "changes"),
    [
        (Layout.hf, 2, {}),
        (Layout.hf, 2, {"expand": 16, "intermediate_size": 64}),
        (Layout.hf, 3, {"expand": 2, "intermediate_size": 96}),
        (Layout.hf, 1, {"intermediate_size": 32.0}),
        (Layout.hf, 2, {"hidden_act": "swish"}),
        (Layout.original, 3, {"ssm_cfg": {"expand": 3, "d_state": 8, "device": None}}),
        (Layout.original, 2, {"ssm_cfg": {"d_state": 8, "dtype": None, "layer_idx": 0}}),
    ],
)
def test_logits_are_those_of_a_plain_loop(
    tmp_path, build_model, build_settings, layout, inner, changes
):
    model = build_model(n_layer=2, expand=inner)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    config = config_of(layout, build_settings(n_layer=2), 17) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors")
    loaded, found = load(tmp_path, CPU)
    assert found.settings.expand == inner
    with torch.inference_mode():
        logits = loaded(torch.tensor([IDS]))[0].double().numpy()
    right = expected(weights, 2, 1e-5)
    assert np.abs(logits - right).max() < 1e-4 * max(1.0, np.abs(right).max())
