import pytest

from mambalab.cli.main import main
from tests.records.example_runs import make_run


@pytest.fixture
def sweep(tmp_path):
    for model in ("mamba", "transformer"):
        for seed in (1, 2, 3):
            make_run(
                tmp_path / "runs" / f"{model}-s{seed}",
                [3.0, 2.0 + seed / 10],
                seed=seed,
                model__name=model,
                summary={"ended_by": "max_minutes" if model == "mamba" else "max_steps"},
            )
    return tmp_path / "runs"


def test_runs_are_recorded_and_compared_from_the_record(sweep, tmp_path, capsys):
    to = tmp_path / "the record"
    assert main(["record", str(sweep), f"to={to}"]) == 0
    out = capsys.readouterr().out
    assert f"{to / 'runs.json'}: 6 runs\n" in out
    assert "note: 3 ended by the clock" in out
    assert f"mambalab compare '{to}'" in out
    assert "note: not known of every run: command, threads" in out
    assert main(["compare", str(to)]) == 0
    assert "model=transformer" in capsys.readouterr().out
    assert (to / "comparison.md").is_file()


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        ([], "record: which runs?", 2),
        (["RUNS"], "record: where to?", 2),
        (["RUNS", "to=x"], "uncommitted changes", 1),
    ],
)
def test_mistakes_are_one_line(sweep, tmp_path, capsys, words, said, status):
    make_run(tmp_path / "runs" / "new", summary={"git_revision": "abc+changes"}, seed=9)
    assert main([w.replace("RUNS", str(sweep)) for w in ["record", *words]]) == status
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_runs_that_lack_the_same_share_a_line(sweep, tmp_path, capsys):
    make_run(tmp_path / "runs" / "new", seed=9, summary={"git_revision": "abc+changes", "load": 1})
    assert main(["record", str(sweep), f"to={tmp_path / 'to'}", "allow_changes=true"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "not known" in line]
    assert lines == [
        "note: not known of mamba-s1, mamba-s2, mamba-s3 and 3 more: "
        "command, threads, load of the machine, training time, wall time",
        "note: not known of new: command, threads, training time, wall time",
    ]
