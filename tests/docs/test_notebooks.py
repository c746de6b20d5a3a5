"""Notebooks of the documentation: their cells run in order, and none is kept with its output."""

import ast
import json

import matplotlib.pyplot as plt
import pytest

from tests.docs import pages

NOTEBOOKS = sorted(pages.ROOT.glob("docs/*.ipynb"))
# Tiny sizes in the place of those that are printed.
SMALLER = {
    "trainer.max_steps=300": "trainer.max_steps=2",
    '"trainer.eval_every=50"': '"trainer.eval_every=1", "trainer.log_every=1"',
    '"tracking=jsonl"]': '"tracking=jsonl", "model.d_model=16", "task.val_size=50"]',
}


def cells(path, kind):
    """Sources of a notebook's cells of one kind."""
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["nbformat"] == 4
    return ["".join(cell["source"]) for cell in found["cells"] if cell["cell_type"] == kind]


def test_there_is_one():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_a_notebook_runs_from_top_to_bottom(path, workplace):
    names: dict = {"__name__": "__main__"}
    shown = []
    try:
        for number, source in enumerate(cells(path, "code")):
            for old, new in SMALLER.items() if number == 0 else ():
                assert source.count(old) == 1
                source = source.replace(old, new)
            # As in a notebook: the last expression of a cell is shown.
            tree = ast.parse(source)
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, path.name, "exec"), names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), path.name, "eval"), names)
                assert value is not None
                shown.append(repr(value))
    finally:
        plt.close("all")
    assert len(shown) >= 6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_a_notebook_is_kept_without_its_outputs(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    kept = [c for c in found["cells"] if c["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in kept)
    assert path.stat().st_size < 10_000
