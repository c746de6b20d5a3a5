import pytest

from mambalab.cli import main
from mambalab.cli.completion import candidates
from mambalab.errors import NotApplicableError, UserError
from mambalab.settings.sweep import LauncherSettings, LocalSettings, SlurmSettings
from mambalab.sweep.plan import plan

pytestmark = pytest.mark.usefixtures("workdir")


@pytest.fixture
def experiment(workdir):
    """An experiment that is a search."""
    (workdir / "conf/experiment").mkdir(parents=True)
    params = "{optim.lr: {low: 1.0e-4, high: 1.0e-2}, model.d_model: [16, 32]}"
    lines = f"# @package _global_\nsweep:\n  search: tpe\n  params: {params}\n"
    (workdir / "conf/experiment/e.yaml").write_text(lines)


def names(*overrides: str) -> list[str]:
    return [job.name for job in plan(list(overrides)).jobs]


def test_every_combination_is_one_job():
    found = plan(["task=text", "seed=1,2", "model=mamba,transformer"])
    assert [job.name for job in found.jobs] == [
        "model=mamba,seed=1",
        "model=transformer,seed=1",
        "model=mamba,seed=2",
        "model=transformer,seed=2",
    ]
    assert [(j.config.seed, j.config.model.name) for j in found.jobs] == [
        (1, "mamba"),
        (1, "transformer"),
        (2, "mamba"),
        (2, "transformer"),
    ]
    assert all(job.run_dir == found.folder / job.name for job in found.jobs)
    assert found.folder.parent.as_posix() == "outputs/sweeps"
    assert found.folder.name.startswith("text-model-")


def test_all_ways_to_list_values():
    assert names("seed=range(1,4)") == ["seed=1", "seed=2", "seed=3"]
    assert names("optim.lr=choice(1e-1,0.20)") == ["optim.lr=0.1,seed=1", "optim.lr=0.2,seed=1"]
    assert names("sweep.params={seed: [4, 5], dropout: [none, ssm]}") == [
        "dropout=none,seed=4",
        "dropout=ssm,seed=4",
        "dropout=none,seed=5",
        "dropout=ssm,seed=5",
    ]
    assert names("sweep.params.model.bidirectional=[true,false]") == [
        "model.bidirectional=true,seed=1",
        "model.bidirectional=false,seed=1",
    ]
    assert names("sweep.params.trainer.patience=[null,3]") == [
        "trainer.patience=null,seed=1",
        "trainer.patience=3,seed=1",
    ]
    assert names() == ["seed=1"]


def test_a_value_that_comes_twice_is_one_job():
    assert names("optim.lr=0.001,1e-3") == ["optim.lr=0.001,seed=1"]


def test_the_command_line_has_the_last_word_on_what_varies():
    params = "sweep.params={seed: [4, 5], dropout: [none, ssm]}"
    assert names(params, "seed=7") == ["dropout=none,seed=7", "dropout=ssm,seed=7"]
    assert names(params, "dropout=standard", "seed=7,8") == [
        "dropout=standard,seed=7",
        "dropout=standard,seed=8",
    ]
    assert len({plan([params, *more]).folder for more in ([], ["seed=7"], ["dropout=none"])}) == 1


@pytest.mark.parametrize(
    "word",
    [
        "sweep.params={optim.lr: [0.1, 0.2], model.d_model: null}",
        "sweep.params={optim: {lr: [0.1, 0.2]}, model.d_model: null}",
    ],
)
def test_a_list_takes_the_place_of_an_experiments_range(experiment, word):
    assert names("experiment=e", "sweep.search=grid", word) == [
        "optim.lr=0.1,seed=1",
        "optim.lr=0.2,seed=1",
    ]
    only_one = ["sweep.params.optim.lr=[0.3]", "sweep.params.model.d_model=[8]"]
    assert names("experiment=e", "sweep.search=grid", *only_one) == [
        "model.d_model=8,optim.lr=0.3,seed=1"
    ]


def test_a_null_takes_back_however_the_range_was_written():
    declared = "sweep.params={optim: {lr: [0.1, 0.2]}, model.d_model: [16, 32]}"
    found = names(declared, "sweep.params.optim.lr=null")
    assert found == ["model.d_model=16,seed=1", "model.d_model=32,seed=1"]


def test_words_of_a_search_are_told_without_one(caplog):
    plan(["seed=1,2", "sweep.trials=3"])
    assert "sweep.trials=3 changes nothing without a search" in caplog.text


def test_a_home_folder_in_a_file_is_the_persons(workdir, monkeypatch):
    monkeypatch.setenv("HOME", str(workdir / "me"))
    (workdir / "conf/experiment").mkdir(parents=True)
    (workdir / "conf/experiment/mine.yaml").write_text(
        "# @package _global_\nsweep:\n  dir: ~/nights/a\n"
    )
    assert plan(["experiment=mine", "seed=1,2"]).folder == workdir / "me/nights/a"


def test_a_range_declared_again_keeps_what_it_does_not_say(experiment):
    found = plan(["experiment=e", "sweep.params={optim.lr: {high: 0.5}}"])
    assert found.ranges["optim.lr"] == {"low": 1e-4, "high": 0.5}
    assert found.ranges["model.d_model"] == [16, 32]


