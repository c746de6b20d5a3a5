"""What the words of a sweep mean: keys of one's own, texts as people write them, slips."""

import logging

import pytest

from mambalab.config.axes import axes
from mambalab.config.grammar import listed_texts
from mambalab.config.overrides import prepare
from mambalab.errors import UserError
from mambalab.sweep.plan import plan

OWN = "name: mine\n_target_: my_module.MyTask\nbatch_size: 3\neval_batch_size: 4\n"
NOTE = "task.params.note"


@pytest.fixture(autouse=True)
def own_task(write):
    """A task of one's own with a parameter."""
    write("conf/task/mine.yaml", f"{OWN}params: {{modulus: 10}}\n")


def jobs(*overrides: str) -> dict[str, dict]:
    found = plan(["task=mine", *overrides]).jobs
    return {job.name.removesuffix(",seed=1"): dict(job.config.task.params) for job in found}


@pytest.mark.parametrize("sigil", ["", "+", "++"])
def test_a_parameter_of_ones_own_varies(sigil):
    assert jobs(f"{sigil}task.params.modulus=7,10") == {
        "task.params.modulus=7": {"modulus": 7},
        "task.params.modulus=10": {"modulus": 10},
    }


def test_lists_and_mappings_vary():
    assert list(jobs("task.params.x=[1,2],[3]").values()) == [
        {"modulus": 10, "x": [1, 2]},
        {"modulus": 10, "x": [3]},
    ]
    assert [p["x"] for p in jobs("task.params={x:1},{x:2}").values()] == [1, 2]
    assert [p["x"] for p in jobs("task.params.x={a:1},{a:2}").values()] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("word", "params"),
    [
        ("task.params.modulus=5", {"modulus": 5}),
        ("++task.params.modulus=5", {"modulus": 5}),
        ("task.params={modulus: 5}", {"modulus": 5}),
        ("~task.params.modulus", {}),
    ],
)
def test_the_command_line_beats_sweep_params_for_keys_of_ones_own(word, params):
    assert list(jobs("sweep.params={task.params.modulus: [7,10]}", word).values()) == [params]


def test_a_search_makes_new_keys():
    found = plan(["task=mine", "sweep.search=random",
                  "sweep.params={task.params.new: {low: 1, high: 3}}"])  # fmt: skip
    assert found.job({"task.params.new": 2}).config.task.params.new == 2


def test_a_fixed_key_of_ones_own_names_the_folder_as_ever():
    assert plan(["task=mine", "task.params.modulus=7"]).folder.name == "mine-63a115d6"


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("李明.txt", "'李明.txt'"),
        ("a#b,c=d,e;f", "'a#b','c=d','e;f'"),
        ("[x].txt,{y}", "'[x].txt','{y}'"),
        ("it's,that's", r"'it\'s','that\'s'"),
        ("1e3,true,1.50,7", "'1e3','true','1.50',7"),
        ("null,a", "null,a"),
        ('"a,b",c', '"a,b",c'),
        ("a\\,b,é\\,c", "a\\,b,'é,c'"),
        ("${oc.env:A,b}/x,y", "${oc.env:A,b}/x,y"),
        ("choice(李,b)", "'李',b"),
        ("a b, c", "a b, c"),
    ],
)
def test_texts_of_a_sweep_are_what_they_are_without_m(given, texts):
    assert listed_texts(given, optional=True) == texts
    assert axes(prepare("train", [f"task.path={given}"], multirun=True))


@pytest.mark.parametrize("value", ["李明", "{a: 李, b: [é, 'x,y']}", "a#b"])
def test_words_outside_ascii_need_no_quotes_in_parameters(value):
    (plain,) = prepare("train", [f"{NOTE}={value}"])
    assert prepare("train", [f"{NOTE}={value}"], multirun=True) == [plain]
    assert len(plain) > len(f"++{NOTE}={value}")


def test_choice_keeps_what_it_lists_readable():
    (line,) = prepare("train", [f"{NOTE}=choice(李,d)"], multirun=True)
    assert axes([line]) == {NOTE: [f"++{NOTE}='李'", f"++{NOTE}=d"]}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed=1,2,", "no value beside a comma"),
        ("optim.lr=,1e-3", "no value beside a comma"),
        ("task.path=a,,b", "no value beside a comma"),
        ("seed=range(1,5,0)", "the step of range.. must not be 0"),
        ("seed=range(1,5,-1)", "no value lies in this range"),
        ("seed=0,range(1,3)", "stand alone: list all values"),
        ("task.path=a,choice(b,c)", "stand alone: list all values"),
        ("sweep.params={dropout.p: range(0,1,0.1)}", r"or give a range to search: \{low: 1"),
        ("task.params={a: range(1,3)}", "mean nothing inside: list the values"),
        ("seed=range(1,1000000)", "999,999 jobs are more than the 10,000 of one sweep"),
        ("hydra.launcher.additional_parameters=a,b", "^hydra.*one value, please"),
        ("seed=" + "9" * 5000, r"^seed=9{195}\.\.\.: a number has too many digits"),
        ("task.params.a=1," + "9" * 5000, "a number has too many digits"),
    ],
)
def test_a_slip_is_one_line(word, message):
    with pytest.raises(UserError, match=message):
        axes(prepare("train", [word], multirun=True))


def test_two_long_lists_make_too_many_jobs():
    with pytest.raises(UserError, match="10,201 jobs are more than"):
        axes(["seed=range(0,101)", "task.batch_size=range(1,102)"])
    with pytest.raises(UserError, match="10,100 jobs are more than"):
        plan(["seed=range(0,101)", f"sweep.params.task.batch_size={list(range(1, 101))}"])


def test_one_job_alone_is_said(caplog):
    with caplog.at_level(logging.INFO, "mambalab"):
        plan(["seed=3"])
        assert "nothing varies" in caplog.text
        caplog.clear()
        plan(["seed=3,4"])
        assert not caplog.text


@pytest.mark.parametrize("word", ["optim.lr=1e-3,", "seed=" + "9" * 5000])
def test_slips_without_m_are_the_same_line(word):
    with pytest.raises(UserError, match=r"no value beside a comma|too many digits"):
        prepare("train", [word])
