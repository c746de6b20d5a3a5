"""Packages that are too old or broken cost one line that names what mends it."""

import importlib
import sys
import tomllib
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from mambalab.cli import main
from mambalab.cli.verbs import VERBS
from mambalab.commands import doctor
from mambalab.compare import search
from mambalab.errors import UserError
from mambalab.sweep import plan
from mambalab.tracking import mlflow_store
from mambalab.utils import packages
from tests.lab import one_line

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


@pytest.fixture
def too_old(monkeypatch):
    """A function that makes an installed package look too old for mambalab."""
    installed = metadata.metadata

    def of(name):
        return {"Version": "0.1.2"} if packages._plain(name) in old else installed(name)

    old = set()
    monkeypatch.setattr(metadata, "metadata", of)
    monkeypatch.setattr(metadata, "requires", lambda name: declared())
    return lambda name: old.add(packages._plain(name))


def declared():
    """What the wheel's metadata list."""
    lines = list(PROJECT["dependencies"])
    for extra, needed in PROJECT["optional-dependencies"].items():
        for line in needed:
            name, _, marker = line.partition(";")
            both = f"({marker}) and extra" if marker else "extra"
            lines.append(f"{name} ; {both} == '{extra}'")
    return lines


@pytest.mark.usefixtures("too_old")
def test_what_is_installed_here_will_do():
    found = [*packages.requirements(), *packages.requirements("slurm")]
    assert {"torch", "mlflow", "submitit"} <= {requirement.name for requirement in found}
    assert [why for r in found if (why := packages.obstacle(r))] == []


def test_each_verb_needs_declared_packages():
    names = {Requirement(line).name for line in PROJECT["dependencies"]}
    for verb in VERBS.values():
        assert set(verb.needs) <= names, verb.name
    needed = {name for verb in VERBS.values() for name in verb.needs}
    needed |= {"hydra-core", "omegaconf", "pyyaml", "packaging"}  # told if their import fails
    needed |= {"optuna"}  # a search alone needs it
    assert needed == names


def test_a_search_is_not_compared_with_an_optuna_that_is_too_old(too_old, tmp_path):
    (tmp_path / search.STUDY).touch()
    assert search.read(tmp_path) is None  # nothing in it
    too_old("optuna")
    with pytest.raises(UserError, match=r"optuna 0\.1\.2 is installed"):
        search.read(tmp_path)


@pytest.mark.parametrize("record", [None, "Name: numpy\n", "Name: numpy\nVersion: unknown\n"])
@pytest.mark.parametrize("backport", [False, True])  # reads the records once it is imported
def test_a_record_that_an_interrupted_installation_left_is_told(
    record, backport, tmp_path, monkeypatch
):
    if backport:
        pytest.importorskip("importlib_metadata")
    else:
        finders = [one for one in sys.meta_path if "importlib_metadata" not in type(one).__module__]
        monkeypatch.setattr(sys, "meta_path", finders)
        # Once imported, by MLflow for one, the backport takes the standard reader out.
        reader = metadata.MetadataPathFinder.find_distributions
        monkeypatch.setattr(PathFinder, "find_distributions", reader, raising=False)
    broken = tmp_path / "numpy-2.4.6.dist-info"
    broken.mkdir()
    if record is not None:
        (broken / "METADATA").write_text("Metadata-Version: 2.1\n" + record)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"numpy is installed, .* is damaged: ") as it:
        packages.require("numpy")
    assert "--force-reinstall --no-deps 'numpy>=" in str(it.value)


@pytest.mark.parametrize(
    ("words", "package"),
    [
        (["compare", "."], "matplotlib"),
        (["report"], "scipy"),
        (["train", "task=digits"], "torch"),
        (["ui"], "mlflow"),
        (["data", "list"], "huggingface_hub"),
        (["generate", "latest"], "pillow"),
        (["bench", "scan"], "pyarrow"),
    ],
)
def test_a_verb_says_what_is_too_old(too_old, words, package, workdir, capsys):
    too_old(package)
    assert main.main(words) == 1
    line = one_line(capsys)
    assert f"{package} 0.1.2 is installed, and mambalab needs >=" in line
    assert packages.pip_install(f"--upgrade '{package}>=") in line
    assert list(workdir.iterdir()) == []


@pytest.mark.usefixtures("workdir")
def test_what_is_too_old_matters_to_no_other_verb(too_old, capsys):
    too_old("matplotlib")
    assert main.main(["runs"]) == 0, capsys.readouterr().err


def test_what_some_settings_need_is_checked_with_them(too_old, tmp_path):
    for name in ("mlflow", "optuna", "wandb"):
        too_old(name)
    uri = mlflow_store.store_uri(None, tmp_path)
    with pytest.raises(UserError, match=r"mlflow 0\.1\.2 is installed"):
        mlflow_store.check(uri)
    with pytest.raises(UserError, match=r"optuna 0\.1\.2 is installed"):
        plan.plan(["sweep.search=tpe", "sweep.params={optim.lr: {low: 1e-4, high: 1e-2}}"])
    with pytest.raises(UserError, match=r"wandb 0\.1\.2 is installed"):
        packages.require("wandb", extra="wandb")


