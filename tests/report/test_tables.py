"""Tables of results as text."""

from mambalab.report import tables


def test_a_class_without_examples_has_no_share():
    table = {"kind": "confusion", "title": "x", "classes": ["a", "b"], "counts": [[3, 1], [0, 0]]}
    _, first, second = tables.text(table).splitlines()
    assert first.split() == ["a", "3", "1", "0.7500"]
    assert second.split() == ["b", "0", "0", "-"]
