import pytest
import scipy.stats

from mambalab.compare.comparison import compare
from mambalab.compare.pictures import _name
from mambalab.compare.results import LeftOut
from mambalab.errors import UserError
from mambalab.records.reader import read_run
from tests.records.example_runs import make_group, make_run, rows


def ignore(key: str) -> bool:
    return key in ("seed", "device")


def by_label(found):
    return {group.label: group for group in found.groups}


NONE, SSM, STANDARD = "dropout=none", "dropout=ssm", "dropout=standard"


def test_groups_over_seeds_against_a_baseline(tmp_path):
    plain, ssm, standard = [1.50, 1.52, 1.51], [1.40, 1.43, 1.41], [1.60, 1.61, 1.63]
    records = [
        *make_group(tmp_path / "a", standard, dropout="standard"),
        *make_group(tmp_path / "b", plain, rise=0.3),
        *make_group(tmp_path / "c", ssm, dropout="ssm"),
    ]
    found = compare(records, ignore=ignore)
    assert (found.task, found.metric.name, found.baseline) == ("toy", "val/loss", NONE)
    assert [g.label for g in found.groups] == [SSM, NONE, STANDARD]  # the best first
    groups = by_label(found)
    assert groups[SSM].best.mean == pytest.approx(sum(ssm) / 3)
    assert groups[NONE].last is not None
    assert groups[NONE].last.mean == pytest.approx(1.81)
    assert groups[NONE].rise is not None
    assert groups[NONE].rise.mean == pytest.approx(0.3)
    assert groups[NONE].difference is None
    tests = [scipy.stats.ttest_rel(values, plain).pvalue for values in (ssm, standard)]
    pairs = [groups[label].difference for label in (SSM, STANDARD)]
    assert [pair and pair.p for pair in pairs] == pytest.approx(tests)
    small, large = sorted(tests)
    holm = {small: 2 * small, large: max(2 * small, large)}
    assert [pair and pair.p_holm for pair in pairs] == pytest.approx([holm[p] for p in tests])
    assert [g.verdict for g in found.groups] == ["better", "baseline", "worse"]
    assert found.dropout[-1].startswith("validation loss turns up without dropout: +0.3000 (0.3000")
    assert found.warnings == []


def test_more_is_better_where_the_runs_say_so(tmp_path):
    def runs(model, values):
        for seed, value in enumerate(values, 1):
            lines = [
                {"step": 10, "val/accuracy": value, "val/loss": 2.0},
                {"step": 20, "val/accuracy": value - 0.1, "val/loss": 1.0},
            ]
            summary = {"metric": "val/accuracy", "maximize": True}
            path = tmp_path / model / str(seed)
            make_run(path, lines=lines, summary=summary, seed=seed, model__name=model)
            yield read_run(path)

    a, b = [0.80, 0.81, 0.82], [0.90, 0.93, 0.91]
    found = compare([*runs("a", a), *runs("b", b)], ignore=ignore)
    assert [(g.label, g.verdict) for g in found.groups] == [
        ("model=b", "better"),
        ("model=a", "baseline"),
    ]
    assert found.goal == 0.81
    assert by_label(found)["model=a"].reached == 2
    loss = by_label(found)["model=b"].best_loss
    assert loss is not None
    assert loss.mean == 1.0
    switched = compare([*runs("c", a), *runs("d", b)], ignore=ignore, metric="val/loss")
    assert switched.metric.maximize is False
    assert switched.groups[0].best.mean == 1.0


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ([1.60, 1.62, 1.61], "no verdict"),  # above the exact values: the order is not known
        ([1.40, 1.42, 1.41], "better"),  # below: the likelihood is better still
    ],
)
@pytest.mark.parametrize("baseline", ["pixels", "diffusion"])
def test_a_bound_above_an_exact_value_is_no_verdict(tmp_path, bounds, verdict, baseline):
    values = {"diffusion.DiffusionTask": bounds, "pixels.PixelModelTask": [1.50, 1.52, 1.511]}
    records = []
    for target, best in values.items():
        name = target.partition(".")[0]
        task = {"task__name": name, "task___target_": f"mambalab.tasks.{target}"}
        records += make_group(tmp_path / name, best, **task)
    found = compare(records, ignore=ignore, baseline=f"task={baseline}", pairs="auto")
    other = {"pixels": "diffusion", "diffusion": "pixels"}[baseline]
    assert found.task == f"{baseline} and {other}"
    drawn = {_name(group, found).removesuffix(" (baseline)") for group in found.groups}
    assert drawn == {"task pixels", "task diffusion (upper bound)"}
    (judged,) = [group for group in found.groups if group.difference is not None]
    if baseline == "diffusion" and verdict == "better":
        verdict = "worse"
    assert judged.verdict == verdict
    (contrast,) = found.contrasts
    assert (contrast.verdict == "no verdict") == (verdict == "no verdict")


