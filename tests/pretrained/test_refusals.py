"""Checkpoints that cannot be loaded say so in one line."""

import json
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from mambalab.errors import UserError
from mambalab.pretrained import tokens
from mambalab.pretrained.layout import Layout, config_of
from mambalab.pretrained.load import load

CPU = torch.device("cpu")
NAME = "backbone.layers.1.mixer.D"


@pytest.fixture
def tensors(build_model):
    """Of a tied model, under transformers' names."""
    model = build_model(tie_embeddings=True)
    weights = {n: t.clone() for n, t in model.state_dict().items() if n != "lm_head.weight"}
    weights["backbone.embeddings.weight"] = weights.pop("backbone.embedding.weight")
    return weights


@pytest.fixture
def put(tmp_path, tensors, build_settings):
    """A function that writes a checkpoint folder with changes to its config."""

    def write(layout=Layout.hf, without=(), **changes):
        settings = build_settings(tie_embeddings=True)
        config = config_of(layout, settings, 17) | changes
        config = {key: value for key, value in config.items() if key not in without}
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file(tensors, tmp_path / "model.safetensors")
        return tmp_path

    return write


def refused(folder) -> str:
    with pytest.raises(UserError) as error:
        load(folder, CPU)
    line = str(error.value)
    assert "\n" not in line
    assert str(folder) in line
    return line


def test_what_is_refused_below_is_loaded_as_it_is(put):
    for layout in Layout:
        load(put(layout), CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba2"}, "model_type='mamba2': only Mamba-1"),
        ({"model_type": "llama"}, "model_type='llama': only Mamba-1"),
        ({"architectures": ["MambaModel"]}, "only MambaForCausalLM is read"),
        ({"use_bias": True}, "use_bias=True: a bias of the projections is not supported"),
        ({"use_conv_bias": False}, "use_conv_bias=False: a convolution without bias"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"hidden_size": "wide"}, "hidden_size='wide': must be a whole number"),
        ({"hidden_size": 0, "intermediate_size": 0}, "hidden_size=0: must be at least 1"),
        (
            {"intermediate_size": 70},
            "intermediate_size=70: another than a multiple of hidden_size=32 is",
        ),
        ({"hidden_size": 48}, "intermediate_size=64: another than a multiple of hidden_size=48 is"),
        ({"intermediate_size": 31}, "a multiple of hidden_size=32 is not supported"),
        ({"hidden_size": float("nan")}, "hidden_size=nan: must be at least 1 and at most"),
        ({"state_size": float("inf")}, "state_size=inf: must be at least 1 and at most"),
        ({"vocab_size": 1e300}, "vocab_size=1e+300: must be at least 1 and at most"),
        ({"conv_kernel": 10**400}, "must be at least 1 and at most"),
        ({"num_hidden_layers": 100000}, "num_hidden_layers=100000: must be at least 1 and at most"),
        ({"intermediate_size": "64"}, "intermediate_size='64': must be a whole number"),
        ({"intermediate_size": 96}, "has the shape (64, 8), config.json asks for (96, 8)"),
        ({"layer_norm_epsilon": -1.0}, "must be a number above 0"),
        ({"tie_word_embeddings": "yes"}, "must be true or false"),
        ({"tie_word_embeddings": False}, "the tensors lack lm_head.weight"),
        ({"vocab_size": 18}, "backbone.embeddings.weight has the shape (17, 32)"),
        ({"num_hidden_layers": 4}, "asks for num_hidden_layers=4, the weights have 3 layers"),
        ({"num_hidden_layers": 2}, "asks for num_hidden_layers=2, the weights have 3 layers: put"),
        ({"conv_kernel": 3}, "has the shape (64, 1, 4), config.json asks for (64, 1, 3)"),
    ],
)
def test_configs_of_transformers(put, changes, message):
    assert message in refused(put(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ssm_cfg": {"layer": "Mamba2"}}, "ssm_cfg.layer='Mamba2': only Mamba-1"),
        ({"ssm_cfg": {"bias": True}}, "ssm_cfg.bias=True"),
        ({"ssm_cfg": {"conv_bias": False}}, "ssm_cfg.conv_bias=False"),
        ({"ssm_cfg": {"headdim": 64}}, "ssm_cfg.headdim=64: no setting of Mamba-1"),
        ({"ssm_cfg": [1]}, "ssm_cfg=[1]: must be an object"),
        ({"rms_norm": False}, "rms_norm=False: another norm than RMS"),
        ({"attn_layer_idx": [3]}, "attention layers"),
        ({"d_intermediate": 8}, "MLP layers"),
        ({"pad_vocab_size_multiple": 8}, "has the shape (17, 32), config.json asks for (24, 32)"),
        ({"n_layer": 9}, "config.json asks for n_layer=9, the weights have 3 layers"),
        ({"n_layer": None}, "n_layer=None: must be a whole number"),
    ],
)
def test_configs_of_the_original_code(put, changes, message):
    assert message in refused(put(Layout.original, **changes))


