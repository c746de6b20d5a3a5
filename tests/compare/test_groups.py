from pathlib import Path

import pytest
import yaml

from mambalab.compare.groups import split
from mambalab.records.reader import RunRecord
from mambalab.records.summary import RunSummary
from tests.records.example_runs import config


def record(seed=1, **settings) -> RunRecord:
    return RunRecord(Path(f"run{seed}"), config(seed=seed, **settings), RunSummary())


def ignore(key: str) -> bool:
    return key in ("seed", "device")


def labels(*records: RunRecord) -> list[str]:
    return [group.label for group in split(records, ignore)]


def test_runs_that_differ_in_their_seed_only_are_one_group():
    records = [record(2, device="cpu"), record(10), record(1)]
    (group,) = split(records, ignore)
    assert [r.setting("seed") for r in group.records] == [1, 2, 10]
    assert group.settings == {}
    assert group.label == "model=mamba dropout=none"


def test_groups_are_named_by_what_tells_them_apart():
    assert labels(record(), record(dropout="ssm"), record(2)) == ["dropout=none", "dropout=ssm"]
    assert labels(record(), record(optim__lr=0.01)) == ["optim.lr=0.001", "optim.lr=0.01"]
    grid = [record(dropout=d, model__name=m) for m in ("mamba", "hybrid") for d in ("none", "ssm")]
    assert labels(*grid) == [
        "model=mamba dropout=none",
        "model=mamba dropout=ssm",
        "model=hybrid dropout=none",
        "model=hybrid dropout=ssm",
    ]


def test_a_name_comes_first_where_it_tells_as_much_as_a_number():
    pair = [record(optim__lr=1.0), record(model__name="hybrid", model__d_model=8, optim__lr=2.0)]
    assert labels(*pair) == ["model=mamba", "model=hybrid"]


def test_a_name_that_a_setting_of_its_own_group_makes_superfluous_goes():
    runs = [record(), *(record(dropout="standard", dropout__p=p) for p in (0.1, 0.2))]
    assert labels(*runs) == ["dropout.p=0.0", "dropout.p=0.1", "dropout.p=0.2"]
    # but no number may hide that the models differ
    models = [record(model__name=m, optim__lr=lr) for m, lr in (("a", 1), ("a", 2), ("b", 3))]
    assert all("model=" in label for label in labels(*models))


def test_every_setting_that_differs_is_kept_with_the_group():
    first, second = split([record(), record(dropout="ssm", trainer__max_minutes=5)], ignore)
    assert first.settings == {
        "dropout.name": "none",
        "dropout.p": "0.0",
        "dropout.ssm_p": "0.0",
        "trainer.max_minutes": "null",
    }
    assert second.settings["trainer.max_minutes"] == "5"


def test_a_setting_that_a_run_lacks_is_a_difference():
    old = config()
    del old["optim"]
    assert labels(record(), RunRecord(Path("old"), old, RunSummary())) == [
        "optim.lr=0.001",
        "optim.lr=absent",
    ]


def test_equal_words_and_values_are_told_apart():
    texts = labels(record(optim__lr=None), record(optim__lr="null"), record(optim__lr=True))
    assert texts == ["optim.lr=null", "optim.lr='null'", "optim.lr=true"]


def test_long_and_hostile_values():
    long = ["x" * 50 + "a", "x" * 50 + "b", "\x1b[31mred\nline"]
    found = labels(*(record(model__name=name) for name in long))
    assert found[:2] == [f"model={'x' * 39}… #{i}" for i in (1, 2)]
    assert found[2] == "model=?[31mred?line"


def test_a_config_that_holds_itself_is_still_read():
    loop = yaml.safe_load("a: &a {b: *a, c: 1}")
    first, second = RunRecord(Path("x"), loop, RunSummary()), record()
    assert len(split([first, second], ignore)) == 2


@pytest.mark.parametrize("seeds", [["b", 3, None, 2, [1]]])
def test_seeds_of_any_kind_have_an_order(seeds):
    (group,) = split([record(seed) for seed in seeds], ignore)
    assert [r.setting("seed") for r in group.records[:2]] == [2, 3]
