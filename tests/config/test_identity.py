from pathlib import Path

import pytest

from mambalab.config import (
    as_recorded,
    compose,
    differences,
    load_run_config,
    run_dir,
    settings_hash,
    to_yaml,
)
from mambalab.config.compose import compose_parts, from_plain
from mambalab.config.identity import to_plain

PLAIN = ["task=shakespeare", "dropout=ssm"]


def folder(*overrides: str) -> Path:
    return run_dir(compose("train", [*PLAIN, *overrides]))


def test_the_folder_says_what_the_run_is():
    parent, name = folder("seed=3").parent, folder("seed=3").name
    assert parent == Path("outputs/shakespeare/mamba")
    variant, digest, seed = name.split("-")
    assert (variant, len(digest), seed) == ("ssm", 8, "s3")
    assert set(digest) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "same",
    ["optim.lr=3e-3", "optim.lr=0.003", "trainer.max_steps=7", "trainer.max_minutes=null",
     "device=cpu", "data_dir=/x", "resume=never", "tracking=none", "trust=a"],
)  # fmt: skip
def test_the_same_run(same):
    assert folder(same) == folder()


@pytest.mark.parametrize(
    "other",
    ["optim.lr=2e-3", "seed=2", "model.d_model=64", "task.seq_len=8", "precision=bf16",
     "data_fraction=0.5", "task.params.x=1", "dropout.p=0.2", "trainer.grad_accum=2"],
)  # fmt: skip
def test_another_run(other):
    assert folder(other) != folder()


def test_a_run_that_chooses_settings_is_another_and_says_so():
    assert folder("task.tune=false") == folder("task.windows=random") == folder()
    assert folder("task.windows=fixed") != folder()
    tuned = folder("task.tune=true")
    assert tuned.name.startswith("ssm-tune-")
    assert tuned.name.split("-")[2] != folder().name.split("-")[1]


def test_a_task_of_ones_own_from_before_there_was_tune(workdir):
    (workdir / "conf/task").mkdir(parents=True)
    keys = "name: own\n_target_: own.Own\nbatch_size: 2\neval_batch_size: 2\nparams: {}\n"
    (workdir / "conf/task/own.yaml").write_text(
        keys + "path: null\nseq_len: 8\nval_fraction: 0.5\n"
    )
    found = compose("train", ["task=own", "task.tune=true"]).task
    assert (type(found).__name__, found.tune, found.tokenizer) == ("TextSettings", True, None)


def test_seeds_lie_side_by_side():
    assert folder("seed=2").name.replace("-s2", "") == folder("seed=3").name.replace("-s3", "")


def test_output_dir_moves_the_folder_and_run_dir_is_the_folder():
    assert folder("output_dir=/big") == Path("/big") / folder().relative_to("outputs")
    assert folder("run_dir=/my run") == Path("/my run")


def test_the_folder_does_not_depend_on_the_way_in():
    cfg = compose("train", PLAIN)
    assert run_dir(compose_parts("train", PLAIN).config) == run_dir(cfg)


def test_yaml_comes_back_as_it_was(workdir):
    cfg = compose("train", [*PLAIN, "optim.eps=1e-12", "task.params.e=1e-9", "task.path=#ü: 'x'"])
    (workdir / "config.yaml").write_text(to_yaml(cfg), encoding="utf-8")
    back = load_run_config(workdir, [])
    assert back == cfg
    assert run_dir(back) == run_dir(cfg)
    assert differences(back, cfg) == []


def test_what_is_recorded_finds_its_data_from_anywhere(workdir):
    cfg = compose("train", [*PLAIN, "data_dir=some/data"])
    kept = as_recorded(cfg)
    assert kept.data_dir == str(workdir / "some/data")
    assert run_dir(kept) == run_dir(cfg)
    assert differences(kept, cfg) == []


def test_differences_name_what_may_not_change():
    before = compose("train", PLAIN)
    after = compose("train", [*PLAIN, "optim.lr=0.01", "seed=2", "device=cpu", "tracking=none",
                              "trainer.max_steps=9", "resume=must", "task.params.x=1"])  # fmt: skip
    assert differences(before, after) == [
        "optim.lr: 0.003 -> 0.01",
        "seed: 1 -> 2",
        "task.params: {} -> absent",
        "task.params.x: absent -> 1",
    ]
    assert differences(before, before) == []


KEYS = ("qk_norm", "rotary", "patch_norm")


def without(cfg) -> dict:
    """The plain configuration as an older version recorded it: without the newer keys."""
    plain = to_plain(cfg)
    for key in KEYS:
        del plain["model"][key]
    return plain


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (["task=shakespeare"], True),
        (["task=mnist"], True),
        (["task=mnist", "model.patch_norm=false"], True),
        (["task=mnist", "model.patch_norm=true"], False),
        (["task=cifar10"], False),
        (["task=cifar10", "model.patch_norm=false"], True),
        (["task=cifar10", "model.patch_norm=false", "model.qk_norm=true"], False),
        (["task=cifar10", "model.patch_norm=false", "model.rotary=auto"], False),
        (["task=shakespeare", "model=transformer_equal_depth", "model.name=transformer"], True),
        (["task=images", "task.path=x", "model.patch_norm=false"], True),
    ],
)
def test_older_runs_are_found_where_nothing_changed(words, same):
    """The model as it was has the folder it had, and goes on; another model does not."""
    new = compose("train", words)
    old = from_plain(without(new))
    assert (old.model.qk_norm, old.model.patch_norm) == (False, None)
    assert (run_dir(old) == run_dir(new)) == same
    assert (settings_hash(old) == settings_hash(new)) == same
    assert (differences(old, new) == []) == same
    assert (differences(without(new), new) == []) == same


def test_what_an_older_transformer_differs_in_is_said():
    old = compose("train", ["model=transformer_equal_depth", "model.name=transformer"])
    assert differences(without(old), compose("train", ["model=transformer"])) == [
        "model.pattern: A -> SF",
        "model.rotary: absent -> auto",
    ]
