import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mambalab import __version__
from mambalab.cli import main
from mambalab.cli.verbs import VERBS
from mambalab.errors import UserError
from mambalab.utils import console

ROOT = Path(__file__).parents[2]
HEAVY = [
    "torch",
    "mlflow",
    "huggingface_hub",
    "triton",
    "numba",
    "matplotlib",
    "numpy",
]


@pytest.fixture(autouse=True)
def workdir(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(monkeypatch):
    """A function that puts another `run` behind a verb."""

    def replace(verb, run):
        monkeypatch.setattr(f"mambalab.commands.{verb}.run", run)

    return replace


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_lists_every_verb(argv, capsys):
    assert main.main(argv) == 0
    out = capsys.readouterr().out
    for verb, record in VERBS.items():
        assert f"  {verb}" in out
        assert record.summary in out


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("form", [["--help"], ["-h"]])
def test_every_verb_explains_itself(verb, form, capsys):
    assert main.main([verb, *form]) == 0
    assert capsys.readouterr().out.startswith(f"mambalab {verb}: {VERBS[verb].summary}")
    assert main.main(["help", verb]) == 0


def test_help_takes_no_notice_of_plain_words(capsys):
    assert main.main(["data", "fetch", "--help"]) == 0


def test_version(capsys):
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mambalab {__version__}\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("traim", "traim: no such verb; did you mean train? (verbs: train, runs,"),
        ("seed=1", "seed=1: a verb comes first, as in mambalab train seed=1"),
        ("train task=shakespear", "task=shakespear: no such option; did you mean shakespeare?"),
        ("train dropout.p=1.7", "dropout.p=1.7: must be at least 0 and below 1"),
        ("train optim.lr=abc", "optim.lr=abc: expected a number"),
        ("train trainer.max_steps=-1", "trainer.max_steps=-1: must be at least 1"),
        ("train trainer.max_stepz=3", "trainer.max_stepz: no such key; did you mean"),
        ("train foo=1", "foo: no such key"),
        ("train +foo=1", "foo: no such key"),
        ("train ~seed", "~seed: every key is needed"),
        ("train model=", "model=: choose one of hybrid, mamba, pretrained, transformer"),
        ("train a=[", "a=[: cannot be read"),
        ("train experiment=quikstart", "did you mean quickstart?"),
        ("train experiment=mnist", "experiment=mnist: no such option; did you mean mnist/cpu?"),
        ("train dropout=ssm model=transformer", "no state-space layer"),
        ("train seed=1,2", "several values are a sweep"),
        ("train -m seed=1,x", "seed=x: expected a whole number"),
        ("train --hepl", "--hepl: no such flag; did you mean --help?"),
        ("train -x", "-x: no such flag; mambalab train --help lists all"),
        ("train --seed 3", "--seed: no such flag"),
        ("train --seed=3", "settings are written without dashes: seed=3"),
        ("train --cfg", "--cfg: write --cfg job"),
        ("train --cfg hydra", "--cfg: write --cfg job"),
        ("eval -m", "-m: only mambalab train can run several jobs"),
        ("eval outputs/x", "outputs/x: no such folder; `mambalab runs` lists the runs"),
        ("generate outputs/x", "outputs/x: no such folder; `mambalab runs` lists the runs"),
        ("eval latests", "latests: expected KEY=VALUE; did you mean latest?"),
        ("generate lates", "lates: expected KEY=VALUE; did you mean latest?"),
        ("generate ROMEO:", 'ROMEO:: expected KEY=VALUE; did you mean prompt="ROMEO:"?'),
        ("generate mask=x.png", "mask: no such key; did you mean mask_image?"),
        ("generate num_beams=4", "num_beams: no such key; there is no beam search: temperature=0"),
        ("generate do_sample=true", "do_sample: no such key; temperature=0 takes"),
        ("train num_beams=4", "num_beams: no such key"),
        ("generate latest x", "x: expected KEY=VALUE"),
        ("data fetch", "data fetch: which data set?"),
        ("data list a b", "b: expected KEY=VALUE"),
        ("completion", "write mambalab completion bash|zsh|fish"),
        ("completion tcsh", "completion tcsh: write mambalab completion bash|zsh|fish"),
        ("sync", "sync: which run?"),
        ("runs nowhere", "nowhere: no such folder"),
        ("runs --folow", "--folow: no such flag; did you mean --follow?"),
        ("train dropout=0.2", "did you mean dropout.p=0.2?"),
        ("train epochs=3", "epochs: no such key; did you mean trainer.max_epochs?"),
        ("train batch_size=3", "did you mean task.batch_size?"),
        ("train lr=1", "did you mean optim.lr?"),
        ("train learning_rate=1", "did you mean optim.lr?"),
        ("train dataset=mnist", "dataset: no such key; did you mean task?"),
        ("train run_name=x", "run_name: no such key; did you mean name?"),
        ("train name", "name: expected KEY=VALUE; did you mean name=VALUE?"),
        (
            "train config=my.yaml",
            "config=my.yaml: settings of your own go into ./conf/experiment/my",
        ),
        ("train --config my.yaml", "go into ./conf/experiment/my.yaml (first line # @package"),
        ("train --config=a/my.yaml", "_global_), then experiment=my"),
        ("train my.yaml", "my.yaml: settings of your own go into ./conf/experiment/my.yaml"),
        (
            "train --model mamba",
            "--model: no such flag; settings are written without dashes: model=m",
        ),
        ("train --lr=0.1", "settings are written without dashes: optim.lr=0.1"),
        ("train --batch-size 3", "without dashes: task.batch_size=3"),
        ("train --compile", "without dashes: trainer.compile=true"),
        ("eval --split val", "without dashes: split=val"),
        ("plot", "plot: no such verb; did you mean mambalab compare? (verbs: train"),
        ("sweep", "did you mean mambalab train -m?"),
        ("delete x", "did you mean mambalab remove?"),
        ("experiment", "did you mean mambalab experiments?"),
        ("train model.n_layer=2147483648 --cfg job", "must be at least 1 and at most 10000"),
    ],
)
def test_a_misuse_is_one_line_and_creates_nothing(line, message, capsys, workdir):
    assert main.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert err.startswith("mambalab: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert out == ""
    assert list(workdir.iterdir()) == []


def test_settings_reach_the_command(command):
    seen = []
    command("train", lambda cfg: seen.append(cfg) or 0)
    assert main.main(["train", "seed=3", "model=transformer"]) == 0
    assert (seen[0].seed, seen[0].model.name) == (3, "transformer")


@pytest.mark.parametrize("verb", ["generate", "eval", "inspect", "export"])
def test_the_newest_run_by_its_word_alone(command, verb):
    seen = []
    command(verb, lambda cfg: seen.append(cfg) or 0)
    more = ["out=x"] if verb == "export" else []
    assert main.main([verb, "latest", *more]) == 0
    assert main.main([verb, "latest", "run=other", *more]) == 0
    assert [cfg.run for cfg in seen] == ["latest", "other"]


@pytest.mark.parametrize("verb", ["generate", "eval", "inspect", "export"])
def test_a_run_by_its_path_alone(command, verb, workdir):
    seen = []
    command(verb, lambda cfg: seen.append(cfg) or 0)
    (workdir / "sweeps, too" / "seed=1").mkdir(parents=True)
    more = ["out=x"] if verb == "export" else []
    assert main.main([verb, "sweeps, too/seed=1", *more]) == 0
    assert [cfg.run for cfg in seen] == ["sweeps, too/seed=1"]


def test_plain_words_are_settings(command):
    seen = []
    command("data", lambda cfg: seen.append((cfg.action.name, cfg.name)) or 0)
    command("sync", lambda cfg: seen.append(cfg.runs) or 0)
    assert main.main(["data"]) == 0
    assert main.main(["data", "fetch", "shakespeare"]) == 0
    assert main.main(["sync", "a/b", "with, comma", "it's"]) == 0
    assert seen == [("list", None), ("fetch", "shakespeare"), ["a/b", "with, comma", "it's"]]


def test_texts_need_no_quotes_but_the_shells(command):
    seen = []
    command("generate", lambda cfg: seen.append(cfg.prompt) or 0)
    prompts = ["ROMEO:", "To be, or not", "a\nb", "say \"yes\" = 'no'", "${HOME} [x] {y}", ""]
    assert [main.main(["generate", f"prompt={p}"]) for p in prompts] == [0] * len(prompts)
    assert seen == prompts


def test_the_status_is_the_commands(command):
    command("runs", lambda cfg: 3)
    assert main.main(["runs"]) == 3


def test_a_failure_is_one_line(command, capsys):
    def run(cfg):
        raise UserError("no disk\nleft")

    command("runs", run)
    assert main.main(["runs"]) == 1
    assert capsys.readouterr().err == "mambalab: error: no disk left\n"


def test_a_bug_keeps_its_traceback(command):
    def run(cfg):
        raise KeyError("bug")

    command("runs", run)
    with pytest.raises(KeyError):
        main.main(["runs"])


@pytest.mark.parametrize("verb", ["runs", "train"])
def test_messages_of_every_verb_are_shown_once(verb, command, capsys):
    log = logging.getLogger("mambalab")

    def run(cfg):
        with console.show_log():  # as training does, for programs that call it themselves
            log.info("it is on its way")
        log.debug("details")
        log.error("this ends it, and is printed when it has")
        return 0

    command(verb, run)
    assert main.main([verb]) == 0
    assert capsys.readouterr().err == "it is on its way\n"
    log.info("nobody listens any more")
    assert capsys.readouterr().err == ""


def test_ctrl_c(command, capsys):
    def run(cfg):
        raise KeyboardInterrupt

    command("runs", run)
    assert main.main(["runs"]) == 130
    assert capsys.readouterr().err == "mambalab: interrupted\n"


def test_cfg_job_prints_yaml_and_runs_nothing(command, capsys, workdir):
    command("train", lambda cfg: pytest.fail("it ran"))
    assert main.main(["train", "experiment=quickstart", "--cfg", "job"]) == 0
    out = capsys.readouterr().out
    assert "\nseed: 1\n" in out
    assert "\n  _target_: auto\n" in out
    assert "${" not in out
    assert main.main(["train", "-m", "seed=1,2", "--cfg=job"]) == 0
    assert capsys.readouterr().out.count("\n---\n") == 1
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize("verb", [v for v in VERBS if v != "completion"])
def test_every_verb_shows_its_configuration(verb, capsys):
    assert main.main([verb, "--cfg", "job"]) == 0
    assert ":" in capsys.readouterr().out


def test_a_path_that_exists_is_a_run(workdir, capsys):
    (workdir / "outputs").mkdir()
    assert main.main(["generate", "outputs"]) == 1
    assert "run=outputs is no run folder" in capsys.readouterr().err


def test_multirun(monkeypatch, capsys):
    seen = []

    def sweep(plan):
        seen.append(([job.config.seed for job in plan.jobs], plan.command))
        return len(seen) - 1

    monkeypatch.setattr("mambalab.sweep.run.run", sweep)
    assert main.main(["train", "-m", "seed=1,2,3"]) == 0
    assert main.main(["train", "seed=1,3", "--multirun"]) == 1
    assert seen == [([1, 2, 3], ["seed=1,2,3"]), ([1, 3], ["seed=1,3"])]
    assert main.main(["train", "-m", "seed=1,3", "--cfg", "job"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("run_dir: outputs/sweeps/text-") == 2
    assert len(seen) == 2


def run(argv, **options):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mambalab", *argv]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, **options)


def test_the_program_as_a_process(workdir):
    assert run(["--version"]).stdout == f"mambalab {__version__}\n"
    done = run(["train", "dropout.p=1.7"])
    assert done.returncode == 2
    assert done.stderr == "mambalab: error: dropout.p=1.7: must be at least 0 and below 1\n"
    assert done.stdout == ""
    assert list(workdir.iterdir()) == []


def test_a_reader_that_stops_reading():
    """As in `mambalab train --help | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mambalab", "train", "--help"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            command, env=env, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=300
        )
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 141


def test_no_help_needs_a_heavy_module():
    code = f"""
import sys
from mambalab.cli.main import main
from mambalab.cli.verbs import VERBS
for argv in [["--help"], ["--version"], ["__complete", "zsh", "train", ""], ["nonsense"]] + [
    [verb, "--help"] for verb in VERBS
]:
    main(argv)
    loaded = [name for name in {HEAVY} if name in sys.modules]
    assert not loaded, (argv, loaded)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_overview_needs_nothing_but_the_standard_library():
    code = """
import sys
from mambalab.cli.main import main
main(["--help"])
loaded = {"omegaconf", "hydra", "yaml", "argparse", "typing"} & set(sys.modules)
assert not loaded, loaded
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
