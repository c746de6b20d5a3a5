import logging
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from mambalab.data import pair_convert, pair_rows, pair_store
from mambalab.data.pair_rows import LRA, PAIRS
from mambalab.data.pair_store import count_rows, open_store
from mambalab.errors import UserError
from tests.overheard import overhear

OPEN = (
    "import sys; from pathlib import Path; from mambalab.data.pair_store import open_store;"
    "from mambalab.data.pair_rows import PAIRS; open_store(Path(sys.argv[1]), PAIRS, 100)"
)


pytestmark = pytest.mark.usefixtures("cache")


def contents(store) -> list[tuple[str, bytes, bytes]]:
    """Every pair of a store, by way of what a model gets."""
    texts, lengths = store.documents(np.arange(len(store)))
    cut = [
        [bytes(text[:length]) for text, length in zip(*pair, strict=True)]
        for pair in zip(texts, lengths, strict=True)
    ]
    assert all(
        text[length:].sum() == 0
        for text, length in zip(texts.reshape(-1, texts.shape[2]), lengths.flat, strict=True)
    )
    return [(store.classes[y], *both) for y, both in zip(store.labels, cut, strict=True)]


def random_rows(count: int, seed: int = 0) -> list[tuple[str, bytes, bytes]]:
    random = np.random.default_rng(seed)
    letters = np.array(list("abc \"'\\,;é中\r"))
    rows = []
    for _ in range(count):
        texts = ["x" + "".join(random.choice(letters, random.integers(0, 60))) + "y" for _ in "ab"]
        rows.append((["no", "yes", "ähm"][random.integers(3)], *(t.encode() for t in texts)))
    return rows


def as_tsv(rows, end: bytes = b"\n") -> bytes:
    return b"".join(b"\t".join((y.encode(), a, b)) + end for y, a, b in rows)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("max_bytes", [7, 1000])
def test_a_store_holds_what_the_file_does(place, end, max_bytes):
    rows = random_rows(300)
    store = open_store(place(as_tsv(rows, end)), PAIRS, max_bytes)
    assert contents(store) == [(y, a[:max_bytes], b[:max_bytes]) for y, a, b in rows]
    assert store.classes == ("no", "yes", "ähm")
    assert (store.lines, store.rejected, len(store)) == (300, 0, 300)
    assert store.labels.dtype == np.int16


def test_small_chunks_lose_nothing(place, monkeypatch):
    monkeypatch.setattr(pair_convert, "_IO_BYTES", 64)
    rows = random_rows(200)
    assert contents(open_store(place(as_tsv(rows)), PAIRS, 1000)) == rows


def test_lra_rows_with_either_spelling_of_the_label(place):
    path = place(b'0.0\tA1\tB1\t"quoted" text\tb\n1.0\tA2\tB2\tc\td"\n1\tx\ty\te\tf\n0\tx\ty\tg\th')
    store = open_store(path, LRA, 4000)
    assert contents(store) == [
        ("0", b'"quoted" text', b"b"),
        ("1", b"c", b'd"'),
        ("1", b"e", b"f"),
        ("0", b"g", b"h"),
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_label(place):
    store = open_store(place(b"\xef\xbb\xbfa\tx\ty\nb\tx\ty\n"), PAIRS, 10)
    assert store.classes == ("a", "b")


def test_blanks_around_a_label_make_no_other_class(place):
    store = open_store(place(b" same\tx\ty\nsame\tx\ty\nother \tx\ty\n"), PAIRS, 10)
    assert store.classes == ("other", "same")
    assert store.labels.tolist() == [1, 1, 0]


BAD = {
    b"1.0\tA\tB\tone text": "4 columns instead of 5 (label, id1, id2, text1, text2)",
    b"": "1 column instead of 5 (label, id1, id2, text1, text2)",
    b"2.0\tA\tB\tx\ty": "label '2.0' (allowed: 0.0, 1.0, 0, 1)",
    b"1.0\tA\tB\t\ty": "empty text (column 4)",
    b"1.0\tA\tB\tx\t  ": "empty text (column 5)",
    b"1.0\tA\tB\tx\0x\ty": "NUL byte (if the file is UTF-16, convert it to UTF-8)",
    b"1.0\tA\tB\tx\t\xffy": "broken UTF-8 (byte 0xff, the line's byte 11, column 5)",
    b"1.0\tA\tB\tx\t" + b"y" * 200: "longer than 100 bytes",
    b"\t" * 500: "longer than 100 bytes",
}


def test_malformed_rows_are_left_out_and_reported(place, monkeypatch, caplog):
    monkeypatch.setattr(pair_rows, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(pair_rows.lines, "__defaults__", (100,))
    good = b"0.0\tA\tB\tgood\trow"
    path = place(b"".join(good + b"\n" + bad + b"\n" for bad in BAD) + good)
    store = open_store(path, LRA, 10)
    assert contents(store) == [("0", b"good", b"row")] * (len(BAD) + 1)
    assert (store.lines, store.rejected) == (2 * len(BAD) + 1, len(BAD))
    expected = [f"{path}:{2 * n}: {reason}" for n, reason in enumerate(BAD.values(), 1)]
    assert (store.folder / "rejected.txt").read_text().splitlines() == expected
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    for n, reason in enumerate(BAD.values(), 1):
        assert f"{path}, line {2 * n}: left out: {reason}" in warned
    assert f"{len(BAD)} of {2 * len(BAD) + 1} rows were left out" in warned[-1]
    assert str(store.folder / "rejected.txt") in warned[-1]


def test_ten_rejected_rows_are_logged_one_by_one_and_their_number_every_time(place, caplog):
    path = place(b"a\tx\ty\nb\tx\ty\n" + b"bad\n" * 25)
    open_store(path, PAIRS, 10)
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert sum("left out: 1 column " in line for line in lines) == 10
    assert len(lines) == 11
    caplog.clear()
    store = open_store(path, PAIRS, 10)
    assert [r.getMessage()[: len(str(path)) + 15] for r in caplog.records] == [
        f"{path}: 25 of 27 rows"
    ]
    assert len((store.folder / "rejected.txt").read_text().splitlines()) == 25


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"one column\nanother\n", r"none of its 2 rows can be used \(line 1: 1 column "),
        ("label\tä\tö\n".encode("utf-16"), r"none of its \d rows can be used \(line 1: NUL byte"),
        ("1\tä\tö\n".encode("utf-16"), r"; the file is UTF-16, not UTF-8; convert it: iconv"),
        ("1\tcafé\tnot so\n".encode("cp1252") * 9, "probably ISO-8859-1; convert it: iconv"),
        (
            b"".join(b"%d\ta text\tanother\n" % n for n in range(1001)),
            "line 1,001: more than 1,000 different labels",
        ),
    ],
)
def test_a_file_of_no_use_is_refused_and_nothing_stays(place, content, message):
    path = place(content)
    with pytest.raises(UserError, match=message) as error:
        open_store(path, PAIRS, 10)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert os.listdir(path.parent) == [path.name]


