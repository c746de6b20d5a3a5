import pytest

from mambalab.compare.measures import Metric, measure, reached
from mambalab.records.reader import read_run
from tests.records.example_runs import make_run

LOSS = Metric("val/loss", maximize=False)
ACCURACY = Metric("val/accuracy", maximize=True)


@pytest.fixture
def run(tmp_path):
    return lambda *args, **changes: read_run(make_run(tmp_path / "run", *args, **changes))


def test_a_run_in_numbers(run):
    found = measure(run([3.0, 1.25, 1.0, 1.5], seed=7), LOSS)
    assert found is not None
    assert (found.seed, found.best, found.best_step, found.last) == (7, 1.0, 30, 1.5)
    assert (found.best_loss, found.last_loss, found.rise) == (1.0, 1.5, 0.5)
    assert (found.parameters, found.steps, found.minutes) == (1000, 40, 80 / 60)
    assert (found.tokens_per_second, found.tokens_per_step) == (500.0, 64)


def test_the_gap_counts_training_since_the_evaluation_before(run):
    lines = [{"step": s, "train/loss": float(s)} for s in (5, 10, 15, 20, 25)]
    lines += [{"step": 10, "val/loss": 50.0}, {"step": 20, "val/loss": 40.0}]
    found = measure(run(lines=lines), LOSS)
    assert found is not None
    assert found.gap == 40.0 - (15 + 20) / 2


def test_the_gap_where_training_is_noted_less_often_than_it_is_evaluated(run):
    lines = [{"step": 10, "train/loss": 3.0}, {"step": 20, "train/loss": None}]
    lines += [{"step": s, "val/loss": 4.0} for s in (10, 15, 20)]
    found = measure(run(lines=lines), LOSS)
    assert found is not None
    assert found.gap == 1.0


def test_runs_without_figures(run, tmp_path):
    assert measure(run([None, None]), LOSS) is None
    bare = read_run(make_run(tmp_path / "bare", lines=[{"step": 3, "val/loss": 2.0}]))
    found = measure(bare, LOSS)
    assert found is not None
    assert (found.gap, found.minutes) == (None, None)
    odd = {"parameters": "many", "tokens_per_second": True, "tokens_per_step": None}
    found = measure(read_run(make_run(tmp_path / "odd", summary=odd)), LOSS)
    assert found is not None
    assert (found.parameters, found.tokens_per_second, found.tokens_per_step) == (None, None, None)


def test_a_run_that_kept_no_metrics_speaks_by_its_summary(run):
    noted = {"best": {"step": 20, "val/loss": 1.5}, "last": {"val/loss": 1.75}}
    record = run(lines=[], summary=noted)
    (record.path / "metrics.jsonl").unlink()
    found = measure(record, LOSS)
    assert found is not None
    assert (found.best, found.best_step, found.last, found.rise) == (1.5, 20, 1.75, 0.25)
    assert reached(record, LOSS, 1.6)["goal_step"] is None


def test_an_end_that_is_not_finite_is_none(run):
    found = measure(run([2.0, 1.0, None]), LOSS)
    assert found is not None
    assert (found.best, found.last, found.last_loss, found.rise) == (1.0, None, None, None)


def test_another_metric_than_the_runs_own(run):
    lines = [
        {"step": s, "val/loss": loss, "val/accuracy": accuracy}
        for s, loss, accuracy in ((1, 2.0, 0.5), (2, 3.0, 0.75), (3, 4.0, 0.25))
    ]
    found = measure(run(lines=lines), ACCURACY)
    assert found is not None
    assert (found.best, found.best_step, found.last) == (0.75, 2, 0.25)
    assert (found.best_loss, found.last_loss, found.rise) == (2.0, 4.0, 2.0)


def test_time_and_tokens_to_a_goal(run):
    lines = [{"step": s, "time/seconds": t} for s, t in ((10, 5.0), (20, 9.0), (30, 20.0))]
    lines += [{"step": s, "val/loss": v} for s, v in ((15, None), (20, 2.0), (28, 1.5), (30, 1))]
    record = run(lines=lines)
    assert reached(record, LOSS, 2.0) == {
        "goal_step": 20,
        "goal_seconds": 9.0,  # noted at the very step
        "goal_tokens": 1280,
    }
    assert reached(record, LOSS, 1.75)["goal_step"] == 28
    assert reached(record, LOSS, 1.75)["goal_seconds"] == 9.0  # the last noted before
    assert set(reached(record, LOSS, 0.5).values()) == {None}


def test_a_goal_of_which_more_is_better(run):
    lines = [{"step": s, "val/accuracy": s / 100} for s in (10, 20, 30)]
    record = run(lines=lines, summary={"tokens_per_step": None})
    assert reached(record, ACCURACY, 0.15) == {
        "goal_step": 20,
        "goal_seconds": None,
        "goal_tokens": None,
    }


@pytest.mark.parametrize(
    ("curve", "area"),
    [
        ([3.0, 2.0, 1.0], 0.0),  # falls throughout
        ([1.0, 2.0, 3.0], 1.0),  # a triangle of height 2 over all steps
        ([3.0, 1.0, 2.0, 2.0], 0.5),  # rises over the middle third, stays over the last
        ([2.0], None),
    ],
)
def test_the_area_of_over_fitting(tmp_path, curve, area):
    found = measure(read_run(make_run(tmp_path / "r", curve)), Metric("val/loss", maximize=False))
    assert found is not None
    assert found.excess == (None if area is None else pytest.approx(area))
