"""Mistakes that come from a YAML file name that file."""

import pytest

from mambalab.config import compose, paths
from mambalab.errors import UserError
from mambalab.sweep.plan import plan

FOREIGN = "_target_: lightning.Trainer\nmax_epochs: 3\n"


@pytest.mark.parametrize("experiment", ["mnist/cpu", "[mnist/cpu,cifar10/cpu]"])
def test_an_experiment_for_another_task_is_named(experiment, workdir):
    words = [f"experiment={experiment}", "task=cifar10"]
    message = "^experiment=mnist/cpu sets task.input_dim, which task=cifar10 does not have"
    with pytest.raises(UserError, match=message):
        compose("train", words)


def test_an_experiment_that_builds_on_the_guilty_one(write):
    text = "# @package _global_\ndefaults: [/experiment/mnist/cpu, override /task: cifar10]\n"
    write("conf/experiment/mine.yaml", text)
    with pytest.raises(UserError, match=r"experiment=mnist/cpu sets task.input_dim"):
        compose("train", ["experiment=mine"])


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("trainer/default", []),
        ("trainer/default", ["trainer=smoke"]),
        ("model/transformer", ["model=transformer"]),
        ("task/_text", []),
    ],
)
def test_a_strange_file_with_a_name_of_ours_is_named(path, words, write):
    write(f"conf/{path}.yaml", FOREIGN)
    with pytest.raises(UserError, match=rf"no such key.*conf/{path}.yaml replaces mambalab's own"):
        compose("train", words)


def test_a_strange_launcher_is_named(write):
    write("conf/hydra/launcher/joblib.yaml", "backend: loky\nn_jobs: 2\n")
    with pytest.raises(UserError, match=r"launcher/joblib.yaml replaces mambalab's own"):
        plan(["hydra/launcher=joblib"])


def test_a_file_with_our_keys_is_no_suspect(write):
    for name in ("train", "trainer/default"):
        write(f"conf/{name}.yaml", (paths.package_conf() / f"{name}.yaml").read_text())
    write("conf/optim/adamw.yaml", (paths.package_conf() / "optim/adamw.yaml").read_text())
    write("conf/trainer/smoke.yaml", "defaults: [default, _self_]\nmax_steps: 3\n")
    with pytest.raises(UserError, match=r"optim.lr=abc: expected a number$"):
        compose("train", ["optim.lr=abc", "trainer=smoke"])


def test_options_with_names_outside_ascii(write):
    write("conf/optim/über.yaml", "defaults: [adamw, _self_]\nlr: 0.5\n")
    assert compose("train", ["optim=über"]).optim.lr == 0.5
    assert plan(["optim=über,adamw"]).jobs[0].config.optim.lr == 0.5


def test_an_option_in_a_yml_file(write):
    write("conf/optim/mine.yml", "lr: 0.5\n")
    with pytest.raises(UserError, match=r"rename .*/conf/optim/mine.yml to mine.yaml"):
        compose("train", ["optim=mine"])


def test_an_experiment_without_its_package_line(write):
    write("conf/experiment/plain.yaml", "seed: 7\n")
    with pytest.raises(UserError, match=r"experiment/plain.yaml lacks its first line.*_global_"):
        compose("train", ["experiment=plain"])


@pytest.mark.parametrize(("group", "base"), [("model", "mamba"), ("trainer", "default")])
def test_an_option_without_a_base_is_told_one(group, base, write):
    write(f"conf/{group}/mine.yaml", "{}\n")
    message = rf"no value; .*conf/{group}/mine.yaml can take .* with defaults: \[{base}, _self_\]"
    with pytest.raises(UserError, match=message):
        compose("train", [f"{group}=mine"])
