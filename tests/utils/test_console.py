import io
import logging
import sys
import threading

from tqdm import tqdm

from mambalab.utils import console

LOG = logging.getLogger("mambalab")


def test_messages_are_shown_while_it_lasts(capsys):
    before = (LOG.level, LOG.propagate, list(LOG.handlers))
    with console.show_log():
        LOG.info("%s steps", 3)
        LOG.warning("slow")
        LOG.error("printed by the command line, not here")
    assert capsys.readouterr().err == "3 steps\nslow\n"
    assert (LOG.level, LOG.propagate, list(LOG.handlers)) == before


def test_nested_uses_show_a_message_once(capsys, tmp_path):
    with console.show_log(), console.log_to(tmp_path / "log"):
        with console.show_log():
            LOG.info("inside")
        LOG.info("outside")
    assert capsys.readouterr().err == "inside\noutside\n"
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["INFO inside", "INFO outside"]


def test_results_go_to_standard_output(capsys):
    console.result("a table")
    console.result("a piece", end="")
    console.result(" and the rest", end="")
    console.result()
    assert capsys.readouterr() == ("a table\na piece and the rest\n", "")


def test_a_bar_stays_below_what_is_printed(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    with tqdm(total=2, file=screen, desc="training") as bar, console.show_log():
        bar.update()
        LOG.info("a message")
    lines = screen.getvalue().replace("\r", "\n").splitlines()
    at = lines.index("a message")
    assert any(line.startswith("training") for line in lines[:at])
    assert any(line.startswith("training") for line in lines[at + 1 :])


class Terminal(io.StringIO):
    """Something like a terminal that does not know its width."""

    def isatty(self):
        return True


def width_of(columns):
    return f"{columns} columns"


def test_a_terminal_gets_a_line_in_its_width_and_a_log_all_of_it(monkeypatch, tmp_path, capsys):
    with console.show_log(), console.log_to(tmp_path / "log"):
        console.say(width_of)
        monkeypatch.setattr(sys, "stderr", screen := Terminal())
        monkeypatch.setenv("COLUMNS", "43")
        console.say(width_of, logging.WARNING)
    assert capsys.readouterr().err == "None columns\n"
    assert screen.getvalue() == "43 columns\n"
    kept = [line.split(" ", 2)[2] for line in (tmp_path / "log").read_text().splitlines()]
    assert kept == ["INFO None columns", "WARNING None columns"]


def test_what_takes_long_is_said_and_what_does_not_is_not(monkeypatch, capsys):
    monkeypatch.setattr(console, "SILENT_SECONDS", 3600.0)
    with console.show_log():
        LOG.info("a message")
        with console.meanwhile("being quick"):
            pass
        monkeypatch.setattr(console, "SILENT_SECONDS", 0.01)
        told = threading.Event()

        def handle(record):
            print(record.getMessage())
            told.set()

        monkeypatch.setattr(LOG.handlers[-1], "handle", handle)
        with console.meanwhile("reading the data"):
            assert told.wait(300)
    assert capsys.readouterr() == ("reading the data ...\n", "a message\n")


def test_bars_are_drawn_on_a_terminal_and_in_a_notebook(monkeypatch):
    assert [console.bars(stream)[1] for stream in (io.StringIO(), Terminal())] == [False, True]

    class Notebook(tqdm):
        """What tqdm.auto takes in a notebook that has ipywidgets."""

    monkeypatch.setattr("tqdm.auto.tqdm", Notebook)
    assert console.bars(io.StringIO()) == (Notebook, True)