def test_absent_files_and_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*none\.tsv \(task\.path\)"):
        open_store(tmp_path / "none.tsv", PAIRS, 10)
    with pytest.raises(UserError, match="is no regular file"):
        open_store(tmp_path, PAIRS, 10)


def test_a_file_is_converted_once_for_each_cut(place, caplog):
    caplog.set_level(logging.INFO)
    path = place(as_tsv(random_rows(20)))
    first, again = open_store(path, PAIRS, 9), open_store(path, PAIRS, 9)
    other = open_store(path, PAIRS, 10)
    assert first.folder == again.folder != other.folder
    assert first.sha256 == again.sha256 != other.sha256
    said = [r.getMessage() for r in caplog.records if "once, into" in r.getMessage()]
    assert len(said) == 2
    assert str(first.folder.parent) in said[0]
    assert sorted(os.listdir(first.folder)) == ["documents.bin", "index.npz", "rejected.txt"]


def test_a_changed_file_is_converted_again_and_an_open_store_stays_readable(place):
    rows, others = random_rows(20), random_rows(20, seed=1)
    path = place(as_tsv(rows))
    old = open_store(path, PAIRS, 1000)
    path.write_bytes(as_tsv(others))
    new = open_store(path, PAIRS, 1000)
    assert contents(new) == others
    assert contents(old) == rows
    assert os.listdir(new.folder.parent) == [new.folder.name]
    os.utime(path, ns=(1, 1))
    assert open_store(path, PAIRS, 1000).sha256 == new.sha256


def test_the_digest_is_of_texts_labels_and_classes(place):
    def digest(content: bytes) -> str:
        return open_store(place(content), PAIRS, 100).sha256

    same = [b"a\tx\tyz\nb\tx\ty\n", b"a\tx\tyz\nbad\nb\tx\ty\r\n"]
    others = [b"a\txy\tz\nb\tx\ty\n", b"b\tx\tyz\na\tx\ty\n", b"a\tx\tyz\nc\tx\ty\n"]
    assert len({digest(content) for content in same}) == 1
    assert len({digest(content) for content in same + others}) == 4


