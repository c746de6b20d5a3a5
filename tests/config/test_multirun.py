import pytest

from mambalab.config.multirun import plan
from mambalab.errors import UserError


def test_every_combination_is_one_job():
    sweep = plan(["task=text", "seed=1,2", "model=mamba,transformer"])
    assert sweep.names == [
        "seed=1 model=mamba",
        "seed=1 model=transformer",
        "seed=2 model=mamba",
        "seed=2 model=transformer",
    ]
    assert [(c.seed, c.model.name) for c in sweep.configs] == [
        (1, "mamba"),
        (1, "transformer"),
        (2, "mamba"),
        (2, "transformer"),
    ]


def test_all_ways_to_list_values():
    assert [c.seed for c in plan(["seed=range(1,4)"]).configs] == [1, 2, 3]
    assert [c.optim.lr for c in plan(["optim.lr=choice(0.1,0.2)"]).configs] == [0.1, 0.2]
    assert len(plan([]).configs) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1,x"], r"seed=x: expected a whole number \(in job seed=x\)"),
        (["task=text,shakespear"], "task=shakespear: no such option"),
        (
            ["dropout=none,ssm", "model=transformer"],
            r"no state-space layer.*\(in job dropout=ssm\)",
        ),
        (["dropout=glob(*)"], "a sweep must list its values"),
        (["optim.lr=interval(0,1)"], "a sweep must list its values"),
    ],
)
def test_a_mistake_in_any_job_stops_all_before_they_start(overrides, message, workdir):
    with pytest.raises(UserError, match=message):
        plan(overrides)
    assert list(workdir.iterdir()) == []


def test_jobs_run_in_turn(workdir, capsys):
    seen = []
    assert plan(["seed=1,2"]).run(lambda cfg: seen.append(cfg.seed) or 0) == 0
    assert seen == [1, 2]
    assert "[2/2] seed=2" in capsys.readouterr().out
    assert [p.name for p in workdir.glob("outputs/multirun/*/*")] == ["multirun.yaml"]


def test_a_failed_job_does_not_stop_the_others_but_counts(capsys):
    def command(cfg):
        if cfg.seed == 1:
            raise UserError("no luck\nat all")
        if cfg.seed == 2:
            raise RuntimeError("a bug")
        return 3 if cfg.seed == 3 else 0

    assert plan(["seed=1,2,3,4"]).run(command) == 1
    out, err = capsys.readouterr()
    assert "1 of 4 jobs finished" in out
    assert "mambalab: error: no luck at all\n" in err
    assert "RuntimeError: a bug" in err
    assert err.endswith("failed: seed=1\nfailed: seed=2\nfailed: seed=3\n")


def test_ctrl_c_ends_the_sweep(capsys):
    seen = []

    def command(cfg):
        seen.append(cfg.seed)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan(["seed=1,2"]).run(command)
    assert seen == [1]
    assert capsys.readouterr().err == "not run: seed=2\n"


@pytest.mark.parametrize("status", [130, 143])
def test_a_job_that_a_signal_stopped_ends_the_sweep(capsys, status):
    seen = []

    def command(cfg):
        seen.append(cfg.seed)
        return {1: 1, 2: status}[cfg.seed]

    assert plan(["seed=1,2,3,4"]).run(command) == status
    assert seen == [1, 2]
    out, err = capsys.readouterr()
    assert out.endswith("0 of 4 jobs finished; the same command goes on\n")
    assert err == "failed: seed=1\nstopped: seed=2\nnot run: seed=3\nnot run: seed=4\n"


def test_an_output_folder_that_cannot_be_made(write):
    write("file", "")
    with pytest.raises(UserError, match="file"):
        plan(["seed=1,2", "output_dir=file/below"]).run(lambda cfg: 0)