def test_a_goal_that_every_group_reaches_on_average(tmp_path):
    records = [
        *make_group(tmp_path / "a", [1.50, 1.52, 1.58]),
        *make_group(tmp_path / "b", [1.2, 1.2, 1.2], model__name="x"),
    ]
    found = compare(records, ignore=ignore)
    assert found.goal == 1.54  # 1.5333, upwards
    first, second = by_label(found)["model=mamba"], by_label(found)["model=x"]
    assert (first.reached, second.reached) == (2, 3)
    assert (first.goal_step, first.goal_seconds, first.goal_tokens) == (30, 60.0, 30 * 64)
    assert compare(records, ignore=ignore, goal=2.25).groups[0].goal_step == 20


@pytest.mark.parametrize(
    ("values", "goal"), [([1.4e-8], 1.4e-8), ([0.0], 0.0), ([-1.2345], -1.23), ([123456.0], 124000)]
)
def test_goals_of_any_size(tmp_path, values, goal):
    assert compare(make_group(tmp_path, values), ignore=ignore).goal == goal


def test_only_finished_runs_count_and_the_others_are_named(tmp_path):
    (finished,) = make_group(tmp_path / "a", [1.0])
    killed = make_run(tmp_path / "killed", summary={"status": "KILLED"})
    blank = make_run(tmp_path / "blank", [None, None])
    damaged = make_run(tmp_path / "damaged")
    (damaged / "metrics.jsonl").write_text("rubbish\n")
    records = [finished, *map(read_run, (killed, blank, damaged))]
    found = compare(records, ignore=ignore, left_out=[LeftOut("x", "y")])
    assert [len(g.runs) for g in found.groups] == [1]
    assert [(r.path, r.reason.partition(" (")[0]) for r in found.left_out] == [
        ("x", "y"),
        (str(killed), "KILLED"),
        (str(blank), "no finite val/loss"),
        (str(damaged), f"{damaged / 'metrics.jsonl'} is damaged at byte 0"),
    ]
    with pytest.raises(UserError, match=f"no finished run to compare; {killed}: KILLED"):
        compare([read_run(killed)], ignore=ignore)


def test_a_metric_that_no_run_has_lists_those_there_are(tmp_path):
    record = read_run(make_run(tmp_path / "run"))
    with pytest.raises(UserError, match=r"metric=foo: no run measured it; there are: .*val/loss"):
        compare([record], ignore=ignore, metric="foo")


def test_one_group_is_just_described(tmp_path):
    found = compare(make_group(tmp_path, [1.0, 1.1, 1.2]), ignore=ignore)
    assert [g.verdict for g in found.groups] == ["baseline"]
    assert (found.dropout, found.warnings) == ([], [])


@pytest.mark.parametrize(("n", "seeds"), [(1, "only 1 seed "), (2, "only 2 seeds ")])
def test_too_few_seeds(tmp_path, n, seeds):
    records = [
        *make_group(tmp_path / "a", [1.0, 1.001, 1.002][:n]),
        *make_group(tmp_path / "b", [3.0, 3.002, 3.003][:n], model__name="x"),
    ]
    found = compare(records, ignore=ignore)
    worse = by_label(found)["model=x"]
    assert worse.verdict == "too few seeds"
    assert worse.difference is not None
    assert (worse.difference.estimate.low is None) == (n == 1)
    assert found.warnings == [
        f"{seeds}in common with the baseline (every group): a verdict needs at least 3, better 5"
    ]


def test_pairs_need_common_seeds(tmp_path):
    def runs(name, seeds):
        for seed in seeds:
            yield read_run(make_run(tmp_path / f"{name}{seed}", seed=seed, model__name=name))

    found = compare([*runs("a", [1, 2, 3]), *runs("b", [4, 5, 6])], ignore=ignore)
    assert by_label(found)["model=b"].difference is None
    assert by_label(found)["model=b"].verdict == "too few seeds"
    assert found.warnings[0].startswith("only 0 seeds in common with the baseline (model=b)")


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_seeds_that_all_differ_alike_show_a_difference(tmp_path, shift):
    records = [
        *make_group(tmp_path / "a", [1.0, 1.25, 1.5]),
        *make_group(tmp_path / "b", [v + shift for v in (1.0, 1.25, 1.5)], model__name="x"),
    ]
    other = by_label(compare(records, ignore=ignore))["model=x"]
    assert other.verdict == ("worse" if shift else "no difference shown")
    assert other.difference is not None
    assert other.difference.p == (0.0 if shift else None)


def test_the_bootstrap_needs_seeds(tmp_path):
    few = make_group(tmp_path / "a", [1.0, 1.25, 1.5])
    with pytest.raises(UserError, match=r"needs 8 seeds in every group, .* has 3 .*interval=t"):
        compare(few, ignore=ignore, bootstrap=True)
    values = [1.0 + i / 10 for i in range(8)]
    assert compare(make_group(tmp_path / "b", values), ignore=ignore, bootstrap=True).bootstrap


