"""Checkpoints: atomic, checked, data only."""

import hashlib
import json
import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

from mambalab.errors import UserError
from mambalab.pretrained import pickles
from mambalab.train import checkpoint, verify

CPU = torch.device("cpu")


def write(folder, step=5, kind="last"):
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    trainer = {"position": step, "rng": torch.get_rng_state()} if kind == "last" else None
    return checkpoint.save(folder, kind, step, weights, facts={"x": 1}, trainer=trainer)


def test_round_trip(tmp_path):
    write(tmp_path)
    weights, facts, trainer = checkpoint.load(checkpoint.find(tmp_path, "last"), CPU)
    assert torch.equal(weights["a"], torch.arange(6.0).view(2, 3))
    assert weights["b"].dtype == torch.bfloat16
    assert facts == {"x": 1}
    assert trainer["position"] == 5


def test_only_the_newest_of_a_kind_stays(tmp_path):
    for step in (5, 10, 15):
        write(tmp_path, step)
    write(tmp_path, 10, "best")
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "best-00000010",
        "last-00000015",
    ]
    assert checkpoint.find(tmp_path, "last").step == 15


def test_files_may_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        folder = write(tmp_path)
    finally:
        os.umask(before)
    assert {p.name: p.stat().st_mode & 0o777 for p in folder.iterdir()} == {
        "model.safetensors": 0o644,
        "trainer.pt": 0o644,
        "manifest.json": 0o644,
    }


def test_nothing_there(tmp_path):
    assert checkpoint.find(tmp_path, "last") is None


def test_half_written_folders_are_not_checkpoints(tmp_path, monkeypatch):
    write(tmp_path, 5)
    monkeypatch.setattr(
        checkpoint.tensors, "save", lambda *a: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(UserError, match=r"cannot write the checkpoint .* full"):
        write(tmp_path, 10)
    assert checkpoint.find(tmp_path, "last").step == 5
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["last-00000005"]


@pytest.mark.parametrize("name", ["model.safetensors", "trainer.pt", "manifest.json"])
@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_file_cut_short_is_named(tmp_path, name, keep):
    path = write(tmp_path) / name
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    with pytest.raises(UserError) as caught:
        checkpoint.load(checkpoint.find(tmp_path, "last"), CPU)
    message = str(caught.value)
    assert "last-00000005" in message
    assert "resume=never" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["model.safetensors", "trainer.pt"])
def test_a_flipped_byte_is_noticed(tmp_path, name):
    path = write(tmp_path) / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{name} is damaged: its bytes are not those"):
        checkpoint.load(checkpoint.find(tmp_path, "last"), CPU)


def test_checkpoints_without_checksums_are_read(tmp_path):
    path = write(tmp_path) / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"], manifest["checksum"]
    path.write_text(json.dumps(manifest))
    assert checkpoint.load(checkpoint.find(tmp_path, "last"), CPU)[1] == {"x": 1}


def test_the_advice_fits_the_kind(tmp_path):
    for kind, advice in (
        ("last", r"; start again with resume=never \(the damaged run is set aside\)$"),
        ("best", r"; delete that folder, and the last weights take its place$"),
    ):
        (write(tmp_path, kind=kind) / "manifest.json").write_text("{")
        with pytest.raises(UserError, match=advice):
            checkpoint.load(checkpoint.find(tmp_path, kind), CPU)


@pytest.mark.parametrize("name", ["model.safetensors", "trainer.pt"])
def test_a_missing_file_is_named(tmp_path, name):
    (write(tmp_path) / name).unlink()
    with pytest.raises(UserError, match=name):
        checkpoint.load(checkpoint.find(tmp_path, "last"), CPU)


def test_code_in_a_pickle_is_not_run(tmp_path):
    path = write(tmp_path) / "trainer.pt"
    witness = tmp_path / "witness"

    class Bomb:
        def __reduce__(self):
            return (open, (str(witness), "w"))

    data = pickle.dumps(Bomb())
    path.write_bytes(data)
    manifest = path.with_name("manifest.json")
    facts = json.loads(manifest.read_text())
    facts["files"]["trainer.pt"] = len(data)
    facts["sha256"]["trainer.pt"] = hashlib.sha256(data).hexdigest()
    facts["checksum"] = verify.checksum(facts)
    manifest.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="cannot read the checkpoint"):
        checkpoint.load(checkpoint.find(tmp_path, "last"), CPU)
    assert not witness.exists()


def test_a_state_that_would_fill_the_memory_is_not_unpacked(tmp_path):
    path = write(tmp_path) / "trainer.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", bytes(3_000_000))
    manifest = path.with_name("manifest.json")
    facts = json.loads(manifest.read_text())
    facts["files"]["trainer.pt"] = path.stat().st_size
    facts["sha256"]["trainer.pt"] = hashlib.sha256(path.read_bytes()).hexdigest()
    facts["checksum"] = verify.checksum(facts)
    manifest.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="would unpack to 3,000,000 bytes"):
        checkpoint.load(checkpoint.find(tmp_path, "last"), CPU)
    with pytest.raises(UserError, match="would unpack to 3,000,000 bytes"):
        pickles.read(path)


class Tied(nn.Module):
    def __init__(self, out=3):
        super().__init__()
        self.embedding = nn.Embedding(3, 2)
        self.head = nn.Linear(2, out, bias=False)
        if out == 3:
            self.head.weight = self.embedding.weight


def test_tied_weights_are_stored_once_and_come_back_tied(tmp_path):
    source, target = Tied(), Tied()
    checkpoint.save(tmp_path, "best", 1, source.state_dict(), facts={})
    weights, _, _ = checkpoint.load(checkpoint.find(tmp_path, "best"), CPU)
    assert list(weights) == ["embedding.weight"]
    checkpoint.restore_weights(target, weights, tmp_path)
    assert torch.equal(target.head.weight, source.embedding.weight)
    assert target.head.weight is target.embedding.weight


def test_other_models_are_refused(tmp_path):
    weights = Tied().state_dict()
    with pytest.raises(UserError, match=r"reshapes head\.weight"):
        checkpoint.restore_weights(Tied(out=4), weights, tmp_path)
    del weights["embedding.weight"], weights["head.weight"]
    with pytest.raises(UserError, match="lacks"):
        checkpoint.restore_weights(Tied(), weights, tmp_path)
    with pytest.raises(UserError, match="unknown extra"):
        checkpoint.restore_weights(
            Tied(), {**Tied().state_dict(), "extra": torch.ones(1)}, tmp_path
        )


def test_weights_that_are_no_numbers_are_named(tmp_path):
    model = nn.Linear(3, 2)
    model.register_buffer("mask", torch.full((2,), -torch.inf))  # no harm in that
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    checkpoint.restore_weights(model, weights, tmp_path)
    weights["weight"][1, 2] = torch.nan
    with pytest.raises(UserError, match=f"{tmp_path}: weight has NaN in 1 of 6 values"):
        checkpoint.restore_weights(model, weights, tmp_path)
    assert model.weight.isfinite().all()
