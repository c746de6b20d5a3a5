import io
import logging
import sys

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