def test_the_folder_says_what_does_not_vary():
    def folder(*overrides: str) -> str:
        return plan(list(overrides)).folder.name

    base = folder("dropout=none,ssm", "seed=1,2")
    assert folder("seed=1,2,3,4", "dropout=ssm,none,standard") == base
    assert folder("dropout=none,ssm", "seed=9", "trainer.max_steps=7", "tracking=jsonl") == base
    assert folder("dropout=none,ssm", "hydra/launcher=local", "sweep.on_failure=stop") == base
    assert folder("dropout=none,ssm", "optim.lr=0.1") != base
    assert folder("model=mamba,transformer") != base
    assert folder("task=text,shakespeare").startswith("sweep-task-")
    assert plan(["seed=1,2", "sweep.dir=here"]).folder.name == "here"


def test_combinations_that_make_no_sense_are_left_out():
    found = plan(["dropout=none,ssm", "model=mamba,transformer"])
    assert len(found.jobs) == 3
    assert list(found.not_applicable) == ["dropout=ssm,model=transformer,seed=1"]
    assert "no state-space layer" in found.not_applicable["dropout=ssm,model=transformer,seed=1"]
    with pytest.raises(NotApplicableError, match="no state-space layer"):
        plan(["dropout=ssm", "model=transformer", "seed=1,2"])


def test_launchers():
    assert plan(["seed=1,2"]).launcher == LauncherSettings()
    found = plan(["seed=1,2", "hydra/launcher=local", "hydra.launcher.n_jobs=3"])
    assert found.launcher == LocalSettings(n_jobs=3, jobs_per_gpu=1)
    found = plan(["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu"])
    assert isinstance(found.launcher, SlurmSettings)
    assert found.launcher.partition == "gpu"


OLD_NAME = "# @package _global_\ndefaults: [override /hydra/launcher: joblib]\n"


def test_the_old_name_of_a_launcher_means_the_new_one(workdir, write, capsys):
    new = plan(["seed=1,2", "hydra/launcher=local", "hydra.launcher.n_jobs=3"])
    old = plan(["seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=3"])
    assert old.launcher == new.launcher
    assert (old.launcher_name, old.folder) == (new.launcher_name, new.folder)
    assert [job.name for job in old.jobs] == [job.name for job in new.jobs]
    write("conf/experiment/mine.yaml", OLD_NAME)
    assert plan(["seed=1,2", "experiment=mine"]).launcher_name == "local"
    write("conf/hydra/launcher/joblib.yaml", "# ours\ndefaults: [local, _self_]\nn_jobs: 5\n")
    assert plan(["seed=1,2", "experiment=mine"]).launcher.n_jobs == 5
    with pytest.raises(UserError, match="has: basic, local, submitit_local, submitit_slurm"):
        plan(["seed=1,2", "hydra/launcher=ray"])
    for words in (["--help"], ["hydra/launcher=joblib", "--help"]):
        assert main.main(["train", *words]) == 0
        shown = capsys.readouterr().out
        assert "joblib" not in shown
    assert "local*" in shown
    assert candidates(["train"], "hydra/launcher=j") == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1,x"], "seed=x: expected a whole number"),
        (["seed=1,x", "dropout=none,ssm"], r"expected a whole number.*\(in job dropout=none,seed"),
        (["task=text,shakespear"], "task=shakespear: no such option"),
        (["dropout=glob(*)"], "a sweep must list its values"),
        (["optim.lr=interval(0,1)"], "a sweep must list its values"),
        (["run_dir=x", "seed=1,2"], "give sweep.dir=FOLDER"),
        (["sweep.params.seed=3"], r"sweep.params.seed=3: expected a list of values or a range"),
        (["sweep.params.sed=[3]"], "sed: no such key; did you mean seed"),
        (["sweep.params.optim.lr={low: 1, high: 2}"], "a range cannot be tried in full"),
        (["sweep.on_failure=stopp"], "expected continue or stop; did you mean stop"),
        (["sweep.trials=0"], "sweep.trials=0: must be at least 1"),
        (["hydra/launcher=ray"], "hydra/launcher=ray: no such option"),
        (["hydra/launcher=local", "hydra.launcher.n_jobs=0"], "must be -1 or at least 1"),
        (["hydra/launcher=local", "hydra.launcher.n_jobs=two"], "expected a whole number"),
        (["hydra.launcher.n_jobs=2"], "hydra.launcher.n_jobs"),
        (["hydra.sweep.dir=x"], "give the folder of the sweep as sweep.dir=FOLDER"),
        (["hydra/sweeper=optuna"], "sweep.search=tpe"),
        (["sweep.on_failure=stop,continue"], "one value, please"),
        (["sweep.search=tpe"], "nothing to search; declare ranges"),
        (["sweep.search=tpe", "sweep.params.optim.lr={low: 2, high: 1}"], "must be below high"),
        (["sweep.search=tpe", "sweep.params.optim.lr={low: 0, high: 1, log: true}"], "above 0"),
        (["sweep.search=tpe", "sweep.params.optim.lr={low: 0, hi: 1}"], "hi is none of low"),
        (["sweep.search=tpe", "sweep.params.optim.lr={low: -1, high: 1}"], "must be above 0"),
        (["sweep.search=tpe", "seed=1,2", "sweep.params.optim.lr=[1,2]"], "put seed there"),
        (["sweep.search=tpe", "sweep.params.dropout=[none,sss]"], "dropout=sss: no such option"),
    ],
)
def test_a_mistake_in_any_job_stops_all_before_they_start(overrides, message, workdir):
    with pytest.raises(UserError, match=message):
        plan(overrides)
    assert list(workdir.iterdir()) == []


