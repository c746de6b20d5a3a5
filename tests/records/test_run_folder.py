import json
import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.utils.files import read_json, write_json

NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(2**53), 2**53)


@given(st.integers(0, 2**40), st.dictionaries(st.sampled_from("abc"), NUMBERS, min_size=1))
def test_a_line_reads_back_as_written_by_any_strict_parser(step, values):
    line = run_folder.encode(step, {k: run_folder.finite(v) for k, v in values.items()})

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    strict = json.loads(line, parse_constant=refuse)
    assert strict.pop("step") == step
    assert run_folder.decode(line) == (step, strict)
    for key, value in values.items():
        assert strict[key] == (value if math.isfinite(value) else None)


def test_numbers_of_other_libraries_are_recorded_as_plain_ones():
    np = pytest.importorskip("numpy")
    assert run_folder.finite(np.float32(0.5)) == 0.5
    assert run_folder.finite(np.int64(3)) == 3.0


@pytest.mark.parametrize(
    "name", ["val/loss", "time/seconds", "a b", "x:y", "top-5", "größe", "v1.2"]
)
def test_good_names(name):
    assert run_folder.name_problem(name) is None


@pytest.mark.parametrize(
    "name", ["step", "", "/loss", "loss/", "a//b", "../x", "a/../b", ".", "x[0]", "a=b", "a" * 251]
)
def test_names_that_mlflow_refuses_or_takes_for_another_path(name):
    assert run_folder.name_problem(name)


def test_rows_continue_where_the_last_call_ended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert run_folder.read_rows(path) == ([], 0)
    path.write_bytes(b'{"step": 1, "a": 1}\n{"step": 2, "a": null}\n{"step": 3, "a"')
    rows, end = run_folder.read_rows(path)
    assert rows == [(1, {"a": 1.0}), (2, {"a": None})]
    with path.open("ab") as file:
        file.write(b": 3}\n")
    assert run_folder.read_rows(path, end) == ([(3, {"a": 3.0})], path.stat().st_size)


@pytest.mark.parametrize(
    "line", ["", "[]", "{", '{"a": 1}', '{"step": true}', '{"step": 1, "a": "x"}', "[" * 10**5]
)
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n' + line + "\n")
    with pytest.raises(UserError, match=r"metrics.jsonl is damaged at byte 20"):
        run_folder.read_rows(path)


def test_words_that_are_not_json_read_as_not_finite():
    line = b'{"step": 1, "a": NaN, "b": -Infinity, "c": 1e999}'
    assert run_folder.decode(line) == (1, {"a": None, "b": None, "c": None})


def test_json_files_are_replaced_whole(tmp_path):
    path = tmp_path / "summary.json"
    assert read_json(path) == {}
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert read_json(path) == {"a": 2}
    assert os.listdir(tmp_path) == ["summary.json"]
    for damaged in ("{", "[1]"):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"summary.json is damaged"):
            read_json(path)


def test_only_one_process_holds_a_run_and_a_dead_one_none(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from mambalab.records import run_folder\n"
        "with run_folder.hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child.stdout as output:
        assert output.readline() == "held\n"
        with pytest.raises(UserError, match="is in use"), run_folder.hold(tmp_path):
            pass
        child.kill()
        child.wait()
    with run_folder.hold(tmp_path), pytest.raises(UserError), run_folder.hold(tmp_path):
        pass
    with run_folder.hold(tmp_path):
        pass


def test_a_held_folder_without_its_lock_file_is_in_use_still(tmp_path):
    with run_folder.hold(tmp_path):
        for _ in range(2):  # the second finds the file that the first refused one has made
            (tmp_path / run_folder.LOCK).unlink()
            with pytest.raises(UserError, match="is in use"), run_folder.hold(tmp_path):
                pass
    with run_folder.hold(tmp_path):
        pass


def test_holding_a_missing_folder_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match="cannot write"), run_folder.hold(tmp_path / "no"):
        pass
