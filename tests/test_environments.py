"""Where mambalab runs: the Pythons that every page and file names, and systems that are refused."""

import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest

from mambalab import config
from mambalab.commands import doctor
from mambalab.config.schema import TrainConfig
from mambalab.utils import packages

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_place_names_the_same_pythons():
    oldest, beyond = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    newest = int(beyond) - 1
    minors = [c.rpartition("3.")[2] for c in PROJECT["classifiers"] if " :: 3." in c]
    assert minors == [str(minor) for minor in range(int(oldest), newest + 1)]
    script = (ROOT / "venv.sh").read_text(encoding="utf-8")
    assert f"OLDEST={oldest} NEWEST={newest}\n" in script
    assert all(f"python3.{minor}" in script for minor in minors)
    for page in ("README.md", "docs/getting-started.md", "Makefile"):
        assert f"Python 3.{oldest} to 3.{newest}" in (ROOT / page).read_text(encoding="utf-8")
    page = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    assert ", ".join(f"3.{minor}" for minor in minors[:-1]) + f" and 3.{newest}. " in page
    assert f"3.{beyond} has to wait" in page
    assert (3, newest) == doctor.NEWEST_PYTHON
    ((_, _, line),) = doctor._python(doctor.DoctorSettings("outputs", "data", "cpu"))
    assert line.endswith(f"(3.{oldest} to 3.{newest} will do)")


def test_hydra_builds_no_parser_of_arguments(monkeypatch):
    """Python 3.14's argparse cannot take a help text of Hydra's; `compose` alone needs none."""

    def refuse(*_, **__):
        raise AssertionError("Hydra builds its parser of arguments")

    monkeypatch.setattr("hydra._internal.utils.get_args_parser", refuse)
    assert config.compose("train", [], TrainConfig).seed == 1
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "mambalab").rglob("*.py")]
    assert not [s for s in sources if re.search(r"hydra\.main\(|get_args_parser|run_hydra", s)]


@pytest.mark.parametrize("kind", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_what_a_library_calls_deprecated_fails_the_tests(kind):
    with pytest.raises(kind):
        warnings.warn("use another", kind, stacklevel=1)


@pytest.mark.parametrize("how", ["import mambalab", "import runpy; runpy.run_module('mambalab')"])
def test_windows_is_told_of_wsl_in_one_line(how):
    code = f"import sys; sys.modules['fcntl'] = None; sys.platform = 'win32'; {how}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "WSL2" in done.stderr


def one_line(*arguments: str) -> str:
    """What a Python that ends with status 1 says in its only line."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("version", [(3, 8, 20), (3, 10, 13)])
def test_a_python_that_is_too_old_is_told_in_one_line(version):
    said = one_line("-c", f"import sys; sys.version_info = {version}; import mambalab")
    assert "Python 3.11 or newer is needed" in said
    assert "is {}.{}".format(*version) in said


def test_a_clone_without_its_packages_says_which_python_runs():
    said = one_line("-S", "-m", "mambalab", "train")  # -S: nothing that was installed is found
    assert "omegaconf is not installed" in said
    assert f"--editable {ROOT}" in said
    assert f"{sys.executable}: run the Python of the environment" in said


def test_the_package_that_reads_versions_may_itself_be_missing():
    if packages.requirements() == []:
        pytest.skip("mambalab is not installed here")
    code = "import sys; sys.modules['packaging'] = None; sys.argv[1:] = ['train', 'task=digits']; "
    said = one_line("-c", code + "from mambalab.cli.main import main; sys.exit(main())")
    assert "packaging is not installed" in said
    assert "packaging" in said.rpartition("install")[2]