@pytest.fixture
def imported(monkeypatch):
    """Names of the modules that doctor imports, which takes no time; one may fail."""

    def look(name):
        found.append(name)
        if name.startswith("mlflow") and broken:
            raise ImportError("cannot import name 'FallbackQueue' from 'sqlalchemy.pool'")

    found, broken = [], []
    monkeypatch.setattr(doctor, "import_module", look)
    return SimpleNamespace(names=found, breaks=lambda: broken.append(True))


SETTINGS = doctor.DoctorSettings("outputs", "data", "cpu")


def test_doctor_names_what_is_too_old(too_old, imported):
    assert [mark for mark, _, _ in doctor._packages(SETTINGS)] == ["ok"]
    declared = {packages._plain(requirement.name) for requirement in packages.requirements()}
    looked = {packages._PROJECT.get(n.split(".")[0], n.split(".")[0]) for n in imported.names}
    assert set(map(packages._plain, looked)) == declared - {"triton"}  # it has a line of its own
    too_old("scipy")
    ((mark, _, line),) = list(doctor._packages(SETTINGS))[1:]
    assert mark == "!!"
    assert line.startswith("scipy 0.1.2 is installed, and mambalab needs >=")


def test_doctor_names_a_package_that_cannot_be_imported(imported):
    imported.breaks()
    ((mark, _, line),) = [f for f in doctor._packages(SETTINGS) if f[0] != "ok"]
    assert mark == "!!"
    assert line == "mlflow: cannot import name 'FallbackQueue' from 'sqlalchemy.pool'"


def test_doctor_names_a_python_that_is_not_meant(monkeypatch):
    assert [mark for mark, _, _ in doctor._python(SETTINGS)] == ["ok"]
    monkeypatch.setattr("sys.version_info", (3, 15, 0))
    ((mark, _, line),) = doctor._python(SETTINGS)
    assert mark == "!!"
    assert "take 3.11 to 3.14: pyarrow has no wheels" in line


@pytest.mark.parametrize(
    ("pip", "module", "told"),
    [
        ("BIN/pip", True, "pip install --upgrade torch"),
        ("/usr/bin/pip", True, "PYTHON -m pip install --upgrade torch"),  # of another Python
        (None, True, "PYTHON -m pip install --upgrade torch"),  # not activated
        (None, False, "uv pip install --python PYTHON --upgrade torch"),  # made by uv
    ],
)
def test_the_command_that_mends_is_for_the_python_that_runs(monkeypatch, pip, module, told):
    python = "/home/me/my env/bin/python"
    monkeypatch.setattr(packages.sys, "executable", python)
    found = pip and pip.replace("BIN", "/home/me/my env/bin")
    monkeypatch.setattr(packages.shutil, "which", lambda name: found)
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: module or None)
    assert packages.pip_install("--upgrade torch") == told.replace("PYTHON", f"'{python}'")


def test_a_torch_for_cpus_stays_one(monkeypatch):
    torch = next(r for r in packages.requirements() if r.name == "torch")
    monkeypatch.setattr(metadata, "metadata", lambda name: {"Version": "2.1.0+cpu"})
    line = packages.obstacle(torch)
    assert line is not None
    assert line.endswith("--index-url https://download.pytorch.org/whl/cpu")


def test_a_hydra_that_cannot_be_imported_is_told_with_what_mends_it(too_old, monkeypatch, capsys):
    too_old("hydra-core")
    monkeypatch.setitem(packages.sys.modules, "hydra", None)
    assert main.main(["runs"]) == 2
    assert "hydra-core 0.1.2 is installed, and mambalab needs >=" in one_line(capsys)


def failing(folder, name, text, monkeypatch):
    """Import a module that stands where a package would, and return how it fails."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    with pytest.raises(ImportError) as caught:
        importlib.import_module(name)
    return caught.value


def test_a_broken_package_is_named(tmp_path, monkeypatch):
    owners = {**metadata.packages_distributions(), "matplotlib": ["matplotlib"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: owners)
    error = failing(tmp_path, "matplotlib", "from os import no_such_name", monkeypatch)
    line = packages.told(error)
    assert line.startswith("matplotlib is installed, but cannot be imported (cannot import name")
    assert line.endswith(packages.pip_install("--upgrade --force-reinstall matplotlib"))
    error = failing(tmp_path, "matplotlib", "import no_such_module", monkeypatch)
    line = packages.told(error)
    assert line.startswith("no_such_module is not installed (")
    assert line.endswith(packages.pip_install("--upgrade no_such_module"))


def test_code_of_the_users_is_not_to_blame(tmp_path, monkeypatch):
    error = failing(tmp_path, "my_own_task", "from os import no_such_name", monkeypatch)
    assert packages.told(error) is None


def test_a_missing_package_ends_a_verb_in_one_line(monkeypatch, workdir, capsys):
    monkeypatch.setattr(metadata, "requires", lambda name: ["scipy>=1.15"])
    code = compile("import scipy.nothing_here", "statistics.py", "exec")
    module = {"__name__": "mambalab.compare.statistics"}
    monkeypatch.setattr("mambalab.cli.main.run", lambda verb, arguments: exec(code, module))
    assert main.main(["runs"]) == 1
    assert "scipy is not installed (No module named 'scipy.nothing_here')" in one_line(capsys)
