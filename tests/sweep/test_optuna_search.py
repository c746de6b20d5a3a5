import os
import warnings

import pytest

pytest.importorskip("optuna")

from optuna.trial import TrialState

from mambalab import config
from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.sweep import optuna_search, optuna_study
from mambalab.sweep.folder import Entry
from mambalab.sweep.optuna_search import SearchSource
from mambalab.sweep.plan import plan
from tests.sweep.fakes import run_of

LR = "sweep.params={optim.lr: {low: 1e-4, high: 1e-2, log: true}}"
LISTS = "sweep.params={dropout: [none, ssm], model.n_layer: [1, 2]}"


@pytest.fixture(autouse=True)
def place(workdir, monkeypatch):
    monkeypatch.setattr(optuna_search, "WATCH_SECONDS", 0.0)
    monkeypatch.setattr(optuna_search, "MAX_FRUITLESS_DRAWS", 30)


def source(*words, trials=6, maximize=False, kind="tpe", folder="here"):
    found = plan(["task=text", f"sweep.search={kind}", f"sweep.dir={folder}",
                  f"sweep.trials={trials}", *words])  # fmt: skip
    found.folder.mkdir(exist_ok=True)
    return SearchSource(found, metric="val/loss", maximize=maximize)


def run_for(job, **options) -> None:
    """A run folder of a job, with its settings, trained as far as it was to be."""
    run_of(job.run_dir, **{"step": 10**6, "ended_by": "max_steps", **options})
    (job.run_dir / "config.yaml").write_text(config.to_yaml(config.typed(job.config)))


def ended(value=None, status="FINISHED", maximize=False) -> Entry:
    best = {"metric": "val/loss", "value": value, "step": 4, "maximize": maximize}
    return Entry(status, best=None if value is None else best)


def states(it) -> list[str]:
    return [trial.state.name for trial in it.trials()]


def play(it, status="FINISHED") -> list[str]:
    """Take one job after the other to the end; the names."""
    names = []
    while it.left():
        for job in it.take(1):
            names.append(job.name)
            value = float(job.config.optim.lr) if status == "FINISHED" else None
            it.ended(job, ended(value, status))
    return names


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_the_same_history_gives_the_same_draws(kind):
    whole = play(source(LR, kind=kind, folder="whole", trials=14))
    parts = []
    for trials in (5, 13, 14):
        parts += play(source(LR, kind=kind, folder="parts", trials=trials))
    assert whole == parts
    assert len(set(whole)) == 14
    assert whole[:3] != play(source(LR, "seed=2", kind=kind, folder="other", trials=3))
    assert source(LR, kind=kind, folder="whole", trials=14).left() == 0


def test_a_stopped_job_comes_first_the_next_time():
    it = source(LR)
    one, two = it.take(2)
    it.ended(one, ended(0.5))
    it.ended(two, ended(status="KILLED"))
    (three,) = it.take(1)  # the sweep is killed while this one runs
    again = source(LR)
    assert again.left() == 5
    assert [job.name for job in again.take(2)] == [two.name, three.name]


def test_failures_are_tried_again_by_the_next_command_and_never_without_end():
    it = source(LR, trials=4)
    names = play(it, "FAILED")
    assert len(names) == 4
    again = source(LR, trials=4)
    assert again.total == 4
    assert play(again, "FAILED") == names
    assert play(source(LR, trials=4)) == names
    assert source(LR, trials=4).left() == 0


def test_every_combination_once_and_then_the_search_ends():
    it = source(LISTS, trials=20)
    names = play(it)
    assert sorted(names) == sorted({f"dropout={d},model.n_layer={n}"
                                    for d in ("none", "ssm") for n in (1, 2)})  # fmt: skip
    assert it.exhausted
    again = source(LISTS, trials=20)
    assert again.take(1) == []
    assert again.left() == 0
    assert states(again).count("COMPLETE") == 4


def test_a_combination_that_runs_is_not_started_again():
    it = source(LISTS, trials=20)
    jobs = it.take(10)
    assert len(jobs) == len({job.name for job in jobs}) == 4
    assert it.exhausted
    for job in jobs:
        it.ended(job, ended(1.0))
    assert states(it).count("RUNNING") == 0


def test_draws_that_make_no_sense_are_passed_over():
    both = "sweep.params={dropout: [none, ssm], model: [mamba, transformer]}"
    names = play(source(both, trials=9))
    assert len(names) == 3
    assert "dropout=ssm,model=transformer" not in names
    with pytest.raises(UserError, match="30 draws in a row gave nothing that makes sense"):
        source("model=transformer", "dropout=ssm", LR, folder="none").take(1)


def five_good(it) -> None:
    for _ in range(5):
        (job,) = it.take(1)
        run_for(job, values=[(4, 1.0), (8, 0.9)])
        it.unpromising([job])
        it.ended(job, ended(0.9))


