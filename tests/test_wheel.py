"""What pip installs holds everything that the program needs, and finds it anywhere."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that holds the installed package."""
    built = tmp_path_factory.mktemp("wheel")
    code = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(built)], cwd=ROOT, check=True, timeout=300)
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder


def test_every_yaml_is_in_the_wheel(site):
    ours = {p.relative_to(ROOT / "conf") for p in (ROOT / "conf").rglob("*.yaml")}
    ours |= {
        Path("experiment") / p.relative_to(ROOT / "experiments")
        for p in (ROOT / "experiments").rglob("*.yaml")
    }
    conf = site / "mambalab" / "conf"
    assert {p.relative_to(conf) for p in conf.rglob("*.yaml")} == ours
    assert Path("experiment/quickstart.yaml") in ours
    assert (site / "mambalab" / "py.typed").is_file()


@pytest.mark.parametrize(
    ("room", "own"),
    [
        ("inspect", {"page.html", "page.css", "page.js", "panels.js", "draw.js"}),
        ("report", {"page.html", "page.css"}),
    ],
)
def test_every_part_of_the_page_is_in_the_wheel(site, room, own):
    page = Path("mambalab", room)
    parts = {p.name for p in (ROOT / page).iterdir() if p.suffix in (".html", ".css", ".js")}
    assert own == parts
    assert parts <= {p.name for p in (site / page).iterdir()}


def test_it_runs_from_any_directory(site, tmp_path):
    code = (
        "import sys, mambalab; from mambalab.cli.main import main; "
        "assert mambalab.__file__.startswith(sys.argv[1]); "
        "sys.exit(main(['train', 'experiment=quickstart', '--cfg', 'job']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "name: mamba" in done.stdout
    assert list(tmp_path.iterdir()) == []
