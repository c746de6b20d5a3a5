"""A `./conf` that a stranger made: it trusts nobody, sends nothing, and does not hang."""

import os
import shutil
import socket

import pytest

from mambalab import config
from mambalab.cli.main import main
from mambalab.config import paths, user_conf
from mambalab.errors import UserError
from mambalab.sweep.plan import plan
from mambalab.utils import console
from tests.lab import compose


def replace(write, verb, old, new):
    text = (paths.package_conf() / f"{verb}.yaml").read_text()
    assert old in text
    write(f"conf/{verb}.yaml", text.replace(old, new, 1))


@pytest.mark.parametrize("verb", ["eval", "generate", "inspect", "export", "train"])
@pytest.mark.parametrize("trust", ["[evil]", "evil", "${oc.env:HOME}"])
def test_trust_counts_only_where_it_is_typed(write, verb, trust):
    replace(write, verb, "trust: []", f"trust: {trust}")
    with pytest.raises(UserError, match=r"trust in .*conf does not count"):
        compose(verb, [])
    assert compose(verb, ["trust=good"]).trust == ["good"]
    assert compose(verb, ["trust=[]"]).trust == []


def test_an_experiment_trusts_nobody(write):
    write("conf/experiment/mine.yaml", "# @package _global_\ntrust: [evil]\n")
    with pytest.raises(UserError, match=r"trust in .*conf does not count"):
        compose("train", ["experiment=mine"])


@pytest.mark.parametrize("params", ["{trust: [[evil]]}", "{trust: [evil, other]}"])
def test_a_sweep_does_not_try_out_whom_to_trust(write, params):
    write("conf/experiment/mine.yaml", f"# @package _global_\nsweep: {{params: {params}}}\n")
    with pytest.raises(UserError, match="whom to trust is not tried out"):
        plan(["experiment=mine"])


@pytest.mark.parametrize("verb", ["sync", "compare", "report"])
def test_where_runs_are_sent_is_typed(write, verb):
    replace(write, verb, "uri: null", "uri: http://elsewhere")
    words = {"sync": "runs=[a]", "compare": "paths=[a]", "report": "paths=[a]"}
    with pytest.raises(UserError, match=r"uri in .*conf does not count"):
        compose(verb, [words[verb]])
    assert compose(verb, [words[verb], "uri=http://here"]).uri == "http://here"


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a${mambalab.data_dir:x}", "${seed}"])
def test_nothing_comes_from_the_environment_because_of_it(write, text):
    replace(write, "generate", "pretrained: null", f"pretrained: owner/{text}")
    with pytest.raises(UserError, match=r"pretrained in .*conf holds \$\{...\}, which is refused"):
        compose("generate", [])
    assert compose("generate", ["pretrained=a/b"]).pretrained == "a/b"


def test_our_own_interpolations_may_stay(write):
    replace(write, "generate", "seed: 1", "seed: 3")
    assert compose("generate", []).seed == 3


def test_it_adds_no_place_to_search(write):
    replace(write, "eval", "trust: []", 'trust: []\nhydra: {"search\\x70ath": [pkg://evil]}')
    with pytest.raises(UserError, match=r"hydra.searchpath: put the files into"):
        compose("eval", [])


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bomb(), "200,000 values are too many"),
        ("[" * 3000, "nested more than 50 levels"),
        ("a: &a [*a]", "200,000 values are too many"),
        ("seed: !!int x", "not YAML"),
        ("seed: !!timestamp x", "not YAML"),
        ("seed: 1" + ":30" * 200, "number of 601 characters"),
        ('seed: "\0"', "not YAML"),
        ("#" * 1_000_001, "too many for a configuration"),
        ("defaults: [3]", "no form that a configuration can have"),
        ("defaults: [[a]]", "no form that a configuration can have"),
        ("defaults: {a: b}", "defaults"),
        ("defaults: 3", "defaults"),
    ],
)
def test_odd_yaml_is_one_line(write, content, message):
    write("conf/eval.yaml", content)
    with pytest.raises(UserError, match=message) as caught:
        compose("eval", [])
    assert "\n" not in str(caught.value)


def test_aliases_are_fine_in_ones_own_conf(write):
    replace(write, "eval", "trust: []", "trust: &none []")
    assert compose("eval", []).trust == []


def test_a_link_out_of_the_folder_is_not_followed(workdir, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "secret.yaml").write_text("seed: 7\n")
    (workdir / "conf/model").mkdir(parents=True)
    (workdir / "conf/model/mine.yaml").symlink_to(elsewhere / "secret.yaml")
    with pytest.raises(UserError, match="a link leads out of"):
        compose("train", ["model=mine"])
    (workdir / "conf/optim").symlink_to("/")
    with pytest.raises(UserError, match="a link leads out of"):
        compose("train", [])
    (workdir / "conf/optim").unlink()
    (workdir / "shared").mkdir()
    (workdir / "shared/tiny.yaml").write_text("defaults: [mamba, _self_]\nd_model: 8\n")
    (workdir / "conf/model/mine.yaml").unlink()
    (workdir / "conf/model/mine").symlink_to(workdir / "shared")
    (workdir / "conf/experiment").symlink_to(workdir / "shared")
    assert "tiny" in paths.options("experiment")


def test_pipes_and_sockets_are_no_files(workdir):
    (workdir / "conf/model").mkdir(parents=True)
    os.mkfifo(workdir / "conf/eval.yaml")
    os.mkfifo(workdir / "conf/model/mamba.yaml")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("conf/generate.yaml")
    for verb in ("eval", "train", "generate"):
        compose(verb, [])


def test_what_takes_the_place_of_ours_is_said(write, capsys):
    replace(write, "runs", "output_dir: outputs", "output_dir: elsewhere")
    main(["runs"])
    found = capsys.readouterr()
    assert found.err.endswith("conf/runs.yaml takes the place of mambalab's own\n")
    assert "elsewhere" in found.out
    write("conf/model/mamba.yaml", "")
    write("conf/model/new.yaml", "")
    assert [path.name for path in config.replaced("train")] == ["mamba.yaml"]
    assert user_conf.replaced("eval") == []


def test_a_clone_from_which_it_was_installed_replaces_nothing(workdir, capsys):
    shutil.copytree(paths.package_conf(), workdir / "conf")
    assert paths.user_conf() == workdir / "conf"
    assert config.replaced("train") == []
    for name in ("model/mamba", "task/text", "trainer/default", "train"):
        with (workdir / f"conf/{name}.yaml").open("a") as file:
            file.write("# changed\n")
    assert len(config.replaced("train")) == 4
    with console.show_log():
        config.tell_replaced("train")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("and 3 more files take the place of mambalab's own")
