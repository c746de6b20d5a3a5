"""Measured figures and pictures of the pages are what the records in experiments/ say."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from docs.results import (
    claims,
    judging,
    old,
    one_study,
    pages,
    pictures,
    remarks,
    sections,
    studies,
    written,
)
from docs.results.judging import Contrast, Level, TurnsUp
from docs.results.one_study import Study
from mambalab.compare import select
from mambalab.errors import UserError
from mambalab.records import archive
from mambalab.records.reader import read_run
from tests.docs.pages import FENCE
from tests.records.example_runs import make_group, make_run

# What a measured figure looks like in a sentence.
FIGURE = re.compile(
    r"±|\d\.\d{2,}|\d+\.\d ?%|\d ?min\b|\d (?:ms|s)\b|\d tokens/s|\d(?:\.\d+)? times as"
)
NO_FIGURES = ("Python 3.11", "`1.474 ± 0.003` is a mean over seeds")  # a version, and an example


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A function that records groups of runs as a study in a folder of experiments of its own."""
    monkeypatch.setattr(one_study, "EXPERIMENTS", tmp_path)
    monkeypatch.setattr(sections, "EXPERIMENTS", tmp_path)
    monkeypatch.setattr(old, "ROOT", tmp_path)
    one_study.comparison.cache_clear()

    def record(*groups, **options):
        runs = [run for group in groups for run in group]
        of = Study("toy/study", "A question", "mambalab train -m task=digits", **options)
        archive.write(tmp_path / of.folder, _renamed(runs))
        return of

    yield record
    one_study.comparison.cache_clear()


def _renamed(runs):
    return [read_run(r.path.rename(f"{r.path.parent}-{r.path.name}")) for r in runs]


def compared(*groups):
    return select.compare_records([run for group in groups for run in group], [])


@pytest.mark.parametrize("path", pages.paths(), ids=lambda p: p.name)
def test_every_figure_of_a_page_is_that_of_its_record(path):
    text = path.read_text(encoding="utf-8")
    assert pages.fill(text, path) == text, "run make results"


@pytest.mark.parametrize("picture", pictures.every(), ids=lambda p: p.path.stem)
def test_every_picture_shows_its_record(picture):
    assert pictures.is_current(picture), "run make results"


@pytest.mark.parametrize(
    "name", ["README.md", *(f"docs/{n}.md" for n in ("results", "benchmarks", "tracking"))]
)
def test_a_figure_in_a_sentence_stands_in_a_block(name):
    text = pages.BLOCK.sub("", (old.ROOT / name).read_text(encoding="utf-8"))
    lines = FENCE.sub("", text).splitlines()
    found = [line for line in lines if FIGURE.search(line)]
    assert [line for line in found if not any(known in line for known in NO_FIGURES)] == []


def test_a_figure_changed_by_hand_is_put_right():
    path = old.ROOT / "docs/results.md"
    text = path.read_text(encoding="utf-8")
    changed = text.replace("1.4740", "1.4640", 1)
    assert changed != text
    assert pages.fill(changed, path) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- results: no-such -->\n<!-- end -->", "nothing makes the block 'no-such'"),
        ("<!-- results: claims -->\n", "lacks"),
        ("<!-- results: -->\n<!-- end -->", "lacks"),
    ],
)
def test_a_block_that_cannot_be_filled_is_named(text, said):
    with pytest.raises(UserError, match=said):
        pages.fill(text, old.ROOT / "README.md")


def test_a_picture_changed_by_hand_or_of_other_data_is_seen(tmp_path):
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    one = pictures.every()[0]
    copy = pictures.Picture(tmp_path / "a.png", one.data, one.draw)
    assert not pictures.is_current(copy)
    shutil.copy(one.path, copy.path)
    assert pictures.is_current(copy)
    assert not pictures.is_current(pictures.Picture(copy.path, {"mamba_ssm": []}, one.draw))
    with Image.open(copy.path) as image:
        kept = PngInfo()
        for key, value in image.text.items():
            kept.add_text(key, value)
        image.putpixel((9, 9), (255, 0, 0))
        image.save(copy.path, pnginfo=kept)
    assert not pictures.is_current(copy)


def test_the_same_record_gives_the_same_bytes(tmp_path):
    one = next(p for p in pictures.every() if p.draw is pictures.induction)
    made = []
    for name in ("a.png", "b.png"):
        pictures.write(pictures.Picture(tmp_path / name, one.data, one.draw))
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]


def test_every_record_is_shown_by_a_study():
    assert sections.unlisted() == []