FAILED = {"status": "FAILED"}


@pytest.mark.parametrize(
    ("best", "lost", "verdict"),
    [
        ([1.0, 1.1, 1.2], "other", "no verdict"),  # better, by the seeds that survived
        ([3.0, 3.1, 3.2], "other", "worse"),  # the failure makes it no better
        ([3.0, 3.1, 3.2], "base", "no verdict"),  # worse, than survivors
        ([1.0, 1.1, 1.2], "base", "better"),
        ([1.0, 1.1, 1.2], "both", "better"),  # the same seed fails in both
        ([1.0, 1.1, 1.2], "", "better"),
    ],
)
def test_failed_seeds_count_as_the_worst(tmp_path, best, lost, verdict):
    records = [
        *make_group(tmp_path / "a", [2.0, 2.11, 2.2]),
        *make_group(tmp_path / "b", best, model__name="x"),
    ]
    for where, settings in (("base", {}), ("other", {"model__name": "x"})):
        if lost in (where, "both"):
            path = make_run(tmp_path / where, summary=FAILED, seed=4, **settings)
            records.append(read_run(path))
    found = compare(records, ignore=ignore)
    assert by_label(found)["model=x"].verdict == verdict
    said = [line for line in found.warnings if line.startswith("1 of 4 runs failed (seed 4): ")]
    assert len(said) == {"": 0, "both": 2}.get(lost, 1)
    named = [line.partition(": ")[2].partition(";")[0] for line in said]
    assert set(named) == {"base": {"model=mamba"}, "other": {"model=x"}, "": set()}.get(
        lost, {"model=mamba", "model=x"}
    )


def test_a_run_without_any_finite_value_failed(tmp_path):
    records = [
        *make_group(tmp_path / "a", [2.0, 2.11, 2.2]),
        *make_group(tmp_path / "b", [1.0, 1.1, 1.2], model__name="x"),
        read_run(make_run(tmp_path / "c", [None, None], seed=4, model__name="x")),
    ]
    found = compare(records, ignore=ignore)
    assert by_label(found)["model=x"].failed_seeds == [4]
    assert by_label(found)["model=x"].verdict == "no verdict"


def test_the_baseline_may_be_chosen(tmp_path):
    records = [
        *make_group(tmp_path / "a", [1.0], model__name="mamba"),
        *make_group(tmp_path / "b", [1.0], model__name="hybrid"),
    ]
    assert compare(records, ignore=ignore).baseline == "model=mamba"
    for wanted in ("model=hybrid", "hyb"):
        assert compare(records, ignore=ignore, baseline=wanted).baseline == "model=hybrid"
    with pytest.raises(UserError, match=r"is no group; the groups are: model=mamba; model=hybrid"):
        compare(records, ignore=ignore, baseline="nonsense")
    with pytest.raises(UserError, match="is part of several labels"):
        compare(records, ignore=ignore, baseline="model")


def test_metrics_that_do_not_go_together(tmp_path):
    make_run(tmp_path / "a")
    lines = [{"step": 1, "val/loss": 1.0, "val/accuracy": 0.5}]
    make_run(tmp_path / "b", lines=lines, summary={"metric": "val/accuracy", "maximize": True})
    records = [read_run(tmp_path / name) for name in "ab"]
    with pytest.raises(UserError, match=r"judged by val/accuracy and val/loss: choose one"):
        compare(records, ignore=ignore)
    with pytest.raises(UserError, match="seed 1 occurs twice"):
        compare(records, ignore=ignore, metric="val/loss")


def test_runs_that_stopped_at_different_steps_by_patience(tmp_path):
    for seed, losses in ((1, [2.0, 1.0, 1.5]), (2, [2.0, 1.5, 1.0, 1.25, 2.0])):
        summary = {"ended_by": "patience"}
        make_run(tmp_path / f"s{seed}", lines=rows(losses), seed=seed, summary=summary)
    (group,) = compare([read_run(tmp_path / f"s{i}") for i in (1, 2)], ignore=ignore).groups
    assert (group.steps, group.best.mean) == (40, 1.0)


def test_an_end_that_is_not_finite_is_told(tmp_path):
    for seed, last in ((1, 1.5), (2, None), (3, 1.7)):
        make_run(tmp_path / f"s{seed}", [2.0, 1.0, last], seed=seed)
    found = compare([read_run(tmp_path / f"s{i}") for i in (1, 2, 3)], ignore=ignore)
    assert found.groups[0].last is not None
    assert (found.groups[0].best.n, found.groups[0].last.n) == (3, 2)
    assert found.warnings == [
        "model=mamba dropout=none, seed 2: the last val/loss is not finite and counts in no mean"
    ]