def test_a_bad_job_is_pruned_and_not_taken_up_again():
    it = source(LR, trials=7)
    five_good(it)
    good, bad = it.take(2)
    run_for(good, values=[(4, 0.8)])
    run_for(bad, values=[(4, 3.0)])
    found = it.unpromising([good, bad])
    assert found == {bad.name: "val/loss 3.0000 @ 4 is worse than the median"}
    it.ended(bad, ended(3.0, "PRUNED"))
    assert it.trials()[-1].state is TrialState.PRUNED
    it.ended(good, ended(0.8))
    assert source(LR, trials=7).left() == 0
    (new,) = source(LR, trials=8).take(1)
    assert new.name not in (good.name, bad.name)


def test_pruning_asks_what_is_more_when_more_is_better():
    it = source(LR, trials=7, maximize=True)
    five_good(it)
    (job,) = it.take(1)
    run_for(job, values=[(4, 3.0)])
    assert it.unpromising([job]) == {}
    with (job.run_dir / "metrics.jsonl").open("ab") as file:
        file.write(run_folder.encode(8, {"val/loss": 0.1}))
    # Of all its values until then the best counts.
    assert it.unpromising([job]) == {}
    with pytest.raises(UserError, match=r"of a search that maximizes: give another sweep.dir"):
        source(LR)


def test_no_pruning_where_none_is_wanted():
    for words in ({"kind": "random", "folder": "r"}, {"folder": "t"}):
        more = ["sweep.prune=false"] if words["folder"] == "t" else []
        it = source(LR, *more, trials=7, **words)
        five_good(it)
        (job,) = it.take(1)
        run_for(job, values=[(4, 9.0)])
        assert it.unpromising([job]) == {}


def test_values_that_are_not_finite_and_damaged_files():
    it = source(LR, trials=7)
    five_good(it)
    nan, broken = it.take(2)
    run_for(nan, values=[(4, None)])
    run_for(broken)
    (broken.run_dir / "metrics.jsonl").write_text("rubbish\n")
    assert it.unpromising([nan, broken]) == {}
    it.ended(nan, ended(None))  # it ended well, without one finite value
    assert states(it)[-2] == "FAIL"
    it.ended(broken, ended(float("nan"), "FAILED"))
    again = source(LR, trials=7)
    assert again.left() == 1
    assert [job.name for job in again.take(3)] == [broken.name]


def test_ranges_may_change_between_commands():
    play(source(LR, trials=4))
    wider = "sweep.params={optim.lr: {low: 1e-5, high: 1e-1, log: true}}"
    assert source(wider, trials=6).left() == 2
    narrow = "sweep.params={optim.lr: {low: 1e-6, high: 2e-6, log: true}}"
    it = source(narrow, trials=6)
    (job,) = it.take(1)
    assert 1e-6 <= job.config.optim.lr <= 2e-6
    linear = "sweep.params={optim.lr: {low: 1e-4, high: 1e-2}}"
    it = source(linear, trials=8)
    assert it.left() == 4  # those within the range count, in whatever way they were drawn
    assert len(play(it)) == 4


def test_lists_may_grow_between_commands():
    it = source(LISTS, trials=3)
    one, two = it.take(2)
    it.ended(one, ended(1.0))
    more = "sweep.params={dropout: [none, standard, ssm], model.n_layer: [1, 2]}"
    it = source(more, trials=20)
    names = [two.name]
    assert [job.name for job in it.take(1)] == names  # cut off, so it comes first
    names += [job.name for job in it.take(10)]
    assert len(set(names)) == 5
    assert one.name not in names
    assert source(LISTS, trials=3).take(1)[0].name == two.name


def test_lists_of_any_values_make_no_noise():
    words = "sweep.params={optim.betas: [[0.9, 0.95], [0.9, 0.99]], trainer.patience: [null, 3]}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(play(source(words, trials=9))) == 4
        assert source(words, trials=9).take(1) == []


def test_steps_and_whole_numbers():
    words = "sweep.params={model.n_layer: {low: 2, high: 6, step: 2}, dropout.p: {low: 0.0, high: 0.4, step: 0.2}}"  # noqa: E501
    jobs = source(words, trials=9, kind="random").take(9)
    assert {job.config.model.n_layer for job in jobs} <= {2, 4, 6}
    assert {round(job.config.dropout.p, 6) for job in jobs} <= {0.0, 0.2, 0.4}


def test_a_study_that_a_stranger_put_there(tmp_path):
    path = tmp_path / "here/study.log"
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is no study of a search"):
        source(LR, trials=1)
    path.unlink()
    with path.open("w") as file:
        os.truncate(file.fileno(), 1 << 40)
    with pytest.raises(UserError, match="is no study of a search"):
        source(LR, trials=1)