def test_every_claim_names_a_study():
    assert {c.study for c in claims.CLAIMS if c.study} <= {s.folder for s in studies.STUDIES}


def test_the_transformer_of_old_records_is_called_by_its_depth():
    assert "| Transformer of equal depth |" in pages.GENERATORS["tasks"]("")
    text = pages.GENERATORS["readme"]("")
    assert "(older)" in text
    assert "transformer_equal_depth" in text


def test_a_claim_without_a_record_is_not_measured():
    claim = claims.Claim("somebody", "it flies", "sources/nanogpt_gpu", Level(1.0))
    assert claims.measured(claim).verdict == "not measured"


@pytest.mark.parametrize(
    ("best", "value", "word"),
    [
        ([1.40, 1.41, 1.42], 1.463, "supported"),
        ([1.46, 1.47, 1.48], 1.463, "undecided"),  # the interval holds it
        ([1.50, 1.51, 1.52], 1.463, "not supported"),
        ([1.40, 1.41], 1.463, "too few seeds"),
    ],
)
@pytest.mark.parametrize("own", [True, False])
def test_a_level_is_judged_by_the_interval(tmp_path, best, value, word, own):
    found = compared(make_group(tmp_path / "g", best))
    of = Study("toy", "", "mambalab runs", source_setting=own)
    told = judging.judged(found, Level(value), of).verdict
    assert told == (word if own or word == "too few seeds" else f"other setting: {word}")


@pytest.mark.parametrize(
    ("mamba", "transformer", "failed", "word"),
    [
        ([1.40, 1.41, 1.42], [1.50, 1.512, 1.519], 0, "supported"),
        ([1.50, 1.512, 1.519], [1.40, 1.41, 1.42], 0, "not supported"),
        ([1.40, 1.50, 1.42], [1.45, 1.41, 1.43], 0, "not supported"),
        ([1.40, 1.41], [1.50, 1.51], 0, "too few seeds"),
        ([1.40, 1.41, 1.42], [1.50, 1.512, 1.519], 1, "no verdict"),
    ],
)
def test_a_contrast_is_judged_seed_by_seed(tmp_path, mamba, transformer, failed, word):
    groups = [
        make_group(tmp_path / "a", mamba, model__name="mamba"),
        make_group(tmp_path / "b", transformer, model__name="transformer"),
    ]
    for seed in range(9, 9 + failed):
        summary = {"status": "FAILED"}
        lost = make_run(tmp_path / "f", seed=seed, model__name="mamba", summary=summary)
        groups.append([read_run(lost)])
    of = Study("toy", "", "mambalab runs", source_setting=True)
    told = judging.judged(compared(*groups), Contrast("model=mamba", "model=transformer"), of)
    assert told.verdict == word


@pytest.mark.parametrize(
    ("by", "looks", "word"),
    [
        (None, 1, "supported"),
        (0.05, 1, "supported"),
        (0.5, 1, "supported, but smaller"),  # all of the interval lies below it
        (None, 2, "undecided"),  # its p of 0.037 is no match for 0.05 / 2
        (0.5, 2, "undecided"),
    ],
)
def test_a_contrast_is_judged_by_its_size_and_by_how_often_it_was_looked_at(
    tmp_path, by, looks, word
):
    found = compared(
        make_group(tmp_path / "a", [1.40, 1.45, 1.42], model__name="mamba"),
        make_group(tmp_path / "b", [1.49, 1.51, 1.55], model__name="transformer"),
    )
    assert found.groups[1].difference is not None or found.groups[0].difference is not None
    of = Study("toy", "", "mambalab runs", source_setting=True, looks=looks)
    test = Contrast("model=mamba", "model=transformer", by=by)
    assert judging.judged(found, test, of).verdict == word


def test_a_verdict_that_does_not_stand_a_second_look_is_taken_back(recorded, tmp_path):
    groups = [
        make_group(tmp_path / "a", [1.40, 1.45, 1.42], model__name="mamba"),
        make_group(tmp_path / "b", [1.49, 1.51, 1.55], model__name="transformer"),
    ]
    of = recorded(*groups, baseline="model=transformer")
    once, twice = (
        one_study.group(one_study.comparison(replace(of, looks=looks)), "model=mamba").verdict
        for looks in (1, 2)
    )
    assert once == "better"
    assert re.fullmatch(r"undecided: p = 0\.0\d\d, judged twice, so 0\.025 is asked", twice)


@pytest.mark.parametrize(("rise", "word"), [(0.5, "supported"), (0.0, "not supported")])
def test_over_fitting_is_judged_by_the_turn(tmp_path, rise, word):
    found = compared(make_group(tmp_path / "g", [1.40, 1.41, 1.43], rise=rise))
    of = Study("toy", "", "mambalab runs", source_setting=True)
    assert judging.judged(found, TurnsUp(), of).verdict == word


