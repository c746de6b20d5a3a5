"""Files of pairs as people have them: labels, line ends and quotation marks."""

import csv
import io
import subprocess

import pytest

from mambalab.data import pair_rows
from mambalab.data.pair_rows import PAIRS
from mambalab.data.pair_store import open_store
from mambalab.errors import UserError
from tests.data.test_pair_store import as_tsv, contents


def test_what_cannot_be_seen_around_a_label_makes_no_other_class(place):
    rows = "0\ta\tb\n\u00a00\u3000\tc\td\n\ufeff1\te\tf\n1\u200b\tg\th\n"
    store = open_store(place(rows.encode()), PAIRS, 100)
    assert store.classes == ("0", "1")
    assert store.labels.tolist() == [0, 0, 1, 1]


def test_a_store_whose_labels_were_not_cleaned_is_made_again(place, monkeypatch):
    path = place("0\ta\tb\n0\u00a0\tc\td\n1\te\tf\n".encode())
    with monkeypatch.context() as patch:
        patch.setattr(pair_rows, "clean_label", str)
        assert len(open_store(path, PAIRS, 100).classes) == 3
    assert open_store(path, PAIRS, 100).classes == ("0", "1")


@pytest.mark.parametrize("longest", [20, 1000])
def test_carriage_returns_end_lines_where_nothing_else_does(monkeypatch, longest):
    monkeypatch.setattr(pair_rows, "_CHUNK_BYTES", 7)
    rows = [(str(n % 2), b"a" * (n + 1), b"b%d" % n) for n in range(30)]
    content = b"\xef\xbb\xbf" + as_tsv(rows, b"\r")
    found = list(pair_rows.lines(io.BytesIO(content), longest))
    wanted = [as_tsv([row], b"") for row in rows]
    assert found == [line if len(line) <= longest else None for line in wanted]


QUOTED = [["0", 'he said "hi"', "plain"], ["1", "two\nlines", "tab\there"], ["0", "x", "y"]] * 9


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_the_command_that_is_printed_makes_a_usable_file(place, delimiter, quoting, tmp_path):
    with place(b"", "set/it's.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=delimiter, quoting=quoting).writerows(QUOTED)
    path = tmp_path / "set" / "it's.csv"
    if delimiter == "\t":
        store = open_store(path, PAIRS, 100)
        assert store.quoted >= 9
        command = pair_rows.rewrite_command(path)
    else:
        with pytest.raises(UserError, match="separates no columns, a tab does") as error:
            open_store(path, PAIRS, 100)
        command = str(error.value).rpartition(", as from: ")[2]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    wanted = [(y, " ".join(a.split()).encode(), " ".join(b.split()).encode()) for y, a, b in QUOTED]
    assert contents(open_store(tmp_path / "new.tsv", PAIRS, 100)) == wanted


def test_quotation_marks_that_mean_nothing_are_no_quoting(place):
    rows = b'0\t"Yes," he said\tsay "no"\n1\tan inch: 1"\t12" by 12"\n'
    assert open_store(place(rows), PAIRS, 100).quoted == 0
