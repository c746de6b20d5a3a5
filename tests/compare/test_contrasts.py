import pytest
import scipy.stats

from mambalab.compare import contrasts
from mambalab.compare.comparison import compare
from mambalab.compare.groups import split
from mambalab.errors import UserError
from mambalab.records.reader import read_run
from tests.compare.test_comparison import ignore
from tests.records.example_runs import make_group, make_run

NOISE = [0.0, 0.01, -0.02, 0.015, 0.005]


@pytest.fixture
def runs(tmp_path):
    """A function that makes a group of five runs about a best value, that over-fit."""

    def build(best, noise=NOISE, **settings):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return make_group(folder, [best + e for e in noise], rise=0.5, **settings)

    return build


@pytest.fixture
def factorial(runs):
    """p and ssm_p crossed; ssm_p lowers the loss by 0.1 at p = 0 and by 0.3 at p = 0.2."""
    made = []
    for i, (p, ssm_p, best) in enumerate(
        [(0.0, 0.0, 2.0), (0.0, 0.1, 1.9), (0.2, 0.0, 1.7), (0.2, 0.1, 1.4)]
    ):
        noise = [e * (1 + i / 4) for e in NOISE]
        made += runs(best, noise, dropout__p=p, dropout__ssm_p=ssm_p)
    return made


def rows(found):
    return [(c.setting, c.base_value, c.other_value, c.pairs, c.verdict) for c in found.contrasts]


def test_nobody_asked(factorial):
    assert compare(factorial, ignore=ignore).contrasts == []


def test_a_named_setting_in_every_place_and_on_average(factorial):
    found = compare(factorial, ignore=ignore, pairs="dropout.ssm_p")
    assert rows(found) == [
        ("dropout.ssm_p", "0.0", "0.1", 1, "better"),
        ("dropout.ssm_p", "0.0", "0.1", 1, "better"),
        ("dropout.ssm_p", "0.0", "0.1", 2, "better"),
    ]
    first, second, average = (c.difference for c in found.contrasts)
    assert [d and round(d.estimate.mean, 6) for d in (first, second, average)] == [
        pytest.approx(-0.1 + 0.002 / 4),
        pytest.approx(-0.3 + 0.002 / 4),
        pytest.approx(-0.2 + 0.002 / 4),
    ]
    best = {g.label: [run.best for run in g.runs] for g in found.groups}
    (base, other) = found.contrasts[1].where
    p = scipy.stats.ttest_rel(best[other], best[base]).pvalue
    assert second is not None
    assert second.p == pytest.approx(p)


def test_every_setting_that_differs_alone(factorial):
    found = rows(compare(factorial, ignore=ignore, pairs="auto"))
    assert [row[:4] for row in found] == [
        ("dropout.ssm_p", "0.0", "0.1", 1),
        ("dropout.p", "0.0", "0.2", 1),
        ("dropout.p", "0.0", "0.2", 1),
        ("dropout.ssm_p", "0.0", "0.1", 1),
        ("dropout.ssm_p", "0.0", "0.1", 2),
        ("dropout.p", "0.0", "0.2", 2),
    ]


def test_two_models_differ_in_one_thing_and_a_name_is_none(runs):
    records = [
        *runs(1.0, dropout="none"),
        *runs(1.1, dropout="standard"),
        *runs(1.2, dropout="standard", model__name="transformer", model__n_head=4),
    ]
    groups = split(records, ignore)
    found = [(p.setting, p.base_value, p.other_value) for p in contrasts.find(groups, "auto")]
    assert found == [("dropout.p", "0.0", "0.1"), ("model", "mamba", "transformer")]


def test_a_setting_that_never_differs_alone(factorial):
    with pytest.raises(UserError, match=r"pairs=optim.lr: no two groups differ in optim.lr only; "):
        compare(factorial, ignore=ignore, pairs="optim.lr")


def test_no_verdict_rests_on_failed_runs(runs, tmp_path):
    records = [*runs(2.0), *runs(1.0, optim__lr=0.01)]
    folder = tmp_path / "failed"
    lost = make_run(folder, summary={"status": "FAILED"}, seed=6, optim__lr=0.01)
    found = compare([*records, read_run(lost)], ignore=ignore, pairs="auto")
    assert rows(found) == [("optim.lr", "0.001", "0.01", 1, "no verdict")]


def test_no_verdict_on_dropout_where_nothing_over_fits(tmp_path):
    records = [
        *make_group(tmp_path / "a", [2.0, 2.1, 2.2]),
        *make_group(tmp_path / "b", [1.0, 1.2, 1.1], dropout="standard"),
    ]
    found = compare(records, ignore=ignore, pairs="dropout.p")
    assert rows(found)[0][-1] == "no verdict"


def test_the_same_two_values_have_the_same_direction_everywhere(runs):
    made = runs(2.0, model__name="mamba", optim__lr=0.001)
    made += runs(1.9, model__name="mamba", optim__lr=0.002)
    made += runs(2.8, model__name="transformer", optim__lr=0.002)
    made += runs(3.0, model__name="transformer", optim__lr=0.001)
    found = compare(made, ignore=ignore, pairs="optim.lr")
    directions = [(c.base_value, c.other_value, c.pairs) for c in found.contrasts]
    assert directions == [*[("0.001", "0.002", 1)] * 2, ("0.001", "0.002", 2)]
    assert found.contrasts[-1].difference.estimate.mean == pytest.approx(-0.15)
