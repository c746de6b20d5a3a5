import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mambalab.bench import peers, scan
from mambalab.bench.report import Result, as_text
from mambalab.bench.timing import in_turns
from mambalab.bench.train import MODELS, growth
from mambalab.cli import main

CPU = torch.device("cpu")
QUICK = ["seconds=0.001", "out=found"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_peers(monkeypatch):
    monkeypatch.setattr(peers, "mambapy", lambda: peers.Peer("mambapy", missing="not installed"))


def test_the_scan_is_measured(no_peers, capsys):
    assert main.main(["bench", "scan", "shapes=[1x8x16]", "lengths=[4,8]", *QUICK]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("scan on ")
    assert out.splitlines()[0].endswith(", float32")
    assert "not measured: C++ yardstick: give yardstick=FILE.cpp" in out
    assert "1x8x16" in out
    assert "not measured: mambapy: not installed" in out
    assert "not measured: mamba_ssm: runs on CUDA only" in out
    found = json.loads(Path("found/scan-cpu.json").read_text())
    assert [row["contender"] for row in found["rows"]] == ["mambalab"]
    assert all(row["forward ms"] > 0 and row["both ms"] > 0 for row in found["rows"])
    assert [length for length, _ in found["curves"]["mambalab"]] == [4, 8]
    assert found["versions"]["torch"] == metadata.version("torch")
    assert Path("found/scan-cpu.png").stat().st_size > 10_000


def test_a_peer_is_compared_on_the_same_inputs(monkeypatch, capsys):
    def fair(u, delta, A, B, C, D):
        return scan.selective_scan(u, delta, A, B, C, D, backend="torch")

    monkeypatch.setattr(peers, "mambapy", lambda: peers.Peer("mambapy", "1", fair))
    assert main.main(["bench", "scan", "shapes=[1x8x16]", "lengths=[]", *QUICK]) == 0
    rows = json.loads(Path("found/scan-cpu.json").read_text())["rows"]
    assert rows[1]["both x"] == pytest.approx(rows[1]["both ms"] / rows[0]["both ms"])


def test_a_peer_that_computes_something_else_is_not_timed(monkeypatch, capsys):
    def wrong(u, delta, A, B, C, D):
        return 1.01 * scan.selective_scan(u, delta, A, B, C, D)

    monkeypatch.setattr(peers, "mambapy", lambda: peers.Peer("mambapy", "1", wrong))
    assert main.main(["bench", "scan", "shapes=[1x8x16]", "lengths=[]", *QUICK]) == 1
    assert "WRONG: mambapy: y is off by 1.0e-02" in capsys.readouterr().out
    rows = json.loads(Path("found/scan-cpu.json").read_text())["rows"]
    assert [row["contender"] for row in rows] == ["mambalab"]


def test_wrong_results_of_ours_stop_everything(no_peers, monkeypatch):
    def noisy(u, delta, A, B, C, D):
        return scan.selective_scan(u, delta, A, B, C, D) + 0 * D * torch.rand(())

    monkeypatch.setattr(scan, "_ours", noisy)
    fault = scan._fault(lambda u, *rest: noisy(u, *rest) * float("nan"), CPU, torch.float32)
    assert fault == "y is off by nan"


def test_training_steps_are_measured(monkeypatch, capsys):
    monkeypatch.setattr("mambalab.bench.train._memory", lambda *_: 5_000_000)
    monkeypatch.setattr("mambalab.bench.train._Mambapy", _missing)
    line = ["bench", "train", "lengths=[8,16]", "d_model=32", "n_layer=4", "tokens=64", *QUICK]
    assert main.main(line) == 0
    out = capsys.readouterr().out
    assert "not measured: mambapy: not installed (no mambapy)" in out
    found = json.loads(Path("found/train-cpu.json").read_text())
    names = [(row["batch x length"], row["contender"]) for row in found["rows"]]
    expected = [(b, m) for b in ("8 x 8", "4 x 16") for m in MODELS]
    assert names == [*expected[:4], ("8 x 8", "plain stack"), *expected[4:]]
    assert found["rows"][0]["memory MB"] == 5
    assert set(found["second"]) == set(MODELS)
    assert "as fast as plain layers" in found["notes"][1]
    assert "varies by" in found["notes"][2]
    assert [note.partition(":")[0] for note in found["notes"][3:]] == list(MODELS)


def test_few_layers_leave_out_who_needs_more(monkeypatch, capsys):
    monkeypatch.setattr("mambalab.bench.train._memory", lambda *_: 5_000_000)
    monkeypatch.setattr("mambalab.bench.train._Mambapy", _missing)
    line = ["bench", "train", "lengths=[8]", "d_model=16", "n_layer=1", "tokens=64", *QUICK]
    assert main.main(line) == 0
    out = capsys.readouterr().out
    assert "not measured: transformer: n_layer=1: it needs an even number of layers" in out
    assert "not measured: hybrid: n_layer=1: below 3 it has no attention" in out


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_growth_with_length_finds_the_exponent(power):
    points = [(length, 3e-4 * length ** (power - 1)) for length in (64, 256, 1024)]
    assert growth("x", points) == (
        f"x: the time of a sequence grows as L^{power:.2f} over these lengths, as "
        f"L^{power:.2f} from 256 to 1,024"
    )


def versions_are(version):
    """What a benchmark asks of importlib.metadata, for it alone."""
    names = {"version": version, "PackageNotFoundError": metadata.PackageNotFoundError}
    return SimpleNamespace(**names)


@pytest.mark.parametrize(
    ("tokens", "lengths", "shape"),
    [
        (100, "[16,8]", "12 x 8"),
        (4096, "[512]", "8 x 512"),
        (8192, "[512]", "8 x 512"),
        (64, "[100]", "1 x 100"),
    ],
)
def test_mambapy_takes_the_same_step_if_it_is_small_enough(monkeypatch, tokens, lengths, shape):
    def peer(*_):
        return torch.nn.Sequential(torch.nn.Embedding(65, 8), torch.nn.Linear(8, 65))

    monkeypatch.setattr("mambalab.bench.train._memory", lambda *_: 5_000_000)
    monkeypatch.setattr("mambalab.bench.train._Mambapy", peer)
    monkeypatch.setattr("mambalab.bench.train.metadata", versions_are(lambda _: "1"))
    line = [f"tokens={tokens}", f"lengths={lengths}", "d_model=16", "n_layer=1", *QUICK]
    assert main.main(["bench", "train", *line]) == 0
    ours, *_, theirs = json.loads(Path("found/train-cpu.json").read_text())["rows"]
    assert (theirs["contender"], theirs["batch x length"]) == ("mambapy", shape)
    assert theirs["Mamba x"] == pytest.approx(ours["tokens/s"] / theirs["tokens/s"])
    assert ours["batch x length"].split(" x ")[1] == shape.split(" x ")[1]


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    """Reading 256 MiB takes its time on a busy machine."""
    monkeypatch.setattr("mambalab.bench.generate.MEMORY_BYTES", 1 << 20)


def test_generation_is_measured(monkeypatch, capsys):
    monkeypatch.setattr("mambalab.bench.generate.metadata", versions_are(_not_installed))
    line = ["lengths=[16,8]", "batches=[2,1]", "d_model=32", "n_layer=2", *QUICK]
    assert main.main(["bench", "generate", *line]) == 0
    out = capsys.readouterr().out
    assert "not measured: transformers: not installed" in out
    found = json.loads(Path("found/generate-cpu.json").read_text())
    measured = [(row["contender"], row["batch"], row["context"]) for row in found["rows"]]
    both = [("mamba", b, c) for b in (1, 2) for c in (8, 16)]
    assert sorted(measured) == sorted([*both, *(("transformer", *m[1:]) for m in both)])
    sizes = {(r["contender"], r["context"]): r["state MB"] for r in found["rows"]}
    assert sizes["mamba", 8] == sizes["mamba", 16]
    assert sizes["transformer", 8] < sizes["transformer", 16]
    for row in found["rows"]:
        value_bytes = 2 if "bf16" in found["machine"] else 4
        cache = 2 * value_bytes * 32 * 8 * row["batch"] / 1e6  # 8 positions of one S layer
        more = [r for r in found["rows"] if r["contender"] == row["contender"]]
        more = [r for r in more if r["batch"] == row["batch"] and r["context"] > row["context"]]
        for other in more:
            grown = other["read MB"] - row["read MB"]
            assert grown == pytest.approx(0 if row["contender"] == "mamba" else cache, rel=1e-3)
        rate = found["options"]["read_gb_s"][str(row["batch"])] * 1e3  # MB a second
        bound = 100 * row["read MB"] / rate / (row["ms a token"] / 1e3)
        assert row["% of bound"] == pytest.approx(bound)
        assert row["% of cached"] > 0
    assert "memory was read at" in out
    assert "layer by layer" not in out
    assert list(found["curves"]) == list(found["second"])
    assert Path("found/generate-cpu.png").stat().st_size > 10_000


def test_a_peer_that_fails_is_named(monkeypatch, capsys):
    monkeypatch.setattr("mambalab.bench.generate.metadata", versions_are(lambda _: "1"))
    monkeypatch.setattr("mambalab.bench.generate.SIZE", ("much",))
    line = ["lengths=[8]", "batches=[1]", "d_model=32", "n_layer=2", *QUICK]
    assert main.main(["bench", "generate", *line]) == 0
    out = capsys.readouterr().out
    assert "not measured: transformers: failed with 1: ValueError: invalid literal" in out


def test_caches_too_large_are_left_out_and_named(monkeypatch, capsys):
    monkeypatch.setattr("mambalab.bench.generate._MAX_CACHE_BYTES", 1000)
    line = ["lengths=[8]", "batches=[3]", "d_model=32", "n_layer=2", "peers=false", *QUICK]
    assert main.main(["bench", "generate", *line]) == 0
    assert "left out: transformer, batch 3, context 8" in capsys.readouterr().out
    found = json.loads(Path("found/generate-cpu.json").read_text())
    assert [row["contender"] for row in found["rows"]] == ["mamba"]


def test_what_decodes_layer_by_layer_is_named(monkeypatch, capsys):
    monkeypatch.setattr("mambalab.bench.generate.MEMORY_BYTES", 4096)  # less than is read
    monkeypatch.setattr("mambalab.generation.cpu_decode.MAX_BATCH", 1)
    line = ["lengths=[8]", "batches=[2]", "d_model=32", "n_layer=2", "peers=false", *QUICK]
    assert main.main(["bench", "generate", *line]) == 0
    assert "transformer, batch 2: layer by layer" in capsys.readouterr().out
    rows = json.loads(Path("found/generate-cpu.json").read_text())["rows"]
    assert [row["% of cached"] for row in rows] == [None, None]


def test_a_model_that_decodes_wrongly_is_not_timed(monkeypatch, capsys):
    from mambalab.bench import generate

    make = generate.stepper
    monkeypatch.setattr(generate, "stepper", lambda *args: lambda t: make(*args)(t) + t[0])
    line = ["lengths=[8]", "batches=[1]", "d_model=32", "n_layer=2", *QUICK]
    assert main.main(["bench", "generate", *line]) == 1
    assert "WRONG: mamba: logits are off by" in capsys.readouterr().out


def test_transformers_writes_the_same_from_the_same_weights(monkeypatch, capsys):
    pytest.importorskip("transformers", reason="the peer of this comparison")
    monkeypatch.setattr("mambalab.bench.generate.SIZE", (32, 2, 100))
    line = ["lengths=[8]", "batches=[1]", "d_model=32", "n_layer=2", *QUICK]
    assert main.main(["bench", "generate", *line]) == 0
    rows = json.loads(Path("found/generate-cpu.json").read_text())["rows"][2:]
    names = [f"mamba-130m {p}, {who}" for p in ("fp32", "bf16") for who in ("ours", "theirs")]
    assert [row["contender"] for row in rows] == names
    assert all(row["% of bound"] > 0 for row in rows[::2])


def _not_installed(name):
    if name == "transformers":
        raise metadata.PackageNotFoundError(name)
    return "1"


def _missing(*_):
    raise ModuleNotFoundError("no mambapy")


def test_memory_is_measured_in_a_process_of_its_own():
    from mambalab.bench.train import _memory

    assert 10_000 < _memory("mamba", 16, 2, 32, 2) < 2_000_000_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scn"], "scn"),
        (["scan", "shapes=[1x2]"], "write BxLxD"),
        (["scan", "lengths=[0]"], "lengths"),
        (["scan", "dtype=int8"], "dtype"),
        (["train", "tokens=1"], "tokens=1: must be at least 64"),
    ],
)
def test_misuse_is_one_line(words, message, capsys):
    assert main.main(["bench", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_what_cannot_run_is_one_line(capsys):
    Path("file").write_text("")
    for words, message in (
        (["out=file/below"], "out=file/below: Not a directory"),
        (["yardstick=none.cpp"], "yardstick=none.cpp: no such file"),
    ):
        assert main.main(["bench", "scan", *words]) == 1
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1


def test_contenders_take_turns():
    calls = []
    contenders = {name: lambda name=name: calls.append(name) for name in "ab"}
    taken = in_turns(contenders, CPU, seconds=0.0, least=3)
    assert calls[:4] == list("aabb"), "warm-up"
    assert calls[4:] == list("ababab")
    assert {name: len(times) for name, times in taken.items()} == {"a": 3, "b": 3}


def test_tables_line_up():
    result = Result("scan", "cpu", "here", {}, {}, ["shape", "ms"])
    result.rows = [{"shape": "a", "ms": 1234.5}, {"shape": "long"}]
    assert as_text(result).splitlines()[1:] == ["shape     ms", "a      1,234", "long       -"]


def test_what_a_silent_store_is_said_of_is_counted():
    from mambalab.bench import tracking

    row = tracking._row("refused", 1, 5, 0.0, "http://127.0.0.1:9")
    assert (row["on disk"], row["points"], row["in MLflow"]) == (50, 50, 0)
    assert row["lines"] == 1
