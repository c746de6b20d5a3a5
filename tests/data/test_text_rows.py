"""Files with a text and a label in each row, of every kind, and what is wrong with some."""

import csv
import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mambalab.data.pair_store import open_store
from mambalab.data.text_rows import find_layout
from mambalab.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")
ROWS = [('a "good" one,\nwith more', "yes"), ("schlecht; übel", "no"), ("漢字", " yes ")]
FLAT = [(text.replace("\n", " ").replace("\t", " "), label) for text, label in ROWS]


def write(path, rows, header=("n", "Review", "Sentiment")):
    """Write rows (text, label) with a number before them, as the name of the file asks for."""
    full = [(n, *row) for n, row in enumerate(rows)]
    if path.suffix == ".parquet":
        columns = [list(column) for column in zip(*full, strict=True)]
        pq.write_table(pa.table(dict(zip(header, columns, strict=True))), path)
    elif path.suffix == ".jsonl":
        lines = (json.dumps(dict(zip(header, row, strict=True))) for row in full)
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix == ".tsv":
        path.write_text("".join("\t".join(map(str, row)) + "\n" for row in [header, *full]))
    else:
        with open(path, "w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file, delimiter=";").writerows([header, *full])
    return path


def contents(path, text=None, label=None, max_bytes=1000):
    store = open_store(path, find_layout(path, text, label), max_bytes)
    texts, lengths = store.documents(np.arange(len(store)))
    assert texts.shape[1] == store.texts == 1
    found = [bytes(t[0, : n[0]]).decode() for t, n in zip(texts, lengths, strict=True)]
    return list(zip(found, (store.classes[y] for y in store.labels), strict=True))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_every_kind_of_file_gives_the_same(tmp_path, name):
    rows = FLAT if name == "a.tsv" else ROWS
    path = write(tmp_path / name, rows)
    layout = find_layout(path, None, None)
    assert (layout.text, layout.label) == ("Review", "Sentiment")
    assert contents(path) == [(text, label.strip()) for text, label in rows]
    assert contents(path, max_bytes=3)[0][0] == rows[0][0][:3]
    assert contents(path, label="n", text="Review") == [
        (text, str(n)) for n, (text, _) in enumerate(rows)
    ]


def test_a_file_without_header_has_numbered_columns(tmp_path):
    path = tmp_path / "plain.csv"
    path.write_text("1,good\n0,bad\n1,fine\n")
    assert contents(path, text="2", label="1") == [("good", "1"), ("bad", "0"), ("fine", "1")]
    with pytest.raises(UserError, match=r"task\.text=2 task\.label=None: .* without a header"):
        find_layout(path, "2", None)


def test_broken_rows_are_left_out_and_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "broken.csv"
    path.write_bytes(
        b"text,label\ngood,a\nbad\xff,a\none,two,three\n,a\nno label,\n\n"
        b'"odd"quotes,a\nnul\0,a\nfine,b\n"never closed,b\nlost,b\n'
    )
    assert contents(path) == [("good", "a"), ("fine", "b")]
    for line, reason in (
        (3, "broken UTF-8"),
        (4, "3 columns instead of 2"),
        (5, "empty text"),
        (6, "empty label"),
        (8, "no CSV"),
        (9, "NUL byte"),
        (11, "no CSV (unexpected end of data), up to line 12"),
    ):
        assert f"line {line}: left out: {reason}" in caplog.text
    assert "7 of 9 rows were left out" in caplog.text
    lines = ['{"text": "x", "label": true}', "[1]", '{"text": 1, "label": 2}', "{", '{"text": "y"}']
    path = tmp_path / "broken.jsonl"
    path.write_text("\n".join([*lines, '{"text": "z", "label": 1.5}']))
    assert sorted(contents(path)) == [("x", "true"), ("z", "1.5")]
    odd = pa.array([b"fine", b"\xff", None], pa.binary()).view(pa.string())
    path = tmp_path / "broken.parquet"
    pq.write_table(pa.table({"text": odd, "label": pa.array([1, 2, 3])}), path)
    assert contents(path) == [("fine", "1")]
    assert "row 2: left out: broken UTF-8" in caplog.text
    assert "row 3: left out: no text" in caplog.text
    for reason in ("no JSON object", "no text but int", "no JSON (", "no 'label'"):
        assert reason in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"x", "its name ends in none of .csv, .tsv"),
        ("a.csv", b"", "nothing in it"),
        ("a.csv", b"text,label\n", "has no row below its header; it must hold a text in column"),
        ("a.csv", b"one,two\nx,y\n", "which columns are text and label. it has 'one', 'two'; name"),
        ("a.jsonl", b"\n", "no line with a JSON object in it"),
        ("a.csv", "text,label\nü,a\n".encode("utf-16"), "is UTF-16, not UTF-8; convert it: iconv"),
        ("a.csv", "text,label\nWörter,a\n".encode("latin-1"), "none of its 1 rows .* ISO-8859-1"),
        ("a.parquet", b"PAR1 or not", "is no parquet file: "),
    ],
)
def test_a_file_that_is_none(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_store(path, find_layout(path, None, None), 100)


def test_columns_that_are_not_there(tmp_path):
    path = write(tmp_path / "a.csv", ROWS)
    with pytest.raises(UserError, match=r"task\.label=klass: .* has no such column; it has 'n', "):
        find_layout(path, None, "klass")
    with pytest.raises(UserError, match="there is no file"):
        find_layout(tmp_path / "b.csv", None, None)
    rows = [(f"text {n}", f"label {n}") for n in range(1001)]
    path = write(tmp_path / "many.tsv", rows)
    with pytest.raises(UserError, match="1,000 different labels; 'Sentiment' is hardly their"):
        open_store(path, find_layout(path, None, None), 100)
