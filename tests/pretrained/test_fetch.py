"""Checkpoints from the hub, here a server on this machine: fetched once, whole, checked."""

import json
from importlib import metadata

import pytest
from huggingface_hub import constants

from mambalab.data.hub import snapshots
from mambalab.errors import UserError
from mambalab.pretrained import fetch
from mambalab.tokenization import tokenizer
from tests.data.hub_server import Hub, cache

NAME = "owner/mamba"
WHOLE = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.fixture
def hub(monkeypatch):
    """A hub with one repository."""
    server = Hub(NAME, "model", {})
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.close()


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(call, *args) -> str:
    with pytest.raises(UserError) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_checkpoint_is_fetched_once(hub, tmp_path):
    hub.files = {n: n.encode() for n in ("config.json", "pytorch_model.bin", "model.safetensors")}
    hub.files |= {"tokenizer.json": b"{}", "README.md": b"no need"}
    folder = fetch.checkpoint(NAME, tmp_path)
    assert folder == tmp_path / "pretrained/owner/mamba"
    assert names(folder) == ["config.json", "model.safetensors", "tokenizer.json"]
    asked = len(hub.requests)
    assert fetch.checkpoint(NAME, tmp_path) == folder
    assert len(hub.requests) == asked


def test_files_beside_a_tokenizer_come_too(hub, tmp_path):
    hub.files = dict.fromkeys(WHOLE, b"{}")
    beside = ("generation_config.json", "special_tokens_map.json", "tokenizer_config.json")
    hub.files |= dict.fromkeys((*beside, "tokenizer.model"), b"{}")
    assert names(fetch.checkpoint(NAME, tmp_path)) == sorted((*WHOLE, *beside))


def test_a_tokenizer_of_another_kind_comes_to_be_named(hub, tmp_path):
    hub.files = dict.fromkeys(("config.json", "model.safetensors", "tokenizer.model"), b"{}")
    assert names(fetch.checkpoint(NAME, tmp_path)) == sorted(hub.files)


def test_a_checkout_that_is_not_installed_fetches_too(hub, tmp_path, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    hub.files = {name: name.encode() for name in WHOLE}
    assert names(fetch.checkpoint(NAME, tmp_path)) == sorted(WHOLE)


def test_shards_and_pickles(hub, tmp_path):
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "a.safetensors"}}
    hub.files = dict.fromkeys(("config.json", "a.safetensors", "b.safetensors"), b"12")
    hub.files["model.safetensors.index.json"] = json.dumps(index).encode()
    folder = fetch.checkpoint(NAME, tmp_path)
    assert names(folder) == sorted(hub.files)
    (folder / "b.safetensors").unlink()  # as after an interrupted call
    assert names(fetch.checkpoint(NAME, tmp_path)) == sorted(hub.files)
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"34"}
    assert names(fetch.checkpoint(NAME, tmp_path / "other")) == sorted(hub.files)


def test_the_tokenizer_of_the_original_models(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "NEOX", NAME)
    hub.files = {"tokenizer.json": b"{}", "tokenizer_config.json": b"{}", "model.safetensors": b""}
    path = tokenizer.find(NAME, tmp_path)
    assert path == tmp_path / "tokenizers/mamba/tokenizer.json"
    assert names(path.parent) == ["tokenizer.json", "tokenizer_config.json"]
    assert tokenizer.find(NAME, tmp_path) == path


def test_what_the_hub_cannot_give(hub, tmp_path):
    line = refused(fetch.checkpoint, "owner/absent", tmp_path)
    assert "has no public model owner/absent. Put config.json and model.safetensors (or" in line
    assert f"into {tmp_path / 'pretrained/owner/absent'}, or name a folder" in line
    hub.files = {"model.safetensors": b"1"}
    assert "has no config.json" in refused(fetch.checkpoint, NAME, tmp_path)
    hub.files = {"config.json": b"1"}
    line = refused(fetch.checkpoint, NAME, tmp_path)
    assert "has neither model.safetensors nor pytorch_model.bin" in line
    assert "has no tokenizer.json" in refused(tokenizer.find, NAME, tmp_path)
    hub.files["model.safetensors"] = b"1234"
    hub.sent["model.safetensors"] = b"4321"
    assert "is not the expected file" in refused(fetch.checkpoint, NAME, tmp_path)
    assert not list(tmp_path.rglob("model.safetensors"))


def test_a_private_model_needs_a_token(hub, tmp_path, monkeypatch):
    hub.files, hub.token = {name: name.encode() for name in WHOLE}, "secret"
    assert f"has no public model {NAME}." in refused(fetch.checkpoint, NAME, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert f"has no model {NAME}." in refused(fetch.checkpoint, NAME, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert names(fetch.checkpoint(NAME, tmp_path)) == sorted(WHOLE)


def test_a_gated_model_needs_consent(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "about", lambda about=hub.about: about() | {"gated": "auto"})
    line = refused(fetch.checkpoint, NAME, tmp_path)
    assert f"{hub.url}/{NAME} is gated: accept its terms there, then" in line


@pytest.mark.parametrize("said", [{}, {"id": NAME}, [], {"id": NAME, "sha": "f00d"}])
def test_what_is_no_hub(hub, tmp_path, monkeypatch, said):
    monkeypatch.setattr(hub, "about", lambda: said)
    assert "sent no list of files; is http" in refused(fetch.checkpoint, NAME, tmp_path)


def test_the_cache_of_other_libraries_is_used_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    part = cache(tmp_path / "hub", NAME, "model", {"config.json": b"{}"}, "1" * 40)
    whole = cache(tmp_path / "hub", NAME, "model", {n: n.encode() for n in WHOLE}, "0" * 40)
    assert fetch.checkpoint(NAME, tmp_path) == fetch.place(NAME, tmp_path) == whole
    assert tokenizer.find(NAME, tmp_path) == whole / "tokenizer.json"
    (whole / "model.safetensors").unlink()
    assert "HF_HUB_OFFLINE=1 forbids" in refused(fetch.checkpoint, NAME, tmp_path)
    main = tmp_path / "hub" / "models--owner--mamba" / "refs" / "main"
    main.parent.mkdir()
    for first, second in ((part, whole), (whole, part)):
        main.write_text(first.name)
        assert snapshots(NAME) == [first, second]
    assert snapshots("owner/other") == []
    folder = tmp_path / "pretrained" / NAME  # the one in data_dir comes first
    folder.mkdir(parents=True)
    for name in WHOLE:
        (folder / name).touch()
    assert fetch.checkpoint(NAME, tmp_path) == folder


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    line = refused(fetch.checkpoint, NAME, tmp_path)
    assert "it cannot be fetched: 127.0.0.1 refused the connection. Put config.json" in line
    line = refused(tokenizer.find, tokenizer.NEOX, tmp_path)
    assert f"Put tokenizer.json of http://127.0.0.1:9/{tokenizer.NEOX} into" in line
    assert str(tmp_path / "tokenizers/gpt-neox-20b") in line
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE=1 forbids" in refused(fetch.checkpoint, NAME, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_of_neither_folder_nor_repository(tmp_path):
    (tmp_path / "file").touch()
    assert "is a file" in refused(fetch.checkpoint, str(tmp_path / "file"), tmp_path)
    for name in ("absent", "/absent/folder", "a/b/c", "../b", "a/.."):
        assert "there is no such folder" in refused(fetch.checkpoint, name, tmp_path)
    assert fetch.checkpoint(str(tmp_path), tmp_path) == tmp_path