def test_configs_of_neither(put):
    assert "describes no Mamba" in refused(put(without=["model_type"]))
    folder = put()
    (folder / "config.json").write_text('{"model_type": "ma')
    assert "config.json is damaged" in refused(folder)
    (folder / "config.json").write_text("[]")
    assert "no JSON object" in refused(folder)
    (folder / "config.json").unlink()
    assert "is no checkpoint; name a folder that holds one" in refused(folder)


def test_a_head_that_is_not_the_embedding(put, tensors):
    tensors["lm_head.weight"] = tensors["backbone.embeddings.weight"] + 1
    assert "tie_word_embeddings should be false there" in refused(put())
    assert "tie_embeddings should be false there" in refused(put(Layout.original))


def test_tensors_that_are_no_floats(put, tensors):
    tensors[NAME] = tensors[NAME].to(torch.int8)
    assert f"{NAME} is torch.int8" in refused(put())


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        (float("nan"), torch.float32, "NaN in 1 of 64 values"),
        (float("-inf"), torch.bfloat16, "Inf in 1 of 64 values"),
        (1e300, torch.float64, "Inf in 1 of 64 values"),  # too large for float32
    ],
)
def test_values_that_are_no_numbers(put, tensors, value, dtype, said):
    tensors[NAME] = tensors[NAME].to(dtype)
    tensors[NAME][5] = value
    assert f"{NAME} has {said}" in refused(put())
    tensors[NAME][5] = 0
    tensors["backbone.embeddings.weight"][16] = float("nan")
    assert "backbone.embeddings.weight has NaN in 32 of 544 values" in refused(put())
    tensors["backbone.embeddings.weight"][16] = 3e38  # a sum overflows, no value does
    load(put(), CPU)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_links_that_lead_nowhere(put, tmp_path, name):
    folder = put()
    (folder / name).rename(tmp_path.parent / f"{tmp_path.name}-{name}")
    (folder / name).symlink_to("../blobs/0123")
    assert f"{folder / name} is a link to '../blobs/0123', where there is no file" in refused(
        folder
    )


def test_a_tokenizer_that_is_a_link_to_nothing(tmp_path):
    (tmp_path / "tokenizer.json").symlink_to("../blobs/0123")
    with pytest.raises(
        UserError, match=r"json is a link to '\.\./blobs/0123', where.*tokenizer=FILE"
    ):
        tokens.choose(None, tmp_path, tmp_path, rows=50280, eos_id=None)


def test_weights_that_are_not_there(put):
    folder = put()
    (folder / "model.safetensors").unlink()
    assert "neither model.safetensors nor pytorch_model.bin" in refused(folder)


@pytest.mark.parametrize("size", [0, 5, 400, 20_000])
def test_safetensors_that_are_cut_short(put, size):
    folder = put()
    os.truncate(folder / "model.safetensors", size)
    assert refused(folder).endswith("is damaged or cut short: delete it and fetch it again")


