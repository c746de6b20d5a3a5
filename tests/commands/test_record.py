import pytest

from mambalab.cli.main import main
from mambalab.records import archive
from mambalab.utils.files import write_json
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


def record(*words):
    return main(["record", *map(str, words)])


def values(folder):
    found = archive.read(folder)
    return {one.path.name: dict(one.curves["val/loss"])[20] for one in found}


def test_a_record_loses_no_run(sweep, tmp_path, capsys):
    to = tmp_path / "kept"
    assert record(sweep / "mamba-s1", sweep / "mamba-s2", f"to={to}") == 0
    before = (to / "runs.json").read_bytes()
    assert record(sweep / "mamba-s2", sweep / "mamba-s3", f"to={to}") == 1
    said = "holds a record of 1 run that are not among these (mamba-s1): add"
    assert said in capsys.readouterr().err
    assert (to / "runs.json").read_bytes() == before
    assert record(to, sweep / "mamba-s3", f"to={to}") == 0
    assert set(values(to)) == {"mamba-s1", "mamba-s2", "mamba-s3"}


def test_a_run_that_is_there_counts_as_it_is_now(sweep, tmp_path):
    again = make_run(tmp_path / "again", [3.0, 2.5], seed=1, summary={"uid": "u1"})
    to = tmp_path / "kept"
    assert record(again, f"to={to}") == 0
    lines = (again / "metrics.jsonl").read_text().replace("2.5", "2.25")
    (again / "metrics.jsonl").write_text(lines)
    moved = again.rename(tmp_path / "moved")  # the same by its id
    for paths in ([to, moved], [moved, to]):
        assert record(*paths, f"to={to}") == 0
        assert values(to) == {"moved": 2.25}


def test_a_copy_is_not_recorded_beside_its_original(tmp_path, capsys):
    one = make_run(tmp_path / "one", seed=1, summary={"uid": "u1"})
    copy = make_run(tmp_path / "copy", seed=1, summary={"uid": "u1"})
    assert record(one, copy, f"to={tmp_path / 'kept'}") == 1
    assert "are the same run (one is a copy): name one of them" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()


def test_what_is_not_finite_is_left_out(tmp_path):
    run = make_run(tmp_path / "run", summary={"last": {"val/loss": float("nan"), "val/a": 1.0}})
    with (run / "config.yaml").open("a") as file:
        file.write("params: {most: .inf, several: [.nan, 1]}\n")
    assert record(run, f"to={tmp_path / 'kept'}") == 0
    (found,) = archive.read(tmp_path / "kept")
    assert found.summary.last == {"val/a": 1.0}
    assert found.config["params"] == {"several": [None, 1]}


def test_pruned_trials_and_runs_set_aside_are_left_out_and_named(sweep, tmp_path, capsys):
    make_run(sweep / "bad", seed=4, summary={"status": "KILLED"})
    make_run(sweep / "mamba-s1.old1", seed=1)
    write_json(sweep / "sweep.json", {"jobs": {"bad": {"status": "PRUNED"}}})
    assert record(sweep, f"to={tmp_path / 'kept'}") == 0
    out = capsys.readouterr().out
    assert f"note: pruned by their search, and not recorded: {sweep / 'bad'}\n" in out
    assert f"note: set aside by resume=never, and not recorded: {sweep / 'mamba-s1.old1'}" in out
    assert len(archive.read(tmp_path / "kept")) == 6


def test_a_run_that_was_begun_with_other_code_says_so(tmp_path, capsys):
    revisions = {"git_revision": "abc", "earlier_revisions": "0123456789abcdef+changes"}
    run = make_run(tmp_path / "run", summary=revisions)
    assert record(run, f"to={tmp_path / 'kept'}") == 1
    assert "was begun with uncommitted changes to 0123456789ab: not recorded" in (
        capsys.readouterr().err
    )
    assert record(run, f"to={tmp_path / 'kept'}", "allow_changes=true") == 0


def test_nothing_is_recorded_of_runs_that_do_not_count(tmp_path, capsys):
    make_run(tmp_path / "sweep" / "a.old1")
    assert record(tmp_path / "sweep", f"to={tmp_path / 'kept'}") == 1
    assert "no run to record: " in (told := capsys.readouterr().err)
    assert "a.old1 was set aside by resume=never" in told
    make_run(tmp_path / "sweep" / "b", summary={"status": "KILLED"})
    write_json(tmp_path / "sweep" / "sweep.json", {"jobs": {"b": {"status": "PRUNED"}}})
    assert record(tmp_path / "sweep", f"to={tmp_path / 'kept'}") == 1
    assert "b was pruned by its search" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()
