"""Lines that fit into a terminal."""

import pytest

from mambalab.utils.text import fewer, packed, table, wrapped

FIELDS = ["step 10", "", "loss 1.5000", "9 tokens/s"]


@pytest.mark.parametrize(
    ("columns", "left"),
    [
        (None, ["step 10", "loss 1.5000", "9 tokens/s"]),
        (32, ["step 10", "loss 1.5000", "9 tokens/s"]),
        (31, ["step 10", "loss 1.5000"]),
        (10, ["step 10"]),
        (3, ["step 10"]),
    ],
)
def test_the_least_important_fields_are_left_out(columns, left):
    assert fewer(FIELDS, columns, ["9 tokens/s", "", "loss 1.5000"]) == left


@pytest.mark.parametrize(
    ("columns", "text"),
    [(None, "ab  cd  ef"), (10, "ab  cd  ef"), (9, "ab  cd\n  ef"), (1, "ab\n  cd\n  ef")],
)
def test_fields_are_not_broken(columns, text):
    assert packed(["ab", "cd", "ef"], columns) == text


def test_a_line_is_broken_between_words_and_a_path_never():
    assert wrapped("run: /a/long-path/of here", None) == "run: /a/long-path/of here"
    assert wrapped("  [1/2]  done", 13) == "  [1/2]  done"
    assert wrapped("run: /a/long-path/of here", 12) == "run:\n  /a/long-path/of\n  here"


def test_what_follows_a_name_may_be_indented_further():
    assert wrapped("best     val/loss 1.5, val/bits 2.2", 24, 9) == (
        "best     val/loss 1.5,\n         val/bits 2.2"
    )


def test_columns_without_room_go_into_a_table_below_with_the_first_column():
    rows = [["a", ["1.50", "(2)"], "worse"], ["bb", "1.25", "-"]]
    header = ("group", "best", "verdict")
    whole = table(header, rows, {"best"})
    assert table(header, rows, {"best"}, 20) == whole
    assert table(header, rows, {"best"}, 19).splitlines() == [
        "group  best",
        "a      1.50",
        "        (2)",
        "bb     1.25",
        "",
        "group  verdict",
        "a      worse",
        "",
        "bb     -",
    ]
    assert table(header, rows, {"best"}, 1).count("group") == 2  # a column is never cut