def test_a_claim_whose_group_is_not_in_the_record_is_an_error(tmp_path):
    found = compared(make_group(tmp_path / "g", [1.40, 1.41, 1.42]))
    with pytest.raises(UserError, match="no group has model=hybrid"):
        judging.judged(found, Level(1.0, "model=hybrid"), Study("toy", "", "mambalab runs"))


def test_bits_of_the_recorded_models_stand_beside_those_of_the_codecs(
    recorded, tmp_path, monkeypatch
):
    tested = {"test": {"test/loss": 1.25}}
    of = recorded(make_group(tmp_path / "m", [1.2, 1.3], model__name="mamba", summary=tested))
    nothing = Study("toy/none", "", "mambalab runs")
    monkeypatch.setattr(
        written, "study", lambda folder: of if folder == "pixels/digits" else nothing
    )
    monkeypatch.setattr(written, "EXPERIMENTS", tmp_path)
    folder = tmp_path / "pixels" / "digits"
    folder.mkdir(parents=True)
    bits = {"png": 3.0, "webp": 2.5, "png_all": 2.0, "webp_all": 1.75}
    (folder / "codecs.json").write_text(json.dumps({"bits_per_dim": bits}))
    monkeypatch.setattr(written, "load", lambda name: json.loads((tmp_path / name).read_text()))
    text = written.bits("")
    assert "| `mamba`, pixel by pixel | 1.2500 ± 0.0000 (2 seeds) | not measured |" in text
    assert "PNG, all pictures in one file | 2.000 (a file each: 3.000) | not measured |" in text
    assert "transformer" not in text


def test_a_recorded_study_is_shown_with_all_that_a_reviewer_asks(recorded, tmp_path):
    of = recorded(
        make_group(tmp_path / "m", [1.40, 1.41, 1.42], model__name="mamba"),
        make_group(tmp_path / "t", [1.50, 1.512, 1.519], model__name="transformer"),
        make_group(tmp_path / "e", [1.6, 1.61, 1.62], model__name="transformer_equal_depth"),
        baseline="model=transformer",
    )
    text = sections.section(of, "../")
    assert "### A question" in text
    shown = "None layers of 16, 1,000 | lr 0.001, batch None, p 0.0 | 1, 2, 3 | 1.4100 ± 0.0248"
    assert f"`model=mamba` | {shown} | 1.4100 ± 0.0248 | - | 0.00 M |" in text
    assert text.split("`model=transformer` |")[1].splitlines()[0].endswith("| baseline |")
    assert "```text\n(not recorded)\n```" in text
    assert "commit `abc`; 40 steps, ended by max_steps" in text
    assert "experiments/toy/study/runs.json" in text
    assert "`model=transformer_equal_depth`" in text


def test_trials_stand_apart_from_what_is_reported():
    for of in studies.STUDIES:
        if of.recorded:
            records = archive.read(one_study.EXPERIMENTS / of.folder)
            assert {bool(r.setting("task.tune")) for r in records} == {of.tunes}, of.folder


def test_a_study_of_uncommitted_code_says_so(tmp_path, recorded):
    runs = make_group(tmp_path / "m", [1.40, 1.41, 1.42])
    of = recorded(runs)
    path = tmp_path / of.folder / archive.ARCHIVE
    path.write_text(path.read_text().replace('"abc"', '"abcdefabcdef+changes"'))
    assert "commit `abcdefabcd` with uncommitted changes" in sections.facts(of)


def test_runs_that_were_stopped_and_went_on_are_named(tmp_path):
    found = compared(make_group(tmp_path / "s", [1.40, 1.41, 1.42]))
    assert remarks.interrupted(found) is None
    object.__setattr__(found.groups[0].group.records[1].summary, "resumed_from", 20)
    told = remarks.interrupted(found)
    assert told is not None
    assert told.startswith("stopped, and gone on with later: ")
    assert told.endswith("seed 2")


