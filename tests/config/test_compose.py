import dataclasses
import logging
import os
from dataclasses import MISSING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mambalab.cli.verbs import VERBS
from mambalab.commands.data import DataAction
from mambalab.commands.eval import Split
from mambalab.config import paths, unused
from mambalab.config.compose import compose_parts
from mambalab.config.grammar import QUOTED
from mambalab.config.overrides import known, prepare
from mambalab.config.schema import TrainConfig
from mambalab.errors import UserError
from mambalab.settings.model import ScanBackend
from mambalab.settings.task import TextSettings
from mambalab.settings.train import Precision, Resume, Schedule, TrackingKind
from tests.lab import compose

WITH_SETTINGS = [name for name, verb in VERBS.items() if verb.settings]
NEEDED = {
    "sync": ["runs=latest"],
    "compare": ["paths=latest"],
    "remove": ["runs=a"],
}  # what a verb cannot do without
YAML = sorted(paths.package_conf().glob("*.yaml"))
OPTIONS = [
    (group, name)
    for group, names in paths.groups().items()
    for name in names
    if group != paths.LAUNCHER_GROUP  # for sweeps: tests/config/test_multirun.py
]
PARTS = sorted(paths.package_conf().glob("*/_*.yaml"))


def test_every_verb_has_its_yaml_and_every_yaml_its_verb():
    assert {path.stem for path in YAML} == set(WITH_SETTINGS)


@pytest.mark.parametrize("verb", WITH_SETTINGS)
def test_every_verb_composes_to_its_settings(verb):
    assert isinstance(compose(verb, NEEDED.get(verb, [])), VERBS[verb].settings_class())


@pytest.mark.parametrize(("group", "name"), OPTIONS, ids=lambda value: value)
def test_every_option_composes(group, name):
    needed = ["model.pretrained=somewhere"] if name == "pretrained" else []
    cfg = compose_parts("train", prepare("train", [f"{group}={name}", *needed])).settings
    if group in ("task", "model", "dropout", "optim"):
        assert getattr(cfg, group).name == name


@pytest.mark.parametrize("part", PARTS, ids=lambda path: path.stem)
def test_every_part_belongs_to_an_option(part):
    assert any(f"- {part.stem}\n" in p.read_text() for p in part.parent.glob("*.yaml"))


@pytest.mark.parametrize("path", [*YAML, *paths.package_conf().glob("*/**/*.yaml")], ids=str)
def test_every_file_begins_with_a_comment(path):
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("verb", WITH_SETTINGS)
def test_no_value_has_a_second_home_in_the_code(verb):
    """A default in a settings class would be a value that YAML does not show."""

    def defaults(cls):
        for f in dataclasses.fields(cls):
            if dataclasses.is_dataclass(f.type) and isinstance(f.type, type):
                yield from defaults(f.type)
            else:
                yield f.default

    assert set(defaults(VERBS[verb].settings_class())) <= {"???", MISSING}
    assert all(option.help for option in known(verb, VERBS[verb].settings_class()).options.values())


def test_values_are_typed():
    cfg = compose(
        "train", ["optim.lr=1", "precision=bf16", "resume=must", "model.scan_backend=torch"]
    )
    assert isinstance(cfg, TrainConfig)
    assert isinstance(cfg.task, TextSettings)
    assert (cfg.optim.lr, type(cfg.optim.lr)) == (1.0, float)
    assert cfg.precision is Precision.bf16
    assert cfg.resume is Resume.must
    assert cfg.model.scan_backend is ScanBackend.torch
    assert cfg.optim.schedule is Schedule.cosine
    assert cfg.tracking.kind is TrackingKind.mlflow
    assert cfg.optim.betas == [0.9, 0.99]


def test_the_composed_config_is_closed():
    cfg = compose_parts("train", []).config
    with pytest.raises(Exception, match="not in"):
        cfg.new = 1


def test_quickstart():
    cfg = compose("train", ["experiment=quickstart"])
    assert (cfg.task.name, cfg.model.name, cfg.dropout.name) == ("text", "mamba", "ssm")
    assert cfg.trainer.max_minutes <= 2