def test_settings_of_a_sweep_without_m(workdir):
    from mambalab.config import compose

    for word in ("sweep.trials=3", "hydra/launcher=local", "hydra.launcher.n_jobs=2"):
        with pytest.raises(UserError, match="mambalab train -m"):
            compose("train", [word])
    (workdir / "conf/experiment").mkdir(parents=True)
    (workdir / "conf/experiment/mine.yaml").write_text(
        "# @package _global_\nsweep:\n  params: {seed: [1, 2], optim.lr: [0.1, 0.2]}\n"
    )
    with pytest.raises(UserError, match="this is a sweep") as caught:
        compose("train", ["experiment=mine"])
    assert "mambalab train -m experiment=mine" in str(caught.value)
    found = plan(["experiment=mine"])
    assert found.folder.name.startswith("mine-lr-")
    assert len(found.jobs) == 4


def test_names_that_would_be_the_same_or_too_long_are_told_apart():
    long = ",".join(str(n) for n in range(100, 130))
    found = names("sweep.params.optim.betas=[[0.9,0.95],[0.9,0.99]]", f"trust=[a],[{long}]")
    assert len(set(found)) == len(found)
    assert all(len(name) <= 150 for name in found)


def test_a_search_makes_jobs_of_values():
    found = plan(
        [
            "sweep.search=random",
            "sweep.params={optim.lr: {low: 1e-4, high: 1e-2, log: true}, dropout: [none, ssm]}",
        ]
    )
    assert found.jobs == []
    job = found.job({"optim.lr": 0.00123456789, "dropout": "none"})
    assert job.name == "dropout=none,optim.lr=0.00123457"
    assert job.config.optim.lr == 0.00123456789


RATE = "sweep.params={optim.lr: {low: 1e-4, high: 1e-2}, model.d_model: [16, 32]}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.d_model=32", RATE], "model.d_model: given twice, as model.d_model=32 and in"),
        (["model.d_model=16,32", RATE], "model.d_model=16,32: a search draws its values from"),
        (["optim.lr=0.1", "model.d_model=32", "experiment=e"], "nothing is left to search"),
    ],
)
def test_a_search_that_contradicts_itself_is_one_line(experiment, words, said):
    with pytest.raises(UserError, match=said):
        plan(["task=text", "sweep.search=tpe", *words])


def test_what_is_fixed_is_not_searched_nor_in_the_name_and_is_said(experiment, caplog):
    caplog.set_level("INFO", logger="mambalab")
    found = plan(["experiment=e", "model.d_model=32"])
    assert list(found.ranges) == ["optim.lr"]
    assert found.folder.name.startswith("e-lr-")
    assert "model.d_model=32: as on the command line, not as sweep.params" in caplog.text
    assert plan(["experiment=e"]).folder.name.startswith("e-d_model-lr-")


def test_the_best_of_an_experiment_that_is_a_search_is_trained_as_a_grid(experiment):
    best = ["optim.lr=0.001", "model.d_model=16", "sweep.search=grid", "seed=1,2"]
    assert names("experiment=e", *best) == [
        f"model.d_model=16,optim.lr=0.001,seed={seed}" for seed in (1, 2)
    ]


def test_what_changes_nothing_in_one_model_is_left_out():
    found = plan(["task=digits", "model=mamba,transformer", "model.bidirectional=true"])
    assert [job.name for job in found.jobs] == ["model=mamba,seed=1"]
    assert "has no Mamba layer" in found.not_applicable["model=transformer,seed=1"]


def test_experiments_with_sweeps_of_their_own_are_refused(write):
    head = "# @package _global_\n"
    write("conf/experiment/a.yaml", f"{head}sweep: {{params: {{seed: [1, 2]}}}}\n")
    write("conf/experiment/b.yaml", f"{head}sweep: {{params: {{optim.lr: [0.1, 0.2]}}}}\n")
    write("conf/experiment/c.yaml", f"{head}optim: {{lr: 0.5}}\n")
    write("conf/experiment/d.yaml", f"{head}optim: {{lr: 0.7}}\n")
    with pytest.raises(UserError, match="experiment=a and experiment=b declare different sweeps"):
        plan(["experiment=a,b"])
    with pytest.raises(UserError, match="declare different sweeps"):
        plan(["experiment=c,b"])
    assert [job.config.optim.lr for job in plan(["experiment=c,d"]).jobs] == [0.5, 0.7]
