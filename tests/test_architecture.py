"""The rooms of the house and their doors: who may import whom, upwards never."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mambalab"
FILES = sorted(PACKAGE.rglob("*.py"))
# Every room with its doors: the rooms that its files may import, besides itself and the ground
# floor. A room stands below all rooms that import it: the list is read from the ground up, and no
# door leads to a room that comes later.
GROUND = {"errors": set(), "spec": {"errors"}, "utils": {"errors"}, "settings": {"errors", "utils"}}
DOORS = {
    "ops": set(),
    "models": {"ops"},
    "generation": {"ops", "models"},
    "generate": {"generation"},  # an old address
    "records": set(),
    "config": set(),
    "data": set(),
    "tokenization": {"data"},
    "tasks": {"data", "tokenization"},
    "pretrained": {"data", "models", "tokenization"},
    "train": {"records"},
    "tracking": {"records"},
    "plots": {"records"},
    "compare": {"config", "plots", "records"},
    "runs": {
        *("config", "data", "generation", "models", "ops", "plots", "pretrained"),
        *("records", "tasks", "tokenization", "tracking", "train"),
    },
    "inspect": {"generation", "models", "ops", "plots", "runs", "tasks", "tokenization"},
    "sweep": {"compare", "config", "records", "runs", "tracking", "train"},
    "report": {"compare", "config", "plots", "records", "sweep"},  # sweep: it reads sweep.json
    "api": {"compare", "config", "records", "runs"},
    "__init__": {"api"},
    "bench": {
        *("config", "data", "generation", "models", "ops", "pretrained", "runs"),
        *("tasks", "train"),
    },
    "commands": {
        *("bench", "compare", "config", "data", "generation", "inspect", "models", "ops", "plots"),
        *("pretrained", "records", "report", "runs", "sweep", "tokenization", "tracking", "train"),
    },
    "cli": {"__init__", "config", "sweep"},  # the verbs themselves by name, when called
    "__main__": {"cli"},
}
ALL = {**GROUND, **{room: doors | set(GROUND) for room, doors in DOORS.items()}}
HEAVY = {
    "torch",
    "mlflow",
    "wandb",
    "tensorboard",
    "huggingface_hub",
    "triton",
    "numba",
    "matplotlib",
    "tokenizers",
}
# Rooms in which a file as a whole may import heavy modules: the verbs load these rooms only when
# they run. Everything else must answer --help in an instant.
LAZY_ROOMS = {
    *("bench", "compare", "data", "generate", "generation", "inspect", "models", "ops", "plots"),
    *("pretrained", "runs", "tasks", "tokenization", "train"),
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
            found |= {module} if module != "mambalab" else set()
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def imports_when_loaded(path: Path) -> set[str]:
    """Full names of what is imported together with a file: not in functions, not for types."""
    found, queue = set(), [ast.parse(path.read_text())]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= imports(node, path)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            queue += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            queue += ast.iter_child_nodes(node)
    return found


def rooms(names: set[str]) -> set[str]:
    """The rooms of mambalab among imported names; the package itself is the room `__init__`."""
    found = set()
    for top, *rest in (name.split(".") for name in names):
        if top == "mambalab":
            found.add(rest[0] if rest and rest[0] in ALL else "__init__")
    return found


def test_every_room_is_listed_once_and_exists():
    assert {room(path) for path in FILES} == set(ALL)
    assert not set(GROUND) & set(DOORS)


def test_no_door_leads_upwards():
    order = list(ALL)
    for here, doors in ALL.items():
        upwards = {there for there in doors if order.index(there) >= order.index(here)}
        assert not upwards, f"{here} stands below {', '.join(sorted(upwards))}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_file_keeps_to_its_doors(path):
    here = room(path)
    assert here in ALL, f"a new room {here!r}: say here whom it may import"
    forbidden = rooms(imports(ast.parse(path.read_text()), path)) - ALL[here] - {here}
    assert not forbidden, f"{here} may not import {', '.join(sorted(forbidden))}"


def test_every_door_is_used():
    used = {here: set() for here in ALL}
    for path in FILES:
        used[room(path)] |= rooms(imports(ast.parse(path.read_text()), path))
    for here, doors in DOORS.items():
        assert doors <= used[here], f"{here} has doors that nobody uses: {doors - used[here]}"


def test_rooms_inside_the_operators_meet_at_the_top_only():
    """The backends know what lies beside them in `ops`, never each other."""
    backends = {"cpu", "triton", "eager"}
    for path in FILES:
        parts = path.relative_to(PACKAGE).parts
        if parts[0] == "ops" and parts[1] in backends:
            names = [name.split(".") for name in imports(ast.parse(path.read_text()), path)]
            met = {n[2] for n in names if n[:2] == ["mambalab", "ops"] and len(n) > 2}
            assert not met & backends - {parts[1]}, path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_light_files_import_nothing_heavy(path):
    if room(path) in LAZY_ROOMS and path.name != "__init__.py":
        return
    if path.relative_to(PACKAGE).as_posix() in ("ops/__init__.py", "utils/tensors.py"):
        return
    heavy = {name.split(".")[0] for name in imports_when_loaded(path)} & HEAVY
    assert not heavy, f"import {', '.join(sorted(heavy))} inside the function that needs it"


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("commands/*.py")), ids=lambda p: p.stem)
def test_a_verb_opens_its_rooms_when_it_runs(path):
    """The settings class at the top of a verb's file is read for --help: nothing heavy there."""
    lazy = rooms(imports_when_loaded(path)) & LAZY_ROOMS
    assert not lazy, f"import from {', '.join(sorted(lazy))} inside the function that needs it"


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
    assert rooms({"mambalab"}) == rooms({"mambalab.__version__"}) == {"__init__"}