def test_the_command_line_has_the_last_word():
    cfg = compose("train", ["model=transformer", "dropout=none", "experiment=quickstart"])
    assert (cfg.model.name, cfg.dropout.name, cfg.trainer.eval_every) == ("transformer", "none", 50)


def test_both_models_have_the_same_sizes():
    names = ("mamba", "transformer", "transformer_equal_depth")
    mamba, *others = (vars(compose("train", [f"model={name}"]).model) for name in names)
    differing = [{k for k in mamba if mamba[k] != other[k]} for other in others]
    assert differing == [{"name", "pattern", "rotary"}, {"name", "pattern"}]


def test_data_dir_comes_from_the_environment(monkeypatch):
    assert compose("train", []).data_dir == "./data"
    monkeypatch.setenv("MAMBALAB_DATA_DIR", "/somewhere")
    assert compose("train", []).data_dir == "/somewhere"
    assert compose("eval", []).data_dir == "/somewhere"
    assert compose("data", ["data_dir=/else"]).data_dir == "/else"


def test_an_empty_variable_is_none(monkeypatch):
    monkeypatch.setenv("MAMBALAB_DATA_DIR", "")
    for verb in ("train", "data", "doctor", "bench"):
        assert compose(verb, []).data_dir == "./data"
    assert compose("eval", []).data_dir is None


def test_a_needless_plus_is_no_mistake():
    assert compose("train", ["+task=shakespeare", "++seed=3"]).seed == 3


@pytest.mark.parametrize("text", ["my_module", "[my_module]", "'my_module'"])
def test_a_single_text_is_a_list_where_a_list_is_wanted(text):
    wanted = ["my_module"]
    assert compose("eval", [f"trust={text}"]).trust == wanted
    assert compose("eval", ["trust=a.b,c"]).trust == ["a.b", "c"]


def test_free_options_need_no_plus():
    cfg = compose("train", ["task.params.depth=3", "model.params.a.b=[1,x]"])
    assert cfg.task.params == {"depth": 3}
    assert cfg.model.params == {"a": {"b": [1, "x"]}}


@settings(max_examples=30, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.text(alphabet="'\"\\${}=,:[]() \n\ta", max_size=12)
)
@example("ROMEO:")
@example("To be, or not")
@example("a\nb = 'c' \"d\"")
@example("${oc.env:HOME}")
@example("\\${x}")
@example("a\\\\${x}\\")
@example("null")
@example("")
def test_a_prompt_means_itself(text):
    written = text.replace("\\", "\\\\")
    if QUOTED.fullmatch(written):  # as everywhere in Hydra, quotes round the whole are taken off
        return
    assert compose("generate", [f"prompt={written}"]).prompt == text


def test_quotes_round_the_whole_value_are_hydras():
    assert compose("generate", ['prompt="a, b"']).prompt == "a, b"


def test_paths_mean_themselves():
    assert compose("train", ["task.path=/a b/c,d=e.txt"]).task.path == "/a b/c,d=e.txt"
    assert compose("train", ["task.path=null"]).task.path is None
    assert compose("train", ["task.path=12"]).task.path == "12"
    assert compose("train", ["task.path=hf:some/one"]).task.path == "hf:some/one"


def test_several_paths_are_a_list(write):
    options = ["task=text", "task.path=[a b.txt,~/c.txt,'d,e.txt',12]", "task.val_path=v (1).txt"]
    task = compose("train", options).task
    assert task.path == ["a b.txt", os.path.expanduser("~/c.txt"), "d,e.txt", "12"]
    assert (task.val_path, task.test_path) == ("v (1).txt", None)
    with pytest.raises(UserError, match=r"task\.path") as error:
        compose("train", ["task=classify", "task.path=[a,b]"])
    assert "\n" not in str(error.value)
    write("[a,b]", "")
    assert compose("train", ["task=text", "task.path=[a,b]"]).task.path == "[a,b]"  # is a file
    write("conf/experiment/x.yaml", "# @package _global_\ntask: {path: {a: 1}}\n")
    with pytest.raises(UserError, match=r"task\.path: must be the path of a file or folder"):
        compose("train", ["task=text", "experiment=x"])