@pytest.mark.parametrize("name", ["documents.bin", "index.npz"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_store_is_made_again_and_said_so(place, caplog, name, damage):
    rows = random_rows(20)
    path = place(as_tsv(rows))
    file = open_store(path, PAIRS, 1000).folder / name
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    assert contents(open_store(path, PAIRS, 1000)) == rows
    assert "cannot be used" in caplog.text


def test_a_store_that_is_cut_under_the_reader_is_named(place):
    store = open_store(place(as_tsv(random_rows(20))), PAIRS, 1000)
    os.truncate(store.folder / "documents.bin", 10)
    with pytest.raises(UserError, match="was cut short"):
        store.documents(np.arange(20))


def test_a_folder_that_cannot_be_written_leaves_the_cache(place, cache, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    rows = random_rows(20)
    path = place(as_tsv(rows))
    real = os.mkdir

    def refuse(folder, *rest, **named):
        if str(folder).startswith(str(path.parent)):
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder, *rest, **named)

    monkeypatch.setattr(os, "mkdir", refuse)  # for root, every folder can be written
    store = open_store(path, PAIRS, 1000)
    assert contents(store) == rows
    assert store.folder.parent.parent == cache
    assert f"{path.parent} cannot be written (Permission denied)" in caplog.text
    assert f"once, into {cache}" in caplog.text
    assert open_store(path, PAIRS, 1000).folder == store.folder
    monkeypatch.setenv("XDG_CACHE_HOME", str(path.parent / "cache"))
    with pytest.raises(UserError, match=r"cannot write .*Permission denied.*XDG_CACHE_HOME") as e:
        open_store(path, PAIRS, 1000)
    assert "\n" not in str(e.value)


def test_a_relative_cache_folder_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pair_store._cache_home(tmp_path / "a.tsv").is_relative_to(tmp_path / ".cache")


def test_a_full_disk_is_named_and_nothing_stays(place):
    path = place(as_tsv(random_rows(3000)))
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));" + OPEN
    )
    done = subprocess.run([sys.executable, "-c", limited, str(path)], capture_output=True)
    assert done.returncode == 1
    assert f"cannot write {path}.store (File too large)" in done.stderr.decode()
    assert os.listdir(path.parent) == [path.name]


def test_a_file_that_changes_while_it_is_read_is_refused(place, monkeypatch):
    path = place(as_tsv(random_rows(20)))
    real = pair_store.convert

    def change(*arguments):
        real(*arguments)
        with path.open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(pair_store, "convert", change)
    with pytest.raises(UserError, match="changed while it was read"):
        open_store(path, PAIRS, 1000)
    assert os.listdir(path.parent) == [path.name]


SLOW = (
    "import sys; from mambalab.data import pair_store; real = pair_store.convert\n"
    "def slow(*arguments):\n"
    "    real(*arguments); print('half', flush=True); sys.stdin.readline()\n"
    "pair_store.convert = slow\n"
) + OPEN


def test_a_killed_conversion_leaves_nothing_that_counts(place):
    rows = random_rows(50)
    path = place(as_tsv(rows))
    command = [sys.executable, "-c", SLOW, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout as said:
        assert said.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    home = path.with_name(path.name + ".store")
    assert [name for name in os.listdir(home) if not name.startswith(("unfinished-", "."))] == []
    store = open_store(path, PAIRS, 100)
    assert contents(store) == [(y, a[:100], b[:100]) for y, a, b in rows]
    assert os.listdir(home) == [store.folder.name]


def test_processes_that_start_together_convert_once(place):
    path = place(as_tsv(random_rows(50)))
    command = [sys.executable, "-c", SLOW, str(path)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(2)]
    told = "another process is converting"
    said = overhear(processes, told, lambda: [p.stdin.close() for p in processes])
    assert [process.wait(300) for process in processes] == [0, 0], said
    assert "".join(p.stdout.read() for p in processes).count("half") == 1
    assert "".join(said).count(told) == 1
    for process in processes:
        process.stdout.close()
    (name,) = os.listdir(path.with_name(path.name + ".store"))
    assert name.startswith("pairs-100-")


def test_a_store_is_for_everybody_who_may_read_the_folder(place):
    before = os.umask(0o022)
    try:
        folder = open_store(place(as_tsv(random_rows(5))), PAIRS, 10).folder
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_converting_takes_little_memory_whatever_the_size(place):
    # A child's peak over that of its imports, for a file of 60 MB with a line of 20 MB.
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from mambalab.data.pair_store import open_store\n"
        "from mambalab.data.pair_rows import PAIRS\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); open_store(Path(sys.argv[1]), PAIRS, 4000); print(peak() - before)"
    )
    row = b"\t".join((b"a", b"text " * 2000, b"other" * 2000)) + b"\n"
    path = place(row * 2000 + b"b\tx\t" + b"long" * 5_000_000 + b"\n")
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=3600)
    assert int(done.stdout) < 120_000 * (1024 if sys.platform == "darwin" else 1)  # kB
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - used < 20  # a busy machine waits


def test_rows_are_counted_with_and_without_a_final_end(place):
    assert count_rows(place(b"a\nb\n")) == count_rows(place(b"a\nb")) == 2
    assert count_rows(place(b"")) == 0


def test_a_user_without_a_home_has_a_folder_for_the_converted_texts(tmp_path, monkeypatch):
    import pwd

    def unknown(_):
        raise KeyError("uid not found")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ours = f"mambalab-cache-{os.getuid()}"
    home = pair_store._cache_home(tmp_path / "a.tsv")
    assert home.is_relative_to(tmp_path / ours)
    (tmp_path / ours).rmdir()
    (tmp_path / ours).symlink_to(tmp_path)  # a stranger was first
    home = pair_store._cache_home(tmp_path / "a.tsv")
    assert not home.is_relative_to(tmp_path / ours)
