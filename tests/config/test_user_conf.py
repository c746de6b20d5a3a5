import sys

import pytest

from mambalab.config import compose, paths, resolve_target
from mambalab.errors import UserError
from mambalab.settings.task import ClassificationSettings, TaskSettings, TextSettings

TASK = "name: mine\n_target_: my_module.MyTask\nbatch_size: 3\neval_batch_size: 4\n"


def test_an_option_of_ones_own(write):
    write("conf/model/small.yaml", "defaults: [mamba, _self_]\nname: small\nd_model: 64\n")
    cfg = compose("train", ["model=small"])
    assert (cfg.model.name, cfg.model.d_model, cfg.model.pattern) == ("small", 64, "M")
    assert paths.options("model") == [
        *("hybrid", "mamba", "pretrained", "small", "transformer", "transformer_equal_depth")
    ]


def test_an_option_of_mambalab_replaced(write):
    write("conf/trainer/default.yaml", "defaults: [smoke, _self_]\nmax_steps: 3\n")
    write("conf/trainer/smoke.yaml", (paths.package_conf() / "trainer/default.yaml").read_text())
    assert compose("train", []).trainer.max_steps == 3


def test_an_experiment_in_a_subfolder(write):
    write(
        "conf/experiment/mine/long.yaml",
        "# @package _global_\ndefaults:\n  - override /model: transformer\nseed: 7\n",
    )
    cfg = compose("train", ["experiment=mine/long"])
    assert (cfg.model.name, cfg.seed) == ("transformer", 7)


def test_a_task_of_ones_own_has_free_options(write):
    write("conf/task/mine.yaml", TASK + "params: {depth: 3}\n")
    cfg = compose("train", ["task=mine", "task.params.width=4"])
    assert type(cfg.task) is TaskSettings
    assert cfg.task.params == {"depth": 3, "width": 4}
    with pytest.raises(UserError, match=r"task.seq_len: no such key.*go into task.params"):
        compose("train", ["task=mine", "task.seq_len=4"])


def test_a_task_of_ones_own_can_build_on_a_given_one(write):
    write("conf/task/mine.yaml", "defaults: [text, _self_]\n_target_: my_module.MyTask\n")
    cfg = compose("train", ["task=mine", "task.seq_len=77"])
    assert isinstance(cfg.task, TextSettings)
    assert cfg.task.seq_len == 77


def test_classes_of_ones_own_lie_in_the_working_directory(write, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))
    write("own_module_for_this_test.py", "class MyTask: pass\n")
    assert resolve_target("own_module_for_this_test.MyTask").__name__ == "MyTask"


BROKEN = {
    "a: [\n": r"broken.yaml, line 2: not YAML",
    "a: 1\na: 2\n": r"broken.yaml, line 2: not YAML: found duplicate key",
    "- a\n": r"Invalid type assigned: list",
    "defaults: [broken]\n": r"names itself in its defaults list",
    "defaults: [absent]\n": r"Could not load 'task/absent'",
    "name: ${absent}\n": r"task.name: Interpolation key 'absent' not found",
    "": r"task._target_: no value",
    TASK + "params: {}\nfoo: 3\n": r"task.foo: no such key",
    "name: mine\n_target_: a.B\nbatch_size: 3\nparams: {}\n": r"task.eval_batch_size: no value",
}


@pytest.mark.parametrize("text", BROKEN)
def test_broken_files_are_one_line(write, text):
    write("conf/task/broken.yaml", text)
    with pytest.raises(UserError, match=BROKEN[text]) as caught:
        compose("train", ["task=broken"])
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8(workdir, write):
    write("conf/task/broken.yaml", "")
    (workdir / "conf/task/broken.yaml").write_bytes(b"a: \xff\xfe\n")
    with pytest.raises(UserError, match="a file there is not UTF-8"):
        compose("train", ["task=broken"])


def test_a_strange_conf_folder_is_named(write):
    """Another program's ./conf/train.yaml would stand in for ours: say so."""
    write("conf/train.yaml", "db: mysql\n")
    with pytest.raises(UserError, match=r"db: no such key.*conf/train.yaml replaces"):
        compose("train", [])


def test_a_vanished_working_directory(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UserError, match="working directory no longer exists"):
        compose("train", [])


def test_a_task_of_ones_own_may_build_on_what_a_kind_of_task_shares(write):
    text = "defaults: [_classification, _self_]\nname: mine\n_target_: my_module.MyTask\n"
    write("conf/task/mine.yaml", text)
    cfg = compose("train", ["task=mine", "task.label_smoothing=0.1"])
    assert isinstance(cfg.task, ClassificationSettings)
    assert cfg.task.label_smoothing == 0.1
    write("conf/task/mine.yaml", text.replace("_classification", "_images") + "val_size: 3\n")
    cfg = compose("train", ["task=mine", "task.augment.flip=true"])
    assert cfg.task.augment.flip


@pytest.mark.parametrize("entry", ["7", "[a, b]", "1.5"])
def test_an_odd_entry_of_a_defaults_list_is_one_line(write, entry):
    write("conf/model/odd.yaml", f"defaults: [mamba, {entry}, _self_]\n")
    with pytest.raises(UserError, match="defaults"):
        compose("train", ["model=odd"])


@pytest.mark.parametrize("key", ["model.n_head", "model.d_ff", "model.dt_rank"])
def test_a_size_that_may_be_auto_is_never_null(key):
    with pytest.raises(UserError, match=f"{key}=None: must be auto or a whole number"):
        compose("train", [f"{key}=null"])
