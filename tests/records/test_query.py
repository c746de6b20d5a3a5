import pytest

from mambalab.errors import UserError
from mambalab.records.query import Condition, arranged, select
from mambalab.records.reader import read_run
from tests.records.example_runs import make_run


@pytest.fixture
def runs(tmp_path):
    """Three runs: a mamba named x, a transformer with a tag, one with the best loss."""
    made = [
        make_run(
            tmp_path / "a", (3.0, 1.0), model__name="mamba", name="x y", seed=1, optim__name="adamw"
        ),
        make_run(
            tmp_path / "b",
            (3.0, 2),
            model__name="transformer",
            tags=["draft", "b"],
            seed=10,
            optim__name="adamw",
        ),
        make_run(
            tmp_path / "c",
            (3.0, 0.5),
            model__name="mamba",
            seed=9,
            optim__lr=1e-2,
            optim__name="muon",
        ),
    ]
    return [read_run(path) for path in made]


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        (["model.name=mamba"], "ac"),
        (["model=mamba", "optim.lr=0.01"], "c"),
        (["optim.lr = 1e-2"], "c"),
        (["model!=mamba"], "b"),
        (["name=x y"], "a"),
        (["name~X"], "a"),
        (["name=null"], "bc"),
        (["tags=draft"], "b"),
        (["tags~raf"], "b"),
        (["best<=1"], "ac"),
        (["val/loss<0.7"], "c"),
        (["seed>=9", "seed<10"], "c"),
        (["status=FINISHED"], "abc"),
        (["optim=adamw"], "ab"),
        (["optim!=adamw"], "c"),
    ],
)
def test_conditions(runs, conditions, names):
    found = select(runs, [Condition.parse(text) for text in conditions])
    assert "".join(run.path.name for run in found) == names


@pytest.mark.parametrize(
    ("key", "names"),
    [("best", "cab"), ("-best", "bac"), ("seed", "acb"), ("-model", "bac"), ("name", "abc"),
     ("-optim.lr", "cab")],
)  # fmt: skip
def test_order(runs, key, names):
    found = "".join(run.path.name for run in arranged(runs, key))
    assert found == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mamba", "where=mamba: write KEY=VALUE, or with != < <= > >= or ~"),
        ("best<x", "where=best<x: < compares numbers"),
        ("lr=1", r"where: no run here has lr; did you mean optim\.lr\?"),
        ("modle=1", r"no run here has modle; did you mean model\?"),
        ("zzz=1", "no run here has zzz; a setting, a metric, or one of task, model"),
    ],
)
def test_a_condition_that_makes_no_sense(runs, text, message):
    with pytest.raises(UserError, match=message):
        select(runs, [Condition.parse(text)])


def test_more_is_better_for_some(tmp_path):
    made = [
        make_run(tmp_path / name, summary={"metric": "val/accuracy", "maximize": True},
                 lines=[{"step": 1, "val/accuracy": value}])
        for name, value in (("a", 0.5), ("b", 0.9))
    ]  # fmt: skip
    runs = [read_run(path) for path in made]
    assert [run.path.name for run in arranged(runs, "best")] == ["b", "a"]
