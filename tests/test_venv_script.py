"""`venv.sh`, which `make` calls, finds a Python or says in one line what to install."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "venv.sh"
PYTHON = """#!/bin/sh
case $2 in
  *version_info*) echo {version} {platform} ;;
  *ensurepip*) exit {status} ;;
  *pip*) exit 0 ;;
  venv) echo {name} -m venv "$3" ;;
esac
"""
SHIM = "#!/bin/sh\necho 'no version is chosen' >&2\nexit 127\n"  # as pyenv leaves them
UV = '#!/bin/sh\necho uv "$@"\n'


def programs(folder, **versions):
    """Fake programs: `python3_14="3.14"`, with a minus in front one without ensurepip."""
    for name, version in versions.items():
        name = name.replace("_", ".")
        text = {"shim": SHIM, "uv": UV}.get(version)
        if text is None:
            status = int(version.startswith("-"))
            version, _, platform = version.lstrip("-").partition(" ")
            platform = platform or "linux-x86_64"
            text = PYTHON.format(name=name, version=version, status=status, platform=platform)
        path = folder / name
        path.write_text(text)
        path.chmod(0o755)


def run(folder, *words, cwd=None, first=("my env",)):
    return subprocess.run(
        ["/bin/sh", str(SCRIPT), *first, *words],
        cwd=cwd,
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("here", "made"),
    [
        ({"python3": "3.11", "python3_14": "3.14"}, "python3 -m venv my env"),
        ({"python3": "3.14"}, "python3 -m venv my env"),
        (
            {"python3": "3.9", "python3_11": "3.11", "python3_13": "3.13"},
            "python3.13 -m venv my env",
        ),
        ({"python3": "3.15", "python3_12": "3.12"}, "python3.12 -m venv my env"),
        (
            {"python3": "3.14 macosx-11.0-x86_64", "python3_13": "3.13 macosx-11.0-arm64"},
            "python3.13 -m venv my env",
        ),
        ({"python3": "shim", "python3_12": "3.12"}, "python3.12 -m venv my env"),
        ({"python3": "-3.14", "python3_12": "3.12"}, "python3.12 -m venv my env"),
        (
            {"python3": "-3.14", "uv": "uv"},
            "uv venv --seed --allow-existing --python python3 my env",
        ),
        ({"uv": "uv"}, "uv venv --seed --allow-existing --python >=3.11,<3.15 my env"),
        (
            {"python3": "3.9", "uv": "uv"},
            "uv venv --seed --allow-existing --python >=3.11,<3.15 my env",
        ),
    ],
)
def test_the_first_that_will_do_is_taken(tmp_path, here, made):
    programs(tmp_path, **here)
    done = run(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{made}\n", "")


@pytest.mark.parametrize(
    ("here", "said"),
    [
        ({}, "there is no python3; install Python 3.11 to 3.14"),
        ({"python3": "shim"}, "there is no python3; install Python 3.11 to 3.14"),
        ({"python3": "3.9"}, "python3 is Python 3.9; install Python 3.11 to 3.14"),
        ({"python3": "2.7"}, "python3 is Python 2.7; install Python 3.11 to 3.14"),
        (
            {"python3": "3.15"},
            "python3 is Python 3.15, for which pyarrow has no wheels yet; install",
        ),
        ({"python3": "-3.14"}, "environments: apt install python3.14-venv (Debian, Ubuntu)"),
        ({"python3": "3.9", "python3_12": "-3.12"}, "apt install python3.12-venv"),
        ({"python3": "3.14 macosx-11.0-x86_64"}, "python3 is made for Intel Macs, for which"),
    ],
)
def test_one_line_says_what_to_install(tmp_path, here, said):
    programs(tmp_path, **here)
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.startswith("mambalab: ")
    assert done.stderr.endswith(", then make again\n")
    assert done.stderr.count("\n") == 1


def test_an_intel_mac_is_told(tmp_path):
    programs(tmp_path, python3="3.14")
    (tmp_path / "uname").write_text("#!/bin/sh\necho Darwin x86_64\n")
    (tmp_path / "uname").chmod(0o755)
    done = run(tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "Intel Macs" in done.stderr


def test_the_python_that_is_asked_for_is_taken_and_no_other(tmp_path):
    programs(tmp_path, python3="3.12", python3_13="3.13", python3_9="3.9", uv="uv")
    assert run(tmp_path, "python3.13").stdout == "python3.13 -m venv my env\n"
    assert run(tmp_path, "3.13").stdout == "python3.13 -m venv my env\n"
    done = run(tmp_path, "python3.9")
    assert done.returncode == 1
    assert "python3.9 is Python 3.9; install" in done.stderr


def test_a_python_that_is_asked_for_and_not_here_is_for_uv_to_find(tmp_path):
    programs(tmp_path, python3="3.12", uv="uv")
    for asked in ("3.14", "python3.14"):
        made = f"uv venv --seed --allow-existing --python {asked} my env\n"
        assert run(tmp_path, asked).stdout == made


def test_a_path_with_a_space_is_one_word(tmp_path):
    (tmp_path / "my tools").mkdir()
    programs(tmp_path / "my tools", python3="3.12")
    assert run(tmp_path, str(tmp_path / "my tools" / "python3")).stdout == (
        "python3 -m venv my env\n"
    )


@pytest.mark.parametrize(
    ("there", "words", "said"),
    [
        ("3.12", (), ""),
        ("3.12", ("",), ""),
        ("3.12", ("3.12",), ""),
        (
            "3.12",
            ("3.11",),
            "my env has Python 3.12, not 3.11: make clean, then make again",
        ),
        ("3.12", ("3.13",), ""),  # not here: `--check` compares no more, either
    ],
)
def test_an_environment_of_another_python_is_not_made_over(tmp_path, there, words, said):
    programs(tmp_path, python3="3.11", python3_11="3.11", python3_12="3.12")
    (tmp_path / "my env/bin").mkdir(parents=True)
    programs(tmp_path / "my env/bin", python=there)
    done = run(tmp_path, *words, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", said and f"mambalab: {said}\n")
    assert done.returncode == bool(said)


CHECK = ("--check", "my env")


@pytest.mark.parametrize(
    ("there", "words", "said"),
    [
        ("3.12", (), None),
        ("3.12", ("",), None),
        ("3.12", ("python3.12",), None),
        ("3.12", ("3.12",), None),
        ("3.12", ("3.13",), "my env has Python 3.12, not 3.13: make clean, then make again"),
        ("3.12", ("3.14",), None),  # not here: nothing is known
        ("shim", (), "my env does not work any more (its Python was replaced"),
        (None, ("3.12",), "my env does not work any more (its Python was replaced"),
    ],
)
def test_an_environment_that_is_there_is_looked_at(tmp_path, there, words, said):
    programs(tmp_path, python3_12="3.12", python3_13="3.13")
    (tmp_path / "my env/bin").mkdir(parents=True)
    if there:
        programs(tmp_path / "my env/bin", python=there)
    done = run(tmp_path, *words, cwd=tmp_path, first=CHECK)
    assert done.stdout == ""
    if said is None:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode == 1
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
