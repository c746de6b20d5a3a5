"""The rooms of the house and their doors: who may import whom."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mambalab"
FILES = sorted(PACKAGE.rglob("*.py"))
# They know no other room:
NEUTRAL = {
    "errors",
    "settings",
    "spec",
    "process",
    "run_folder",
    "tensor_file",
    "threads",
    "words",
}  # know no other room
ANYTHING = {"cli", "config", "commands", "bench", "__main__", "sweep"}
MAY_IMPORT = {  # room -> the other rooms it may import
    "ops": set(),
    "models": {"ops"},
    "generate": {"ops", "models", "sampling"},
    "sampling": set(),
    "inspect": {"ops", "models", "report"},
    "pretrained": {"models", "tasks"},  # of tasks: how to fetch
    "tasks": set(),
    "train": set(),
    "report": set(),
    **{name: set() for name in NEUTRAL},
}
HEAVY = {"torch", "mlflow", "datasets", "torchvision", "triton", "numba", "matplotlib"}
# Rooms in which heavy modules may be imported by a file as a whole: the verbs load these rooms
# only when they run. Everything else must answer --help in an instant.
LAZY_ROOMS = {
    "ops",
    "models",
    "tasks",
    "train",
    "generate",
    "sampling",
    "inspect",
    "report",
    "bench",
    "pretrained",
}


def room(path: Path) -> str:
    """The room a file belongs to: the first name below mambalab."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST, path: Path) -> set[str]:
    """Full names of all modules that a piece of a file imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports in full"
            module = node.module or ""
            found.add(module)
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def rooms(names: set[str]) -> set[str]:
    """The rooms of mambalab among imported names."""
    known = set(MAY_IMPORT) | ANYTHING
    parts = [name.split(".") for name in names]
    return {p[1] for p in parts if p[0] == "mambalab" and len(p) > 1 and p[1] in known}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_file_keeps_to_its_doors(path):
    here = room(path)
    if here == "__init__" or here in ANYTHING:
        return
    assert here in MAY_IMPORT, f"a new room {here!r}: say here whom it may import"
    found = rooms(imports(ast.parse(path.read_text()), path))
    forbidden = found - MAY_IMPORT[here] - NEUTRAL - {here}
    assert not forbidden, f"{here} may not import {', '.join(sorted(forbidden))}"


def test_only_their_verb_imports_the_benchmarks():
    for path in FILES:
        if room(path) != "bench" and path.parts[-2:] != ("commands", "bench.py"):
            assert "bench" not in rooms(imports(ast.parse(path.read_text()), path)), path


def test_only_the_program_itself_imports_its_command_line():
    allowed = {"__main__", "config", "cli"}  # config: completion knows the verbs
    for path in FILES:
        if room(path) not in allowed:
            assert "cli" not in rooms(imports(ast.parse(path.read_text()), path)), path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_light_files_import_nothing_heavy(path):
    light = path.name in ("__init__.py", "settings.py", "settings_tracking.py") or (
        room(path) not in LAZY_ROOMS | {"commands"}
    )
    if not light or path.parent.name == "ops":
        return
    tree = ast.parse(path.read_text())
    top = ast.Module([n for n in tree.body if not isinstance(n, ast.FunctionDef)], [])
    heavy = {name.split(".")[0] for name in imports(top, path)} & HEAVY
    assert not heavy, f"import {', '.join(sorted(heavy))} inside the function that needs it"


def test_a_forbidden_import_is_seen():
    """The checks above look at names; make sure that they see every form of import."""
    forms = [
        "import mambalab.train.loop",
        "from mambalab import train",
        "from mambalab.train import loop",
        "def f():\n    from mambalab.train.loop import fit",
    ]
    for form in forms:
        assert rooms(imports(ast.parse(form), Path("x"))) == {"train"}