def test_home_is_expanded_where_the_shell_does_not(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert compose("train", ["output_dir=~/runs"]).output_dir == "/home/me/runs"
    assert compose("generate", ["prompt=~/runs"]).prompt == "~/runs"


def test_enums_of_the_other_verbs():
    assert compose("eval", ["split=test"]).split is Split.test
    assert compose("data", ["action=fetch", "name=text"]).action is DataAction.fetch


MISTAKES = {
    "task.augment={flip: true}": r"task.augment: holds settings; .* task.augment.flip=VALUE",
    "task=shakespear": r"task=shakespear: no such option; did you mean shakespeare\? \(task has:",
    "experiment=quikstart": r"no such option; did you mean quickstart\?",
    "model=": r"model=: choose one of hybrid, mamba, pretrained, transformer",
    "model=null": r"model=null: no such option",
    "model=[mamba]": r"model=\['mamba'\]: no such option",
    "dropout.p=1.7": r"dropout.p=1.7: must be at least 0 and below 1",
    "dropout.p=nan": r"dropout.p=nan: must be a finite number",
    "optim.lr=abc": r"optim.lr=abc: expected a number",
    "optim.lr=null": r"optim.lr=null: expected a number",
    "optim.lr=0": r"optim.lr=0.0: must be above 0",
    "optim.betas=[0.9]": r"optim.betas=\[0.9\]: must be a list of 2",
    "optim.betas=[0.9,1]": r"must be at least 0 and below 1",
    "optim.betas=[0.9,x]": r"optim.betas\[1\]=x: expected a number",
    "optim.betas={a:3}": r"optim.betas: ",
    "optim.schedule=cosin": r"expected cosine, exponential or constant; did you mean cosine\?",
    "precision=fp8": r"precision=fp8: expected auto, fp32, bf16 or fp16",
    "trainer.max_steps=-1": r"trainer.max_steps=-1: must be at least 1",
    "trainer.max_steps=1e3": r"expected a whole number or null; write 1000",
    "trainer.max_stepz=3": r"trainer.max_stepz: no such key; did you mean trainer.max_steps\?",
    "trainer.compile=3x": r"expected true or false",
    "lr=3": r"lr: no such key; did you mean optim.lr\?",
    "foo=1": r"foo: no such key",
    "+foo=1": r"foo: no such key",
    "task.foo=1": r"options of a class of your own go into task.params",
    "~seed": r"~seed: every key is needed",
    "seed=-1": r"seed=-1: must be at least 0",
    "seed=true": r"seed=True: expected a whole number",
    "seed=1,2": r"seed=1,2: several values are a sweep; write mambalab train -m",
    "seed=${nope}": r"seed: Interpolation key 'nope' not found",
    "a=[": r"a=\[: cannot be read",
    "seed=[": r"seed=\[: cannot be read",
    "--seed=3": r"settings are written without dashes: seed=3",
    "shakespeare": r"expected KEY=VALUE; did you mean task=shakespeare\?",
    "device=gpu": r"device=gpu: must be auto, cpu, cuda, cuda:N or mps",
    "data_dir=": r"data_dir=: must be the path of a folder",
    "data_fraction=0": r"data_fraction=0.0: must be above 0 and at most 1",
    "task.val_fraction=1": r"task.val_fraction=1.0: must be above 0 and below 1",
    "task.batch_size=0": r"task.batch_size=0: must be at least 1",
    "task.name=../x": r"task.name=../x: must be made of letters",
    "task.path=": r"task.path=: must be the path of a file or folder, a list of them, .*or null",
    "model.pattern=MX": r"model.pattern=MX: must be a word of the letters M",
    "model.dt_rank=4.5": r"model.dt_rank=4.5: must be auto or a whole number",
    "model.dt_rank=0": r"model.dt_rank=0: must be auto, or at least 1",
    "model.dt_min=1": r"model.dt_min=1 is above model.dt_max=0.1",
    "hydra.run.dir=x": "only hydra/launcher and hydra.launcher",
    "seed=\udcff": r"seed: the value is not UTF-8",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_is_one_line(override, workdir):
    with pytest.raises(UserError, match=MISTAKES[override]) as caught:
        compose("train", [override])
    assert "\n" not in str(caught.value)
    assert list(workdir.iterdir()) == []


COMBINATIONS = {
    "dropout=ssm model=transformer": r"dropout.ssm_p=0.1 .* model=transformer has no state-space",
    "dropout.ssm_p=0.2 model.pattern=A": r"no state-space layer",
    "dropout=ssm model.pattern=AM model.n_layer=1": r"no layer of kind M is left; .* n_layer=2",
    "model=transformer model.n_head=5": r"model.n_head=5: must divide model.d_model=128",
    "model=transformer model.d_model=63 model.n_head=3": r"even width",
    "model=transformer model.n_layer=5": r"n_layer=5: .*=SF has 2 .* model.n_layer=4 or 6$",
    "model=transformer model.n_layer=1": r"give model.n_layer=2$",
    "model.pattern=MMSF model.n_layer=6": r"give model.n_layer=4 or 8$",
    "model.patch_norm=2": r"model.patch_norm=2: must be auto, true or false",
    "trainer.max_steps=null trainer.max_minutes=null": r"would never end",
    "optim.schedule=exponential optim.min_lr_ratio=0": r"never reaches 0",
    "task=text model.pooling=last": r"model.pooling=last: task=text predicts tokens",
    "task=induction_heads model.pooling=max": r"task=induction_heads predicts tokens",
    "task=digits model=transformer model.bidirectional=true": r"model=transformer has no Mamba",
    "task=selective_copying data_fraction=0.5": r"data_fraction=0.5: .* are generated",
    "task=diffusion task.data=text task.levels=4": r"task.levels: that is for pictures",
    "task=diffusion model=transformer task.seq_len=9": r"task.seq_len=9: that is for task.data=tex",
    "task=listops task.path=lra task.max_depth=5": r"task.max_depth: .* read from task.path=lra",
    "task=listops task.max_depth=2 task.max_args=3": r"have at most 5 words, .*min_words=500$",
}


@pytest.mark.parametrize("overrides", COMBINATIONS)
def test_values_that_do_not_go_together(overrides):
    with pytest.raises(UserError, match=COMBINATIONS[overrides]):
        compose("train", overrides.split())


def test_what_an_experiment_sets_for_its_mamba_does_not_refuse_the_baseline():
    settings = compose("train", ["experiment=mnist/cpu", "model=transformer"])
    assert settings.model.bidirectional
    compose("train", ["task=digits", "model.pooling=last", "data_fraction=0.5"])
    compose("train", ["task=selective_copying", "data_fraction=1"])
    compose("train", ["task=listops", "data_fraction=0.5"])
    compose("train", ["experiment=listops/cpu", "task.path=lra", "task.max_words=2000"])
    compose("train", ["model=hybrid", "task=digits", "model.bidirectional=true"])


def test_ssm_dropout_needs_only_one_mamba_layer():
    compose("train", ["dropout=ssm", "model.pattern=AAM", "model.n_layer=3"])


@pytest.mark.parametrize(
    ("verb", "overrides", "message"),
    [
        ("data", ["action=fetc"], "did you mean fetch"),
        ("eval", ["split=vl"], "did you mean val"),
        ("eval", ["run="], "must be a run folder, or the word latest"),
        ("eval", ["task=text"], "task: no such key"),
        ("generate", ["top_p=0"], "top_p=0.0: must be above 0 and at most 1"),
        ("generate", ["temprature=1"], "did you mean temperature"),
    ],
)
def test_mistakes_at_other_verbs(verb, overrides, message):
    with pytest.raises(UserError, match=message):
        compose(verb, overrides)


def test_a_key_of_attention_without_attention_is_said_once(caplog):
    unused._say.cache_clear()
    with caplog.at_level(logging.WARNING, "mambalab"):
        compose("train", ["model=transformer", "model.n_head=2"])
        assert not caplog.records
        for _ in range(2):
            compose("train", ["model=mamba", "model.n_head=3"])
    (line,) = caplog.messages
    assert line == "model.n_head has no effect: model=mamba has no attention"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["task=text", "task.val_path=v.txt"], r"task\.val_path validates"),
        (["task=enwik8"], "the splits are published"),
    ],
)
def test_a_share_that_validates_nothing_is_refused(options, why):
    with pytest.raises(UserError, match=rf"task\.val_fraction=0\.2: {why}; leave it out"):
        compose("train", [*options, "task.val_fraction=0.2"])
