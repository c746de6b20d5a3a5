"""Checkpoints from the hub, here a server on this machine: fetched once, whole, checked."""

import hashlib
import http.server
import json
import threading
from types import SimpleNamespace

import pytest

from mambalab.errors import UserError
from mambalab.pretrained import fetch
from mambalab.tokenization import tokenizer

NAME = "owner/mamba"


@pytest.fixture
def hub(monkeypatch):
    """A hub with one repository; `files` may be changed, `asked` lists what was asked for."""
    state = SimpleNamespace(files={}, asked=[], lies={})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        def do_GET(self):
            state.asked.append(self.path)
            start = f"/{NAME}/resolve/f00d/"
            if self.path == f"/api/models/{NAME}?blobs=true":
                self.reply(json.dumps(listing(state)).encode())
            elif self.path.startswith(start) and self.path[len(start) :] in state.files:
                name = self.path[len(start) :]
                self.reply(state.lies.get(name, state.files[name]))
            else:
                self.send_error(401 if "api" in self.path else 404)

        def reply(self, body):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def listing(state) -> dict:
    def entry(name, content):
        found = {"rfilename": name, "size": len(content)}
        if name.endswith(("safetensors", "bin")):
            found["lfs"] = {"sha256": hashlib.sha256(content).hexdigest()}
        return found

    return {"sha": "f00d", "siblings": [entry(*item) for item in state.files.items()]}


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
    asked = len(hub.asked)
    assert fetch.checkpoint(NAME, tmp_path) == folder
    assert len(hub.asked) == asked


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
    hub.lies["model.safetensors"] = b"4321"
    assert "is not the expected file" in refused(fetch.checkpoint, NAME, tmp_path)
    assert not list(tmp_path.rglob("model.safetensors"))


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
