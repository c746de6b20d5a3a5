"""Checkpoints are found by the name that a person gives, also while the run trains."""

import pytest
import torch

from mambalab.train import checkpoint, chosen


def best(folder, step: int):
    weights = {"w": torch.full((2,), float(step))}
    return checkpoint.save(folder, "best", step, weights, facts={})


def test_a_checkpoint_that_is_replaced_while_it_is_read(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    best(tmp_path, 10)
    load = checkpoint.load

    def replaced(source, device):
        if source.step < 30:
            best(tmp_path, source.step + 10)  # which removes the older one
        return load(source, device)

    monkeypatch.setattr(checkpoint, "load", replaced)
    source, weights, _ = chosen.read(tmp_path, "best", torch.device("cpu"))
    assert source.step == 30
    assert weights["w"].tolist() == [30.0, 30.0]


def test_one_that_is_there_and_damaged_is_told_at_once(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    path = best(tmp_path, 10)
    (path / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(checkpoint.DamagedError):
        chosen.read(tmp_path, "best", torch.device("cpu"))
