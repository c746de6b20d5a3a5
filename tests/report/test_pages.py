"""What stands on the page of a run and of several, and that strangers' words stay words."""

import json
from pathlib import Path

import pytest
import yaml

from mambalab.compare.sections import sections
from mambalab.records.reader import read_run
from mambalab.report import build, figures, page, subject
from mambalab.report.document import Picture
from tests.records.example_runs import make_group, make_run
from tests.report.html_check import check

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;{{STYLE}}\x1b[2J\udcff"
CONFUSION = {
    "kind": "confusion",
    "title": "digits, test split",
    "classes": ["zero", "<b>one</b>"],
    "counts": [[3, 1], [0, 0]],
}
LENGTHS = {
    "kind": "curve",
    "title": "trained at 256 steps",
    "x": [256, 512],
    "y": [0.5, 0.25],
    "marked": 256,
    "x_label": "length",
    "y_label": "accuracy",
}


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures that take no time."""
    drawn = [Picture("png", b"png", "curves", "curves")]
    for name in ("of_run", "of_comparison"):
        monkeypatch.setattr(figures, name, lambda _: drawn)
    monkeypatch.setattr(figures, "of_table", lambda table, caption: drawn)


def write(folders, title=None, **options):
    found = subject.of_folders(folders, **options)
    html = page.render(build.report(found, title))
    return html, check(html)


def detailed(folder, **changes):
    """A run with all that a run folder can hold."""
    summary = {
        "command": "mambalab train task=toy",
        "reason": "max_steps=40 reached",
        "seconds": 80.0,
        "metric": "val/loss",
        "maximize": False,
        "test": {"step": 30, "test/loss": 1.25, "test/accuracy_of/zero": 0.75},
        "threads": 2,
        **changes.pop("summary", {}),
    }
    run = make_run(folder, summary=summary, **changes)
    for name in ("samples", "tables"):
        (run / name).mkdir()
    for step in range(0, 60, 10):
        (run / "samples" / f"step-{step:08d}.txt").write_text(f"\n  text of {step}\n")
    (run / "tables" / "test_confusion.json").write_text(json.dumps(CONFUSION))
    (run / "tables" / "test_curve.json").write_text(json.dumps(LENGTHS))
    note = {"uid": "u", "uri": "http://me:secret@host:5000/", "experiment": "toy", "run_id": "abc"}
    (run / "mlflow_run.json").write_text(json.dumps({**note, "state": "complete"}))
    return run


def test_a_run_is_told_as_a_whole(tmp_path, undrawn):
    run = detailed(
        tmp_path / "run", name="My run", note="First line\nsecond", tags=["draft"], optim__lr=0.5
    )
    html, found = write([run])
    for words in (
        "<h1>My run</h1>",
        "toy · mamba · dropout none · seed 1",
        "<li>draft</li>",
        "First line\nsecond",
        "FINISHED (max_steps=40 reached)",
        "40 steps, 1.3 min",
        "<dd>abc</dd>",
        "http://host:5000/#/runs/abc",
        "git checkout abc\nmambalab train task=toy",
        "sha256 " + "d" * 64,
        "torch 2.11",
        '0.75)">3</td>',  # three of four of a class
        "<figcaption>after 50 steps</figcaption>\n<pre>\n  text of 50</pre>",
        "4 of 6 samples are shown",
    ):
        assert words in html or words in found.text, words
    row = '<tr><th scope="row">loss</th><td>1.0000</td><td>1.5000</td><td>1.2500</td></tr>'
    assert row in html
    assert "secret" not in html
    assert "75.0 %" in html  # of the class zero
    assert "0.5</td>" in html  # the learning rate is not the usual one
    assert "accuracy_of" not in found.text  # the table of classes says it


def test_what_a_run_leaves_in_doubt_is_said(tmp_path, undrawn):
    summary = {"git_revision": "0123456789abcdef+changes"}
    _, found = write([make_run(tmp_path / "over", (3.0, 1.0, 1.2, 1.5), summary=summary)])
    assert "over-fitting: val/loss ends 0.5000 above its lowest part" in found.text
    assert "0123456789ab alone does not repeat the run" in found.text
    assert "not recorded: command, threads" in found.text
    falling = [5 - 0.1 * i for i in range(20)]
    _, found = write([make_run(tmp_path / "better", falling)])
    assert "still improving at its end: val/loss by 0.2000 in the last tenth" in found.text
    assert "over-fitting" not in found.text
    summary = {"status": "KILLED", "reason": "stopped by SIGINT", "step": 40}
    _, found = write([make_run(tmp_path / "killed", summary=summary)])
    assert "it is KILLED (stopped by SIGINT); it has done 40 steps" in found.text


@pytest.mark.parametrize(
    ("file", "content", "still_there"),
    [
        ("config.yaml", "a: [", "<td>1.0000</td>"),
        ("summary.json", "{", "<td>1.0000</td>"),
        ("metrics.jsonl", "no json\n", "max_steps=40 reached"),
        ("tables/test_curve.json", '{"kind": "curve", "x": [0]}', "<th scope=\"row\">zero</th>"),
        ("samples/step-00000050.txt", "\x1b\x00", "text of 30"),
    ],
)  # fmt: skip
def test_of_a_damaged_run_the_rest_is_shown(tmp_path, undrawn, file, content, still_there):
    run = detailed(tmp_path / "run")
    (run / file).write_text(content)
    html, found = write([run])
    assert still_there in html
    if "samples" not in file:
        assert str(run / file) in found.text


def test_a_run_without_anything_is_still_a_page(tmp_path):
    run = make_run(tmp_path / "run", summary={"status": "RUNNING"}, lines=[])
    (run / "config.yaml").write_text("{}")
    (run / "summary.json").write_text("{}")
    _, found = write([run])
    assert "The run recorded no loss" in found.text
    assert "The command was not recorded" in found.text
    assert "no finite val/loss" in found.text


def test_a_task_that_draws_its_data_lacks_no_hash(tmp_path, undrawn):
    target = "mambalab.tasks.synthetic.InductionHeadsTask"
    run = make_run(tmp_path / "run", summary={"data": None})
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["task"]["_target_"] = target
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    _, found = write([run])
    assert "none: the task draws its sequences" in found.text
    assert "hash of the data" not in found.text


@pytest.mark.parametrize("name", ["text/mamba/ssm-7e0a6486-s1", "sweeps/text-340d101b"])
def test_folders_of_the_first_version_are_reported(undrawn, name):
    _, found = write([Path(__file__).parents[1] / "fixtures/first_house/outputs" / name])
    assert "model.d_model" in found.text
    assert "not recorded: command" in found.text


def test_several_runs_are_compared(tmp_path, undrawn):
    make_group(tmp_path / "none", [1.5, 1.52, 1.51], rise=0.3)
    make_group(tmp_path / "ssm", [1.4, 1.43, 1.41], dropout="ssm")
    make_run(tmp_path / "s9", summary={"status": "KILLED", "reason": "full disk"}, seed=9)
    html, found = write([tmp_path], pairs="auto")
    compared = subject.of_folders([tmp_path], pairs="auto").comparison
    assert compared is not None
    # Every table and sentence of the comparison is there, as it is.
    for section in sections(compared):
        assert f">{section.heading}</h2>" in html
        for row in section.grid.rows if section.grid else []:
            assert all(cell in found.text for cell in row)
    for line in (*compared.dropout, *compared.warnings):
        assert line in found.text
    assert '<td class="word">better</td>' in html
    assert "-0.0967 ± 0.0143" in found.text
    assert "7 runs, 6 of them finished; 2 groups" in found.text
    assert "full disk" in found.text
    assert "<em>difference</em>" in html


def test_runs_that_cannot_be_compared_are_listed(tmp_path, undrawn):
    make_run(tmp_path / "a", task__name="text")
    make_run(tmp_path / "b", task__name="mnist", seed=2)
    _, found = write([tmp_path])
    assert "the runs are not compared: runs of different tasks" in found.text
    assert "Comparison: text, mnist" in found.text
    assert found.text.count("FINISHED") == 2
    for name in "ab":
        (tmp_path / name / "summary.json").write_text('{"status": "FAILED", "reason": "NaN"}')
    _, found = write([tmp_path])
    assert "no run has finished: nothing is averaged or compared" in found.text


def test_a_sweep_names_its_command_and_the_jobs_without_a_run(tmp_path, undrawn):
    sweep = tmp_path / "night"
    make_group(sweep / "jobs", [1.5, 1.4])
    jobs = {
        "s3": {"status": "FAILED", "reason": "no room"},
        "s4": {"status": "WAITING", "reason": None},
    }
    state = {"command": ["seed=1,2", "task=toy"], "jobs": jobs, "not_applicable": {"x": "no M"}}
    (sweep / "sweep.json").write_text(json.dumps(state))
    _, found = write([sweep], title="Night & day")
    assert "mambalab train -m seed=1,2 task=toy" in found.text
    assert "s3: failed, no room" in found.text
    assert "s4: waiting\n" in found.text
    assert "x: left out, no M" in found.text
    assert found.text.strip().startswith("Night & day")
    (sweep / "sweep.json").write_text('{"jobs": 3}')
    _, found = write([sweep])
    assert "sweep.json is damaged" in found.text


def test_words_of_strangers_stay_words(tmp_path, undrawn):
    words = {"name": EVIL, "note": EVIL, "tags": [EVIL], "task__name": EVIL, "optim__lr": EVIL}
    words["dropout"], words["seed"] = "none", 1
    summary = {"command": EVIL, "reason": EVIL, "device": EVIL, "git_revision": EVIL}
    summary |= {"packages": {EVIL: EVIL}, "data": {"sha256": EVIL}, "status": "FINISHED"}
    for name, seed in (("a", 1), ("b", 2)):
        run = detailed(tmp_path / name, summary=summary, **{**words, "seed": seed})
        (run / "samples" / "step-00000060.txt").write_text(EVIL, errors="surrogatepass")
        table = {**CONFUSION, "title": EVIL, "classes": [EVIL, "b"]}
        (run / "tables" / "test_confusion.json").write_text(json.dumps(table))
    for folders in ([tmp_path / "a"], [tmp_path]):
        html, found = write(folders, title=EVIL)
        assert found.tags.count("img") <= 3  # the pictures
        assert "<script" not in html
        assert "\x1b" not in html
        assert "\udcff" not in html
        assert "alert(1)" in found.text
        assert "{{STYLE}}" in found.text


def test_the_whole_configuration_is_folded(tmp_path, undrawn):
    run = make_run(tmp_path / "run", params={"é": ["漢字", None]})
    html, found = write([run])
    folded = html.split("<summary>The whole configuration</summary>")[1].split("</details>")[0]
    assert "漢字" in folded
    plain = found.text.split("The whole configuration")[1].split("Where it is kept")[0]
    assert yaml.safe_load(plain)["params"] == {"é": ["漢字", None]}


def test_pictures_are_drawn_into_the_page(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "tables").mkdir()
    (run / "tables" / "test_curve.json").write_text(json.dumps(LENGTHS))
    html, _ = write([run])
    assert html.count("<img") == 2
    assert html.count("data:image/svg+xml") == 1
    assert 'alt="Training and validation curves' in html
    assert "The best val/loss is 1.0000, at step 30." in html
    assert not (run / "plots").exists()  # nothing is written into the run
    records = make_group(tmp_path / "g", [1.5, 1.4])
    found = subject.of_records(records).comparison
    assert found is not None
    drawn = figures.of_comparison(found)
    assert [one.kind for one in drawn] == ["svg+xml"] * 3
    assert all(one.caption and one.alt for one in drawn)


@pytest.mark.parametrize(("asked", "kind"), [(["pdf"], "png"), (["pdf", "svg"], "svg+xml")])
def test_a_run_whose_pictures_are_pdf_has_curves_on_its_page_too(tmp_path, asked, kind):
    run = make_run(tmp_path / "run", figure={"format": asked})
    assert [one.kind for one in figures.of_run(read_run(run))] == [kind]