def test_times_stand_beside_threads_where_these_differ(tmp_path):
    found = compared(make_group(tmp_path / "s", [1.40, 1.41, 1.42]))
    records = found.groups[0].group.records
    for threads, minutes, record in zip((1, 2, 2), (50, 20, 21), records, strict=True):
        object.__setattr__(record.summary, "threads", threads)
        object.__setattr__(record.summary, "seconds", 60.0 * minutes)
    told = remarks.minutes_by_seed(found)
    assert told is not None
    assert told.startswith("minutes, by threads: ")
    assert told.endswith(" 50 (seed 1, 1 thread), 20 (seed 2, 2 threads), 21 (seed 3, 2 threads)")
    object.__setattr__(records[1].summary, "resumed_from", 20)
    object.__setattr__(records[2].summary, "seconds", 90.0)
    told = remarks.minutes_by_seed(found)
    assert told is not None
    assert told.endswith("20 (seed 2, 2 threads at the end), 1.5 (seed 3, 2 threads)")
    object.__setattr__(records[0].summary, "threads", 2)
    assert remarks.minutes_by_seed(found) is None


def test_the_best_at_equal_tokens_counts_not_what_came_after(tmp_path):
    short = make_group(tmp_path / "s", [1.40, 1.41, 1.42], optim__lr=0.1)
    long = make_group(tmp_path / "l", [1.30, 1.31, 1.32], optim__lr=0.2)
    for record in [read_run(r.path) for r in long]:
        lines = record.path / "metrics.jsonl"
        rows = [json.loads(line) for line in lines.read_text().splitlines()]
        turned = {10: 1.2, 20: 1.9, 30: 2.0, 40: 2.1}
        for row in rows:
            if "val/loss" in row:
                row["val/loss"] = turned[row["step"]]
        lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compared(short, [read_run(r.path) for r in long])
    for group in found.groups:
        for record in group.group.records:
            each = 128 if record.setting("optim.lr") == 0.2 else 64
            object.__setattr__(record.summary, "tokens_per_step", each)
    told = remarks.at_equal_tokens(found)
    assert told is not None
    assert "optim.lr=0.2 1.2000" in told
    early = remarks.best_early(found)
    assert early is not None
    assert "optim.lr=0.2 after 25 % of the steps" in early
    assert "optim.lr=0.1" not in early


def test_rounds_errors_of_bounds_encoding_and_nats_are_told(tmp_path):
    a = make_group(tmp_path / "a", [1.40, 1.41, 1.42], optim__lr=0.1)
    b = make_group(tmp_path / "b", [1.30, 1.31, 1.32], optim__lr=0.2)
    found = compared(a, b)
    for said in (remarks.rounds, remarks.hidden_error, remarks.encoding, remarks.in_nats):
        assert said(found) is None
    for group in found.groups:
        for record in group.group.records:
            epochs = 2.0 if record.setting("optim.lr") == 0.1 else 4.04
            object.__setattr__(record.summary, "epochs", epochs)
            object.__setattr__(record.summary, "data", {"encoding": "JPEG (lossy copies)"})
    assert remarks.rounds(found) == "rounds through the data: optim.lr=0.2 4.0; optim.lr=0.1 2.0"
    assert remarks.encoding(found) == "images: JPEG (lossy copies)"
    bits = replace(found, metric=replace(found.metric, name="val/bits_per_char"))
    told = remarks.in_nats(bits)
    assert told is not None
    assert told.endswith(f"optim.lr=0.1 {1.41 * 0.6931:.3f}")
    denoiser = {"name": "diffusion", "_target_": "mambalab.tasks.diffusion.DiffusionTask"}
    test = {"step": 40, "test/loss": 1.0, "test/loss_stderr": 0.02}
    bound = make_group(tmp_path / "c", [1.4, 1.5, 1.6], task=denoiser, summary={"test": test})
    told = remarks.hidden_error(compared(bound))
    assert told is not None
    assert told.endswith("0.0200")
    in_bits = replace(compared(bound), metric=replace(found.metric, name="val/bits_per_dim"))
    told = remarks.hidden_error(in_bits)
    assert told is not None
    assert told.endswith(f"{0.02 / 0.6931:.4f}")


def test_values_at_equal_tokens_stand_beside_those_at_the_end(tmp_path):
    short = make_group(tmp_path / "s", [1.40, 1.41, 1.42], optim__lr=0.1)
    long = make_group(tmp_path / "l", [1.30, 1.31, 1.32], optim__lr=0.2)
    found = compared(short, long)
    assert remarks.at_equal_tokens(found) is None  # all saw as many
    for record in found.groups[0].group.records:
        object.__setattr__(record.summary, "tokens_per_step", 128)  # the others see 64 a step
    told = remarks.at_equal_tokens(found)
    assert told is not None
    assert told.startswith("the best at equal tokens (0.00 M, where the shortest ended")
    halfway = [dict(r.curves["val/loss"])[r.step // 2] for r in long]
    assert f"optim.lr=0.2 {sum(halfway) / 3:.4f} ± " in told
    assert "optim.lr=0.1 1.4100 ± 0.0248" in told
