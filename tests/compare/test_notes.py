import pytest

from mambalab.compare.comparison import compare
from mambalab.records.reader import read_run
from tests.compare.test_comparison import ignore
from tests.records.example_runs import make_run


def group(tmp_path, name, curves, **summary):
    return [
        read_run(
            make_run(tmp_path / f"{name}{i}", curve, seed=i, model__name=name, summary=summary)
        )
        for i, curve in enumerate(curves)
    ]


def test_a_group_that_is_evaluated_more_often_is_named(tmp_path):
    a = group(tmp_path, "a", [[3.0, 2.0, 2.0 + i / 10] for i in range(3)])
    b = group(tmp_path, "b", [[3.0, 2.0, 2.0, 2.0 + i / 10] for i in range(3)])
    said = compare([*a, *b], ignore=ignore).warnings
    assert any("unequally often (model=a: 3 times, model=b: 4 times)" in line for line in said)
    assert not any("unequally" in line for line in compare(a, ignore=ignore).warnings)


@pytest.mark.parametrize(("slope", "improving"), [(-0.02, True), (-0.0002, False), (0.02, False)])
def test_a_run_that_was_still_improving_is_named(tmp_path, slope, improving):
    curves = [[2 + slope * i + seed * slope * i / 50 for i in range(20)] for seed in range(3)]
    found = compare(group(tmp_path, "a", curves), ignore=ignore)
    said = [line for line in found.warnings if line.startswith("still improving at the end: ")]
    assert bool(said) == improving
    assert found.groups[0].end_slope is not None
    assert found.groups[0].end_slope.mean == pytest.approx(2 * slope * 1.02, rel=0.01)


def test_the_test_metric_stands_beside_the_validation_metric(tmp_path):
    runs = [
        *group(tmp_path, "a", [[2.0, 1.5]], test={"step": 20, "test/loss": 1.6}),
        *group(tmp_path, "b", [[2.0, 1.4]]),
    ]
    found = {g.label: g.test for g in compare(runs, ignore=ignore).groups}
    assert found["model=b"] is None
    assert found["model=a"] is not None
    assert found["model=a"].mean == 1.6


def test_a_run_that_was_given_more_steps_is_named(tmp_path):
    a = group(tmp_path, "a", [[3.0, 2.0], [3.0, 2.1]], lengthened_at=700)
    b = group(tmp_path, "b", [[3.0, 2.0], [3.0, 2.1]])
    said = [line for line in compare([*a, *b], ignore=ignore).warnings if "given more" in line]
    assert len(said) == 2
    assert said[0].startswith("model=a, seed 0: finished at step 700 and given more steps, for")


def test_runs_without_curves_were_not_evaluated_less_often(tmp_path):
    a = group(tmp_path, "a", [[3.0, 2.0, 2.0 + i / 10] for i in range(3)])
    b = group(tmp_path, "b", [[]] * 3, best={"step": 20, "val/loss": 1.9})
    said = compare([*a, *b], ignore=ignore).warnings
    assert not any("unequally" in line or "is not finite" in line for line in said)
