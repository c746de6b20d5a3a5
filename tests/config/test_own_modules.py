"""A module of the working directory: the one that was asked for, never in place of another."""

import subprocess
import sys

import pytest

from mambalab.config import resolve_target
from mambalab.config.own_modules import hidden_by
from mambalab.errors import UserError


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_it_counts_before_what_merely_lies_on_the_path(write, tmp_path_factory, monkeypatch):
    clone = tmp_path_factory.mktemp("clone")
    (clone / "own_tests").mkdir()
    (clone / "own_tests/__init__.py").write_text("")
    (clone / "own_helper.py").write_text("WHOSE = 'the clone'\n")
    monkeypatch.syspath_prepend(str(clone))
    write("own_helper.py", "WHOSE = 'mine'\n")
    write("own_tests.py", "from own_helper import WHOSE\nclass MyTask: whose = WHOSE\n")
    assert resolve_target("own_tests.MyTask").whose == "mine"


def test_test_is_a_name_like_another(write):
    write("test.py", "class MyTask: pass\n")
    assert resolve_target("test.MyTask").__module__ == "test"


@pytest.mark.parametrize("name", ["json", "torch", "code", "omegaconf"])
def test_what_is_installed_is_not_taken_over(write, name):
    write(f"{name}.py", "raise SystemExit('taken over')\n")
    write("own_plain.py", f"import {name}\nclass MyTask: pass\n")
    resolve_target("own_plain.MyTask")
    with pytest.raises(UserError, match=rf"{name} has no class MyTask \(.*: rename yours\)"):
        resolve_target(f"{name}.MyTask")


def test_taking_the_installed_one_is_said(write, caplog):
    write("yaml.py", "class Loader: pass\n")
    assert resolve_target("yaml.SafeLoader").__module__ == "yaml.loader"
    assert "not the one in" in caplog.text
    assert hidden_by("json") is None


def test_folders_of_modules_are_found(write):
    write("own_folder/tasks.py", "class MyTask: pass\n")
    assert resolve_target("own_folder.tasks.MyTask").__name__ == "MyTask"


def test_nothing_here_is_searched_unless_it_was_asked_for(write):
    write("own_unasked.py", "")
    resolve_target("json.JSONDecoder")
    with pytest.raises(ModuleNotFoundError):
        __import__("own_unasked")


def test_the_program_as_a_module_takes_no_module_from_here(write):
    for name in ("yaml", "hydra", "omegaconf"):
        write(f"{name}.py", "print('taken over')\n")
    done = subprocess.run(
        [sys.executable, "-m", "mambalab", "runs"], capture_output=True, text=True, check=True
    )
    assert "taken over" not in done.stdout + done.stderr