def test_a_shard_that_is_missing(put, tensors):
    folder = put()
    (folder / "model.safetensors").unlink()
    first = dict(list(tensors.items())[:5])
    save_file(first, folder / "a.safetensors")
    table = {name: "a.safetensors" if name in first else "b.safetensors" for name in tensors}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    line = refused(folder)
    assert "b.safetensors is missing: model.safetensors.index.json names it" in line
    index.write_text(json.dumps({"weight_map": {NAME: "../b.safetensors"}}))
    assert "names '../b.safetensors', which is no file beside it" in refused(folder)
    for name in ("/etc/passwd", "..", "", "a/b", "x" * 300, "\0", "\x1b[2J", "\ud800"):
        index.write_text(json.dumps({"weight_map": {NAME: name}}))
        line = refused(folder)
        assert "which is no file beside it" in line
        assert line.isprintable()
    index.write_text("{}")
    assert "it has no weight_map" in refused(folder)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_a_pickle_that_holds_code(put, tensors, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = put()
    (folder / "model.safetensors").unlink()
    torch.save({**tensors, "x": Trap()}, folder / "pytorch_model.bin")
    assert "holds code (posix.mkdir), which is not run here" in refused(folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_code_is_refused_whatever_the_pickle(put, tmp_path, monkeypatch, recwarn, protocol, zipped):
    monkeypatch.chdir(tmp_path)
    folder = put()
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    content = {"a": torch.ones(2), "x": Trap(), "b": torch.ones(3)}
    torch.save(content, file, **options)
    code = "holds code (posix.mkdir), which is not run here: take the model.safetensors"
    if protocol:  # torch.save writes none of 0
        assert code in refused(folder)
    for bare in (content, Trap()):
        file.write_bytes(pickle.dumps(bare, protocol))
        assert code in refused(folder)
    file.write_bytes(pickle.dumps({"a": 1}, protocol))
    assert "is damaged" in refused(folder)
    if protocol:
        torch.save({"a": torch.ones(2)}, file, **options)
        wanted = "tensors lack" if 1 < protocol < 4 else "cannot be read without running it"
        assert wanted in refused(folder)
    assert not (tmp_path / "sprung").exists()
    assert not recwarn.list


@pytest.mark.parametrize("content", ["tensors", "code"])
def test_a_pickle_cut_inside_its_zip(put, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    folder = put()
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    table = {"a": torch.ones(2), "b": torch.ones(3)}
    torch.save(table if content == "tensors" else {**table, "x": Trap()}, file)
    with zipfile.ZipFile(file) as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    inside = next(name for name in parts if name.endswith("data.pkl"))
    called = parts[inside].find(b"mkdir\n") + len("mkdir\n")
    for size in range(len(parts[inside])):
        with zipfile.ZipFile(file, "w") as cut:
            for name, part in parts.items():
                cut.writestr(name, part[:size] if name == inside else part)
        told = content == "code" and size >= called
        wanted = "holds code (posix.mkdir)" if told else "is damaged or cut short: delete it"
        assert wanted in refused(folder)
    assert not (tmp_path / "sprung").exists()


def test_the_name_of_code_stays_in_one_printable_line(put):
    folder = put()
    (folder / "model.safetensors").unlink()
    pushed = b"".join(b"\x8c" + bytes([len(text)]) + text for text in (b"a\nb", b"\x1b[2J"))
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04" + pushed + b"\x93.")
    assert r"holds code ('a\nb.\x1b[2J'), which" in refused(folder)


def test_pickles_that_are_damaged(put, tensors):
    folder = put()
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    torch.save(tensors, file)
    load(folder, CPU)
    whole = file.stat().st_size
    for size in (whole - 100, whole // 2, 3, 0):
        os.truncate(file, size)
        assert refused(folder).endswith(": delete it and fetch it again")
    for content in (b"<html>please log in</html>", b"\x80", b"\x80\x02", b"PK\x03\x04"):
        file.write_bytes(content)
        assert "is damaged" in refused(folder)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "fetch that with git lfs pull" in refused(folder)
    for content in ({"model": 3}, {"model": [tensors]}, [tensors], {}, {"a": {"b": {"c": {}}}}):
        torch.save(content, file)
        assert "is no state dict" in refused(folder)
    torch.save({**tensors, "step\x1b[2J": 3}, file)
    assert refused(folder).endswith("is wanted; step\\x1b[2J is a int")


@pytest.fixture
def pickled(put, tensors):
    """A function that writes a checkpoint with a pickle of something in place of the tensors."""

    def write(content):
        folder = put()
        (folder / "model.safetensors").unlink()
        torch.save(content, folder / "pytorch_model.bin")
        return folder

    return write


@pytest.mark.parametrize("key", [7, b"name", None, (1, 2), 1.5, True])
def test_names_that_are_no_texts(pickled, tensors, key):
    assert f"{key!r} names a tensor: names must be texts" in refused(
        pickled({**tensors, key: torch.ones(2)})
    )


@pytest.mark.parametrize(
    ("strange", "said"),
    [
        (lambda: torch.empty(64, device="meta"), "has no values (device meta)"),
        (lambda: torch.ones(64).to_sparse(), "is sparse or nested"),
        (lambda: torch.eye(64).to_sparse_csr(), "is sparse or nested"),
        (lambda: torch.nested.nested_tensor([torch.ones(3), torch.ones(2)]), None),
        (lambda: torch.quantize_per_tensor(torch.ones(64), 0.1, 0, torch.qint8), "is torch.qint8"),
        (lambda: torch.ones(64, dtype=torch.complex64), "is torch.complex64"),
        (lambda: torch.ones(64).to(torch.float8_e4m3fn), "is torch.float8_e4m3fn"),
        (lambda: torch.tensor(1.0), "has the shape ()"),
        (lambda: torch.ones(0), "has the shape (0,)"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_other_kinds(pickled, tensors, strange, said):
    line = refused(pickled({**tensors, NAME: strange()}))
    print(line)
    assert f"{NAME} {said}" in line if said else "pytorch_model.bin" in line


def test_tables_in_tables(pickled, tensors, caplog):
    caplog.set_level("INFO", "mambalab")
    adam = {"step": torch.ones(()), "exp_avg": torch.ones(2)}
    for wrapped, where in (
        ({"model": tensors, "step": 3}, "model"),
        ({"state_dict": tensors, "optimizer": {"state": {0: adam}, "lr": 1}}, "state_dict"),
        ({"weights": tensors, "moments": {0: adam}, 7: {"mean": torch.ones(3)}}, "weights"),
        ({"checkpoint": {"model": tensors}}, "checkpoint.model"),
    ):
        caplog.clear()
        load(pickled(wrapped), CPU)
        assert f"the weights are those under {where}" in caplog.text
    line = refused(pickled({"model": tensors, "ema": dict(tensors)}))
    assert "holds several tables of tensors, model, ema: save one of them alone" in line
