"""mambalab as a library: quick to import, and its examples are true."""

import doctest
import inspect
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import mambalab
from mambalab import api, load, model_settings, models
from mambalab.cli import main
from mambalab.errors import UserError
from mambalab.models import Mamba, MambaBlock
from mambalab.tracking.recorder import Recorder
from mambalab.train import listening
from mambalab.train.loop import Trainer
from tests.lab import only_run, train


def test_the_examples_are_true():
    found = doctest.testmod(api)
    assert found.attempted >= 9
    assert found.failed == 0


def test_importing_it_is_instant():
    code = (
        "import sys, mambalab, mambalab.models; assert 'torch' not in sys.modules;"
        "assert not {'omegaconf', 'numpy', 'yaml'} & set(sys.modules);"
        "from mambalab.models import Mamba; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.parametrize("module", [mambalab, models])
def test_names_that_are_not_there(module):
    assert all(hasattr(module, name) for name in module.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        module.absent  # noqa: B018


def test_settings_are_those_of_the_command_line():
    settings = model_settings("hybrid", d_model=48, dt_rank=5, norm_eps=1e-6, tie_embeddings=True)
    assert (settings.pattern, settings.d_model, settings.dt_rank) == ("MMA", 48, 5)
    assert (settings.norm_eps, settings.tie_embeddings) == (1e-6, True)
    with pytest.raises(UserError, match=r"model\.d_modle: no such key; did you mean"):
        model_settings(d_modle=3)
    with pytest.raises(UserError, match=r"model\.d_model=0: must be at least 1"):
        model_settings(d_model=0)


def test_a_block_without_dropout():
    block = MambaBlock(model_settings(d_model=32)).train()
    x = torch.randn(2, 9, 32)
    assert torch.equal(block(x), block(x))
    assert torch.equal(block(x), x + block.mixer(block.norm(x)))
    assert isinstance(block.mixer, Mamba)


def test_runs_and_checkpoints_are_loaded_by_name(folder):
    train("model=mamba", "dropout=none", "trainer.max_steps=2")
    assert main.main(["export", "out=exported"]) == 0
    ids = torch.tensor([load().tokenizer.encode("Line 5")])
    sources = [load(name, precision="fp32") for name in ("latest", only_run(folder), "exported")]
    first, *others = [source.model(ids) for source in sources]
    assert all(torch.equal(first, other) for other in others)
    for options, message in (
        ({"name": "absent"}, "^absent: no such run or folder; mambalab.runs"),
        ({"name": "outputs/text/absent"}, "^outputs/text/absent: no such run"),
        ({"precision": "fp8"}, "precision=fp8: choose one of auto, fp32, bf16"),
        ({"tokenizer": "x"}, "tokenizer=x: latest is a run and has its own"),
    ):
        with pytest.raises(UserError, match=message):
            load(**options)


CLASSIFY = [
    *("task=digits", "task.val_size=50", "task.batch_size=8", "model.d_model=16"),
    *("model.n_layer=1", "model.d_state=4", "trainer.max_steps=2", "trainer.eval_every=2"),
    *("trainer.log_every=1", "tracking=jsonl", "device=cpu", "precision=fp32"),
]


@pytest.fixture
def classified(tmp_path, monkeypatch):
    """A run of two steps on the digits."""
    monkeypatch.chdir(tmp_path)
    return mambalab.train(CLASSIFY)


def test_functions_share_their_names_with_packages():
    import mambalab.compare.select
    import mambalab.train.loop

    assert mambalab.train.loop.Trainer
    assert mambalab.compare.select.locate
    for name in ("train", "runs", "compare"):
        package, function = getattr(mambalab, name), getattr(api, name)
        assert inspect.signature(package) == inspect.signature(function)
        assert package.__doc__ == function.__doc__
    code = (
        "import mambalab; from mambalab import runs, train; import sys;"
        "assert not {'torch', 'pandas', 'mambalab.api'} & set(sys.modules); assert callable(train);"
        "assert runs() is not None and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_a_run_from_python_is_that_of_the_command_line(classified, capsys):
    run = classified
    assert run.summary.command == f"mambalab train {' '.join(CLASSIFY)}"
    assert run.status == "FINISHED"
    assert run.settings["seed"] == 1
    assert (run.best.metric, run.best.step) == ("val/accuracy", 2)
    assert list(run.metrics.index) == [1, 2]
    assert run.metrics["val/accuracy"][2] == run.best.value
    assert run.metrics["val/accuracy"].isna()[1]
    assert "FINISHED, val/accuracy 0." in repr(run)
    as_dict = dict(word.split("=") for word in CLASSIFY)
    numbers = {k: int(v) for k, v in as_dict.items() if v.isdigit()}
    before = run.folder.stat().st_mtime_ns
    for same in (CLASSIFY, " ".join(CLASSIFY), as_dict | numbers):
        assert mambalab.train(same).folder == run.folder
    assert run.folder.stat().st_mtime_ns == before
    assert capsys.readouterr().out == ""
    assert run.model(torch.randn(2, 8, 8), None).shape == (2, 10)
    scored = mambalab.evaluate(run)
    assert scored["val/accuracy"] == run.best.value
    tested = mambalab.evaluate(run.folder, "test")
    assert tested["test/accuracy"] == run.summary.test.metrics["test/accuracy"]
    with pytest.raises(UserError, match="split=tset: task digits has no such split; it has: train"):
        mambalab.evaluate("latest", "tset")


def test_mistakes_are_exceptions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wrong, message in (
        (["task=digit"], "task=digit: no such option; did you mean"),
        ({"optim.lrr": 1}, r"optim\.lrr: no such key"),
        (["task=digits", 3], "train: 3 is no text"),
        (["seed=1,2"], "several values are a sweep"),
    ):
        with pytest.raises(UserError, match=message):
            mambalab.train(wrong)
    with pytest.raises(UserError, match="compare: which runs"):
        mambalab.compare()
    assert list(tmp_path.iterdir()) == []


def test_runs_are_a_table_and_compared(classified):
    other = mambalab.train([*CLASSIFY, "seed=2"])
    table = mambalab.runs()
    assert list(table["folder"]) == [str(classified.folder), str(other.folder)]
    assert list(table["seed"]) == [1, 2]
    assert list(table["task"]) == ["digits", "digits"]
    found = mambalab.runs({"seed": 2, "optim.lr": [0.5, classified.settings["optim"]["lr"]]})
    assert list(found["folder"]) == [str(other.folder)]
    assert len(mambalab.runs({"seed": 3})) == 0
    assert "seed" in mambalab.runs({"seed": 3})
    with pytest.raises(UserError, match=r"where: no run has a setting optim\.rate"):
        mambalab.runs({"optim.rate": 1})
    settings = (other.folder / "config.yaml").read_bytes()
    (other.folder / "config.yaml").write_text("[")
    assert len(mambalab.runs()) == 1
    (other.folder / "config.yaml").write_bytes(settings)
    for which in ([classified, other.folder], ["outputs"]):
        compared = mambalab.compare(which)
        assert list(compared.groups["n"]) == [2]
        assert len(compared.runs) == 2
        assert "means over seeds" in str(compared)
        assert compared._repr_markdown_()
    assert not Path("outputs/comparisons").exists()


def test_without_pandas_tables_are_lists(classified, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert [row["step"] for row in classified.metrics] == [1, 2]
    assert mambalab.runs()[0]["seed"] == 1


def test_a_classifier_is_loaded_and_names_classes(classified, caplog):
    source = load(classified)
    x = torch.randn(3, 8, 8)
    shares = source.probabilities(x)
    assert shares.shape == (3, 10)
    torch.testing.assert_close(shares.sum(1), torch.ones(3))
    assert source.tokenizer is None
    assert source.predict(x) == [str(n) for n in shares.argmax(1).tolist()]
    assert "keeps no names of its classes" not in caplog.text
    (classified.folder / "classes.json").write_text('{"classes": ["only one"]}')
    assert load("latest").classes == [str(n) for n in range(10)]  # as of an older run
    assert "keeps no names of its classes: their numbers are shown" in caplog.text


def test_models_without_text_have_no_tokenizer(folder, caplog):
    run = mambalab.train(
        [*CLASSIFY[4:], "task=induction_heads", "task.seq_len=8", "task.eval_sequences=2"]
    )
    source = load(run)
    assert source.tokenizer is None
    assert source.model(torch.zeros(1, 5, dtype=torch.int64)).shape[:2] == (1, 5)
    train("model=mamba", "dropout=none", "trainer.max_steps=1")
    assert main.main(["export", "out=exported"]) == 0
    Path("exported/tokenizer.json").unlink()
    assert load("exported").tokenizer is None
    assert "name one with tokenizer=FILE" in caplog.text


@pytest.fixture
def interruptible():
    """Ctrl-C means KeyboardInterrupt, also where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_signals_save_the_run_and_then_mean_what_they_mean(classified, monkeypatch):
    step = Trainer._train_step
    monkeypatch.setattr(listening, "GRACE_SECONDS", 3600.0)  # a first step may take long

    def stopped(self, *args):
        signal.raise_signal(signal.SIGINT)
        return step(self, *args)

    more = [*CLASSIFY, "seed=3", "trainer.max_steps=4"]
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Trainer, "_train_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        mambalab.train(more)
    monkeypatch.setattr(Trainer, "_train_step", step)
    assert signal.getsignal(signal.SIGINT) is before
    (stopped_run,) = mambalab.runs({"seed": 3}).itertuples()
    assert (stopped_run.status, stopped_run.step) == ("KILLED", 1)
    found = []
    thread = threading.Thread(target=lambda: found.append(mambalab.train(more)))
    thread.start()  # no signal handler can be installed there
    thread.join()
    assert (found[0].status, found[0].summary.resumed_from) == ("FINISHED", 1)


@pytest.mark.usefixtures("interruptible")
def test_a_signal_after_the_last_step_is_not_lost(classified, monkeypatch):
    finish = Recorder.finish

    def stopped(self, *args):
        signal.raise_signal(signal.SIGINT)
        return finish(self, *args)

    monkeypatch.setattr(Recorder, "finish", stopped)
    with pytest.raises(KeyboardInterrupt):
        mambalab.train([*CLASSIFY, "seed=4"])
    (run,) = mambalab.runs({"seed": 4}).itertuples()
    assert run.status == "FINISHED"


def test_metrics_of_a_folder_that_is_elsewhere_are_an_error(
    classified, tmp_path_factory, monkeypatch
):
    run = mambalab.train([*CLASSIFY, "seed=1"])
    assert len(run.metrics)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(UserError, match="is no run folder: it was moved, or the working directory"):
        _ = run.metrics
