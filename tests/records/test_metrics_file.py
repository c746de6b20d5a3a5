"""metrics.jsonl while it is written: what others do to it is noticed, mended and said."""

import errno
import os
import shutil

import pytest

from mambalab.records import metrics_file
from mambalab.records.metrics_file import FolderGoneError, FolderWatch, MetricsFile

LINES = [b'{"step": %d, "a": 0.5}\n' % n for n in range(5)]


@pytest.fixture
def file(tmp_path):
    with MetricsFile(tmp_path) as it:
        for line in LINES[:3]:
            it.append(line)
        assert it.sync() == []
        yield it


def test_lines_are_counted_and_go_on(file, tmp_path):
    assert (file.rows, file.size) == (3, len(b"".join(LINES[:3])))
    with MetricsFile(tmp_path) as again:
        assert [step for step, _ in again.old] == [0, 1, 2]
        again.append(LINES[3])
        assert again.rows == 4
    assert file.path.read_bytes() == b"".join(LINES[:4])


@pytest.mark.parametrize("how", ["deleted", "renamed"])
def test_a_file_that_went_is_written_again(file, tmp_path, how):
    if how == "deleted":
        file.path.unlink()
    else:
        file.path.rename(tmp_path / "mine.jsonl")
    file.append(LINES[3])
    (said,) = file.sync()
    assert "was renamed or deleted while the run trained: it is written again" in said
    file.append(LINES[4])
    assert file.sync() == []
    assert file.path.read_bytes() == b"".join(LINES)


def test_a_file_in_its_place_is_set_aside(file, tmp_path):
    file.path.unlink()
    file.path.write_text("mine")
    assert "the other file is metrics.jsonl.old1 now" in file.sync()[0]
    assert (tmp_path / "metrics.jsonl.old1").read_text() == "mine"
    assert file.path.read_bytes() == b"".join(LINES[:3])


@pytest.mark.parametrize(("size", "left"), [(0, 0), (len(LINES[0]) + 5, 1)])
def test_a_file_that_was_cut_goes_on_after_its_last_whole_line(file, size, left):
    os.truncate(file.path, size)
    file.append(LINES[3])
    (said,) = file.sync()
    assert "was changed by another program" in said
    assert file.path.read_bytes() == b"".join([*LINES[:left], LINES[3]])
    assert file.rows == left + 1


def test_a_folder_that_went_is_never_made_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    watch = FolderWatch(folder)
    watch.check()
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(FolderGoneError, match="renamed or deleted while the run trained"):
        watch.check()
    folder.mkdir()  # another one of this name
    with pytest.raises(FolderGoneError):
        watch.check()
    shutil.rmtree(folder)
    (tmp_path / "elsewhere").rename(folder)
    watch.check()


def test_a_copy_by_hard_links_does_not_grow(file, tmp_path):
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy/metrics.jsonl"
    os.link(file.path, copy)
    with MetricsFile(tmp_path) as again:
        again.append(LINES[3])
    assert copy.read_bytes() == b"".join(LINES[:3])
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(LINES[:4])


def test_a_full_disk_leaves_no_half_line(file, monkeypatch):
    write = os.write

    def full(descriptor, data):
        if len(data) < 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:-4])

    with monkeypatch.context() as patch:
        patch.setattr(metrics_file.os, "write", full)
        with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
            file.append(LINES[3])
    assert file.path.read_bytes() == b"".join(LINES[:3])
    file.append(LINES[3])
    assert file.rows == 4
