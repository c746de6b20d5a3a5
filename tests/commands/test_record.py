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
