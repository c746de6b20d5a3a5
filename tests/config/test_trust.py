import sys

import pytest

from mambalab.config import check_modules, compose, load_run_config, resolve_target, to_yaml
from mambalab.errors import UserError


@pytest.fixture
def stranger(workdir):
    """A function that writes a run's config.yaml, changed, and returns its folder."""

    def save(old: str = "", new: str = ""):
        text = to_yaml(compose("train", []))
        assert old in text
        (workdir / "config.yaml").write_text(text.replace(old, new, 1) if old else text)
        return workdir

    return save


def test_our_own_runs_load(stranger):
    assert load_run_config(stranger(), []) == compose("train", [])


TASK = "mambalab.tasks.text.TextTask"


@pytest.mark.parametrize(
    "target", ["evil.Task", "os.system", "mambalab_evil.Task", "builtins.eval", "Task", ""]
)
def test_classes_of_strangers_are_refused(stranger, target):
    with pytest.raises(UserError, match="code from outside mambalab; if you trust it"):
        load_run_config(stranger(TASK, target), [])


def test_a_class_hidden_in_the_free_options_is_refused(stranger):
    folder = stranger("  params: {}", "  params: {a: [{_target_: evil.Task}]}")
    with pytest.raises(UserError, match=r"task.params.a.0._target_ is evil.Task"):
        load_run_config(folder, [])


@pytest.mark.parametrize("trust", ["good", "good.tasks"])
def test_trusted_modules_load(stranger, trust):
    cfg = load_run_config(stranger(TASK, "good.tasks.Task"), [trust])
    assert cfg.task._target_ == "good.tasks.Task"


def test_trust_is_not_a_prefix_of_letters(stranger):
    with pytest.raises(UserError, match="code from outside"):
        load_run_config(stranger(TASK, "goodness.Task"), ["good"])


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a${seed}", "'${'"])
def test_interpolations_are_refused(stranger, text):
    with pytest.raises(UserError, match=r"data_dir holds \$\{...\}, which is refused"):
        load_run_config(stranger("data_dir: ./data", f"data_dir: {text}"), [])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 1", "seed: x", "seed=x: expected a whole number"),
        ("seed: 1", "sead: 1", "sead: no such key; did you mean seed"),
        ("lr: 0.003", "lr: -1", "optim.lr=-1.0: must be above 0"),
        ("seed: 1", "seed: [", "not YAML; the file is damaged"),
        ("seed: 1", "seed: !!python/object:os.system 1", "not YAML; the file is damaged"),
        ("seed: 1", "seed: &a 1\nb: *a", "aliases"),
    ],
)
def test_damaged_configs(stranger, old, new, message):
    with pytest.raises(UserError, match=f"config.yaml: .*{message}"):
        load_run_config(stranger(old, new), [])


def test_files_that_are_no_config(workdir):
    with pytest.raises(UserError, match="not a run folder"):
        load_run_config(workdir, [])
    path = workdir / "config.yaml"
    path.write_text("- a\n")
    with pytest.raises(UserError, match="of a run; mend the file or bring it back"):
        load_run_config(workdir, [])
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="damaged"):
        load_run_config(workdir, [])
    path.write_text("a" * 1_000_001)
    with pytest.raises(UserError, match="too many for a configuration"):
        load_run_config(workdir, [])
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="directory"):
        load_run_config(workdir, [])


def test_targets_resolve():
    from mambalab.models.heads import LanguageModel

    assert resolve_target("mambalab.models.heads.LanguageModel") is LanguageModel


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("MyTask", "expected module.Class"),
        ("a b.C", "expected module.Class"),
        ("absent_module.MyTask", "no module absent_module, neither installed nor in"),
        ("json.absent.Task", "no module json.absent"),
        ("json.Absent", "json has no class Absent"),
        ("os.system", "os has no class system"),
        ("mambalab.absent.Task", "no module mambalab.absent$"),
        ("mambalab.config.trust.Path", "mambalab.config.trust has no class Path"),
    ],
)
def test_targets_that_do_not_resolve(target, message):
    with pytest.raises(UserError, match=message):
        resolve_target(target)


def test_a_module_that_lacks_a_module(write, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))
    write("own_module_that_lacks.py", "import absent_thing\n")
    with pytest.raises(UserError, match="own_module_that_lacks needs the module absent_thing"):
        resolve_target("own_module_that_lacks.Task")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("own_syntax", "x = 1\ndef f(:\n", r"own_syntax.py, line 2: invalid syntax"),
        ("own_error", "x = 1\n\ny = 1 / 0\n", r"own_error.py, line 3: ZeroDivisionError: div"),
        ("own_exit", "import sys\nsys.exit('no')\n", r"own_exit.py, line 2: SystemExit: no"),
        ("own_name", "from json import absent\n", r"own_name.py, line 1: ImportError: cannot"),
        ("own_json", "import json\njson.loads('')\n", r"own_json.py, line 2: JSONDecodeError"),
    ],
)
def test_a_module_that_fails_on_import_is_one_line(write, monkeypatch, name, text, message):
    monkeypatch.setattr("sys.path", list(sys.path))
    write(f"{name}.py", text)
    with pytest.raises(UserError, match=rf"_target_={name}.Task: .*{message}") as caught:
        resolve_target(f"{name}.Task")
    assert "\n" not in str(caught.value)
    if name != "own_syntax":  # found, and not imported
        check_modules([name])


def test_a_trusted_module_must_exist(write, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))
    write("own_trusted_module.py", "")
    check_modules(["own_trusted_module", "json.decoder"])
    for name in ("nosuch", "nosuch.part", "json.nosuch"):
        with pytest.raises(UserError, match=f"trust={name}: no such module"):
            check_modules([name])