def test_what_a_killed_process_left_in_the_study(tmp_path):
    names = play(source(LR, trials=2))
    with (tmp_path / "here/study.log").open("a") as file:
        file.write('{"op_code": 5, "wor')
    (tmp_path / "here/study.log.lock").symlink_to("study.log")
    assert play(source(LR, trials=3))[0] not in names
    path = tmp_path / "here/study.log"
    path.write_text(path.read_text().replace('\\"high\\"', '\\"h)gh\\"'))
    with pytest.raises(UserError, match=r"study.log cannot be used \(.*give another sweep.dir"):
        source(LR, trials=3)
    path.write_text("rubbish\n")
    with pytest.raises(UserError, match=r"study.log cannot be used \(.*give another sweep.dir"):
        source(LR)


def trained(it, steps, count=99) -> list[str]:
    """Take jobs to their end, each with a run folder that says how far it came."""
    names = []
    while it.left() and len(names) < count:
        (job,) = it.take(1)
        run_for(job, values=[(steps, 1.0)], step=steps, ended_by="max_steps")
        it.ended(job, ended(1.0))
        names.append(job.name)
    return names


def test_a_trial_counts_only_if_its_run_is_what_this_command_asks_for():
    short, long = "trainer.max_steps=4", "trainer.max_steps=8"
    names = trained(source(LR, short, trials=3, kind="random"), 4)
    assert source(LR, short, trials=3, kind="random").left() == 0
    longer = source(LR, long, trials=3, kind="random")
    assert longer.left() == 3
    assert trained(longer, 8, count=2) == names[:2]  # they go on, each in its folder
    assert source(LR, long, trials=3, kind="random").left() == 1
    assert source(LR, short, trials=3, kind="random").left() == 0  # 8 steps are 4 steps, too
    with pytest.raises(
        UserError, match=r"made with other settings \(optim.weight_decay.*sweep.dir"
    ):
        source(LR, short, "optim.weight_decay=0.7", trials=3, kind="random")


def test_trials_outside_narrower_ranges_do_not_count():
    play(source(LR, trials=4))
    it = source("sweep.params={optim.lr: {low: 1e-6, high: 2e-6, log: true}}", trials=4)
    assert it.left() == 4


def test_another_seed_is_another_search():
    def folder(*words):
        return plan(["task=text", "sweep.search=random", LR, *words]).folder

    assert folder("seed=2") != folder("seed=3") != folder()
    assert folder("seed=2") == folder("seed=2", "sweep.trials=9")
    grid = ["task=text", "optim.lr=1e-3,2e-3"]  # whose jobs name their seed
    assert plan([*grid, "seed=2"]).folder == plan([*grid, "seed=3"]).folder


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_lists_are_tried_to_the_last_combination(kind):
    words = (
        "sweep.params={model.n_layer: [1, 2, 3, 4, 5, 6], task.batch_size: [1, 2, 4, 8, 16, 32]}"
    )
    it = source(words, trials=36, kind=kind)
    assert len(set(play(it))) == 36
    assert not it.exhausted
    it = source(words, trials=37, kind=kind)
    assert it.take(1) == []
    assert it.exhausted == "every combination that sweep.params allows was tried"


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_with_more_steps_every_trial_is_trained_on_before_others_begin(kind):
    def again(steps, trials=13):
        return source(LR, f"trainer.max_steps={steps}", trials=trials, kind=kind)

    names = trained(again(4), 4, count=5)
    (stopped,) = again(4).take(1)  # and the sweep is killed
    names += trained(again(4), 4)
    assert stopped.name in names
    assert set(trained(again(8), 8)) == set(names)
    more = again(8, trials=16)
    assert more.left() == 3
    assert len(set(trained(more, 8)) - set(names)) == 3


def test_lists_that_grow_twice_count_each_combination_once():
    for most in (4, 6, 8):
        words = f"sweep.params={{model.n_layer: {list(range(1, most + 1))}}}"
        names = play(source(words, trials=most, kind="random"))
        assert len(names) == (4 if most == 4 else 2)
    assert source(words, trials=8, kind="random").left() == 0


def test_a_range_of_many_whole_numbers_is_not_listed():
    many = optuna_study.distribution({"low": 0, "high": 10**9})
    few = optuna_study.distribution([1, 2])
    assert optuna_study.combinations({"seed": many, "model.n_layer": few}) is None
    assert len(optuna_study.combinations({"model.n_layer": few}) or ()) == 2


def test_trials_that_are_there_cannot_begin_again_in_place():
    play(source(LR, trials=2))
    with pytest.raises(
        UserError, match=r"resume=never: here holds the trials of a search.*sweep.dir"
    ):
        source(LR, "resume=never", trials=2)
    assert source(LR, "resume=never", trials=2, folder="elsewhere").left() == 2
