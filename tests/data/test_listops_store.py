import logging
import os

import numpy as np
import pytest

from mambalab.data import listops_store
from mambalab.data.listops_grammar import WORDS, Grammar
from mambalab.data.listops_store import open_generated, open_published
from mambalab.errors import UserError

GRAMMAR = Grammar(min_words=5, max_words=30, max_depth=4, max_args=4)
GOOD = "( ( ( [MAX 2 ) 9 ) ] )\t9"


def expressions(store) -> list[tuple[int, str]]:
    """Values and texts of all expressions."""
    found, lengths = store.documents(np.arange(len(store)))
    return [
        (int(store.labels[row]), " ".join(WORDS[token] for token in found[row, 0, :length]))
        for row, length in enumerate(lengths[:, 0])
    ]


def test_expressions_are_made_once(tmp_path, monkeypatch):
    store = open_generated(tmp_path, GRAMMAR, seed=1, count=40)
    assert store.folder == tmp_path / "listops" / "v1-5-30-depth4-args4-seed1-40"
    assert sorted(path.name for path in store.folder.parent.iterdir()) == [store.folder.name]
    made = [
        (value, " ".join(WORDS[token] for token in tokens))
        for value, tokens in GRAMMAR.expressions(1, 40)
    ]
    assert expressions(store) == made
    assert store.classes == tuple("0123456789")
    assert len(store.sha256) == 64
    monkeypatch.setattr(Grammar, "expressions", None)
    again = open_generated(tmp_path, GRAMMAR, seed=1, count=40)
    assert (again.sha256, expressions(again)) == (store.sha256, made)


def test_every_setting_makes_another_store(tmp_path):
    first = open_generated(tmp_path, GRAMMAR, seed=1, count=20)
    others = [
        open_generated(tmp_path, Grammar(6, 30, 4, 4), 1, 20),
        open_generated(tmp_path, Grammar(5, 29, 4, 4), 1, 20),
        open_generated(tmp_path, Grammar(5, 30, 5, 4), 1, 20),
        open_generated(tmp_path, Grammar(5, 30, 4, 5), 1, 20),
        open_generated(tmp_path, GRAMMAR, 2, 20),
        open_generated(tmp_path, GRAMMAR, 1, 21),
    ]
    assert len({store.folder for store in [first, *others]}) == 7
    assert expressions(others[-1])[:20] == expressions(first)


def test_a_damaged_or_unfinished_store_is_made_again(tmp_path, monkeypatch):
    store = open_generated(tmp_path, GRAMMAR, 1, 20)
    (store.folder / "documents.bin").write_bytes(b"short")
    assert open_generated(tmp_path, GRAMMAR, 1, 20).sha256 == store.sha256

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(listops_store, "convert", stop)
    with pytest.raises(KeyboardInterrupt):
        open_generated(tmp_path, GRAMMAR, 2, 20)
    assert [path.name for path in (tmp_path / "listops").iterdir()] == [store.folder.name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir(mode=0o500)
    store = open_generated(tmp_path / "data", GRAMMAR, 1, 20)
    assert store.folder.is_relative_to(tmp_path / "cache")


def published(place, *rows: str, header: str = "Source\tTarget", end: str = "\r\n"):
    path = place / "basic_val.tsv"
    path.write_bytes(end.join([header, *rows, ""]).encode())
    return path


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_a_published_file_loses_its_parentheses(tmp_path, end):
    rows = [GOOD, "4\t4", "( ( ( [SM ( ( ( [MIN 4 ) 7 ) ] ) ) 8 ) ] )\t2"]
    store = open_published(published(tmp_path, *rows, end=end), max_words=2000)
    assert expressions(store) == [(9, "[MAX 2 9 ]"), (4, "4"), (2, "[SM [MIN 4 7 ] 8 ]")]
    assert store.lines == 3


def test_columns_are_found_by_their_names(tmp_path):
    path = published(tmp_path, "9\tx\t[MAX 2 9 ]", header="Target\tId\tSource")
    assert expressions(open_published(path, max_words=2000)) == [(9, "[MAX 2 9 ]")]


@pytest.mark.parametrize("header", [GOOD, "", "\ufeff", " "])
def test_a_first_line_that_names_no_columns_is_refused(tmp_path, header):
    path = published(tmp_path, "Source\tTarget", GOOD, header=header)
    with pytest.raises(UserError, match=r"basic_val\.tsv: its first line must name the columns"):
        open_published(path, max_words=2000)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("[MAX 2 9 ]\t8", "Source is 9, but Target is 8"),
        ("[MAX 2 9 ]\t10", "Target '10' is no digit"),
        ("[MAX 2 9\t9", "Source is no whole expression"),
        ("[MAX 2 12 ]\t9", "unknown word '12'"),
        ("[MAX 1 2 3 4 ]\t4", "6 words; task.max_words=6 allows less"),
        ("[MAX 2 9 ]", "1 columns instead of 2"),
        ("[MAX 2 9 ]\t9\t9", "3 columns instead of 2"),
    ],
)
def test_rows_that_are_no_expressions_are_left_out(tmp_path, caplog, row, reason):
    with caplog.at_level(logging.WARNING):
        store = open_published(published(tmp_path, GOOD, row, "3\t3"), max_words=6)
    assert [value for value, _ in expressions(store)] == [9, 3]
    assert store.rejected == 1
    assert f"line 3: left out: {reason}" in caplog.text


@pytest.mark.parametrize("rows", [[], ["x\t1"]])
def test_a_file_without_expressions_is_refused(tmp_path, rows):
    with pytest.raises(UserError, match="it must hold a line with Source and Target"):
        open_published(published(tmp_path, *rows), max_words=2000)
    (tmp_path / "basic_val.tsv").write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        open_published(tmp_path / "basic_val.tsv", max_words=2000)
