import pytest

from mambalab.compare.comparability import check_groups, warnings
from mambalab.compare.groups import split
from mambalab.errors import UserError
from mambalab.records.reader import read_run
from tests.records.example_runs import make_run


@pytest.fixture
def groups(tmp_path):
    """A function from changes of two runs (seeds 1 and 2) to their groups."""

    def build(*changes: dict):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        runs = [
            read_run(make_run(folder / f"run{i}", **{"seed": i, **change}))
            for i, change in enumerate(changes, 1)
        ]
        return split(runs, lambda key: key in ("seed", "device"))

    return build


@pytest.mark.parametrize(
    ("summary", "message"),
    [
        ({"data": {"sha256": "e" * 64}}, r"their data \(sha256\): d+… and e+…: not averaged"),
        ({"precision": "bf16"}, r"precision: fp32 and bf16: not averaged \(.*run1, .*run2\)"),
        ({"parameters": 1001}, "number of parameters: 1000 and 1001"),
        (
            {"data": {"sha256": "d" * 64, "tokenizer": "e" * 64}},
            "tokenizer: characters and e+…: not averaged",
        ),
        ({"step": 50}, "steps: 40 and 50"),
    ],
)
def test_runs_of_a_group_must_agree_on_facts(groups, summary, message):
    with pytest.raises(UserError, match=f"group .*mamba.*: seeds 1 and 2 differ in {message}"):
        check_groups(groups({}, {"summary": summary}))


def test_what_may_differ_inside_a_group(groups):
    check_groups(groups({}, {"summary": {"step": 30, "ended_by": "patience"}}))
    check_groups(groups({}, {"summary": {"data": {}, "precision": None, "parameters": None}}))


def test_runs_of_a_group_began_with_one_checkpoint(groups):
    began = [{"summary": {"checkpoint": {"path": "x", "sha256": digit * 64}}} for digit in "ef"]
    with pytest.raises(UserError, match=r"the checkpoint they began with \(sha256\): e+… and f+…"):
        check_groups(groups(*began))
    check_groups(groups({}, began[0]))


def test_losses_of_different_tokens_are_told(groups):
    tokens = {"summary": {"data": {"sha256": "d" * 64, "tokenizer": "e" * 64}}}
    found = groups({}, {"model__name": "pretrained", **tokens})
    check_groups(found)
    (line,) = [line for line in warnings(found) if "tokenizers" in line]
    assert "characters (1 run)" in line
    assert "metric=val/bits_per_char does" in line
    assert not any("tokenizers" in line for line in warnings(groups(tokens, tokens)))


def test_a_seed_may_occur_once(groups, tmp_path):
    with pytest.raises(UserError, match=r"seed 1 occurs twice: .*run1 and .*run2; name or move"):
        check_groups(groups({}, {"seed": 1}))
    check_groups(groups({"dropout": "ssm"}, {"seed": 1, "model__name": "x"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task__name": "other"}, r"different tasks .*: toy \(1 run\), other \(1 run\)"),
        (
            {"task__path": "x.txt", "summary": {"data": {"sha256": "e"}}},
            r"different data .*: d+… \(1 run, one is .*run1\) and e \(1 run, one is .*run2\); "
            r"they differ in task\.path: compare only the runs of one, or train the others again",
        ),
        ({"optim__lr": 1, "summary": {"data": {"sha256": "e"}}}, "; the files changed: compare"),
    ],
)
def test_groups_must_have_one_task_and_one_data_set(groups, change, message):
    with pytest.raises(UserError, match=message):
        check_groups(groups({}, change))


def test_a_bound_stands_beside_the_exact_value_on_the_same_data(groups):
    names = {"diffusion": "diffusion.DiffusionTask", "pixels": "pixels.PixelModelTask"}
    diffusion, pixels = (
        {"task__name": name, "task___target_": f"mambalab.tasks.{target}"}
        for name, target in names.items()
    )
    found = groups(diffusion, pixels)
    check_groups(found)
    (line,) = [line for line in warnings(found) if "upper bounds" in line]
    assert line.endswith("runs are exact, and a bound above one is no verdict")
    (alone,) = [line for line in warnings(groups(diffusion)) if "upper bounds" in line]
    assert alone.endswith("exact values are no higher")
    assert not any("bounds" in line for line in warnings(groups(pixels)))
    with pytest.raises(UserError, match="different data"):
        check_groups(groups(diffusion, {**pixels, "summary": {"data": {"sha256": "e"}}}))
    with pytest.raises(UserError, match="different tasks"):
        check_groups(groups(diffusion, {"task__name": "other"}))


def test_runs_that_chose_settings_are_no_match_for_reported_ones(groups):
    with pytest.raises(UserError, match=r"1 of 2 runs have task\.tune=true, so their val"):
        check_groups(groups({"task__tune": None}, {"task__tune": True}))
    tuned = groups({"task__tune": True}, {"task__tune": True, "optim__lr": 7})
    check_groups(tuned)
    (line,) = warnings(tuned)
    assert "all runs have task.tune=true" in line
    assert "no values to report" in line


def test_what_a_reader_must_know(groups):
    found = groups(
        {},
        {"summary": {"device": "a GPU", "packages": {"torch": "3"}, "git_revision": "def"}},
        {"task__seq_len": 16, "summary": {"data": {}}},
    )
    check_groups(found)
    assert warnings(found) == [
        "the runs differ in device: cpu (2 runs), a GPU (1 run)",
        "the runs differ in version of torch: 2.11 (2 runs), 3 (1 run)",
        "the runs differ in git revision: abc (2 runs), def (1 run)",
        "1 of 3 runs did not note which data they saw",
        "the groups differ in task.seq_len: make sure that their values measure the same thing",
    ]


def test_nothing_to_say(groups):
    assert warnings(groups({}, {"task__batch_size": 4}, {"optim__lr": 7})) == []
