"""Messages are for people: no decision may hang on their wording."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mambalab"
FILES = sorted(PACKAGE.rglob("*.py"))
# Messages of other people's code that gives no other sign, and how many lines look at them.
ALLOWED = {
    "utils/memory.py": 1,  # torch, oneDNN, cuBLAS, Python, ld.so: that memory ran out
    "ops/cpu/runtime.py": 1,  # numba: that it has nowhere to keep what it compiled
}
FIELDS = {"args", "reason", "strerror"}  # of an exception, that hold its message
TEXT_OF = {"str", "repr", "first_line"}  # functions that give an exception's message
LOOKS = {
    *("startswith", "endswith", "find", "index", "count", "partition", "rpartition"),
    *("replace", "removeprefix", "removesuffix", "match", "fullmatch", "search"),
}


def is_message(node: ast.AST, known: set[str]) -> bool:
    """Whether an expression is an exception's message, or the text of a log record."""
    if isinstance(node, ast.Name):
        return node.id in known
    if isinstance(node, ast.Subscript):
        return is_message(node.value, known)
    if isinstance(node, ast.Attribute):
        return node.attr in FIELDS and isinstance(node.value, ast.Name) and node.value.id in known
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    if isinstance(function, ast.Attribute) and function.attr == "getMessage":
        return True
    if isinstance(function, ast.Attribute):  # str(error).lower() is one, too
        return is_message(function.value, known)
    called = isinstance(function, ast.Name) and function.id in TEXT_OF
    return called and any(is_message(argument, known) for argument in node.args)


def decisions(tree: ast.AST) -> list[int]:
    """Lines in which something is decided by, or cut out of, an exception's message."""
    found = []
    for handler in (n for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and n.name):
        known = {str(handler.name)}
        for node in ast.walk(handler):
            if isinstance(node, ast.Assign) and is_message(node.value, known):
                known |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        found += looks(handler, known)
    return sorted({*found, *looks(tree, set())})


def is_literal(node: ast.AST) -> bool:
    """Whether an expression is a text that is written out."""
    text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return text or isinstance(node, ast.JoinedStr)


def looks(tree: ast.AST, known: set[str]) -> list[int]:
    """Lines that compare or search a message."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            texts = [s for s in sides if is_message(s, known)]
            # A bare name may be compared with None or another exception, not with a text.
            named = all(isinstance(s, ast.Name) for s in texts)
            if texts and (not named or any(map(is_literal, sides))):
                found.append(node.lineno)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            subjects = [node.func.value, *node.args]
            if node.func.attr in LOOKS and any(is_message(s, known) for s in subjects):
                found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_is_decided_by_a_message(path):
    allowed = ALLOWED.get(path.relative_to(PACKAGE).as_posix(), 0)
    assert len(found := decisions(ast.parse(path.read_text()))) <= allowed, found


@pytest.mark.parametrize(
    "text",
    [
        "if 'answer' in str(error): pass",
        "if str(error) == SILENT: pass",
        "if first_line(error).lower().startswith('no'): pass",
        "raise ValueError(str(error).replace('a', 'b'))",
        "why = str(error)\n    if 'a' in why: pass",
        "re.search('a', str(error))",
        "if error.args[0] == 'a': pass",
        "if error.reason == 'a': pass",
    ],
)
def test_a_decision_is_seen(text):
    code = f"try:\n    pass\nexcept OSError as error:\n    {text}\n"
    assert decisions(ast.parse(code))


def test_a_filter_by_the_text_of_a_log_record_is_seen():
    assert decisions(ast.parse("log.addFilter(lambda r: 'silent' not in r.getMessage())"))


@pytest.mark.parametrize(
    "text",
    [
        "if error is None or error.errno == 2: pass",
        "reason = str(error)\n    if reason is None: pass",
        "print(f'{str(error)}')",
        "if code in error.codes: pass",
    ],
)
def test_what_is_no_decision_passes(text):
    code = f"try:\n    pass\nexcept OSError as error:\n    {text}\n"
    assert not decisions(ast.parse(code))
