import re
import zlib

import pytest
from PIL import Image

from mambalab.errors import UserError
from mambalab.plots import curves, look
from mambalab.records.reader import read_run
from mambalab.settings.figure import FigureFormat, FigureSettings
from tests.records.example_runs import make_run

ALL = [FigureFormat[name] for name in ("png", "svg", "pdf")]


def asked(**what) -> FigureSettings:
    nothing = dict.fromkeys(("width", "font", "font_size", "format"))
    return FigureSettings(**{**nothing, **what})


def test_text_stays_text_and_the_width_is_what_was_asked_for(tmp_path):
    run_dir = make_run(tmp_path / "run")
    figure = asked(width=8.5, font="monospace", font_size=7, format=ALL)
    paths = curves.loss_pictures(run_dir, figure=figure)
    assert [path.name for path in paths] == ["loss.png", "loss.svg", "loss.pdf"]
    with Image.open(paths[0]) as image:
        assert image.width == pytest.approx(8.5 / 2.54 * 300, abs=1)
    svg = paths[1].read_text()
    assert re.search(r"<text[^>]*>step \(optimiser updates\)</text>", svg)
    assert "monospace" in svg
    pdf = paths[2].read_bytes()
    streams = [zlib.decompress(s) for s in re.findall(rb"FlateDecode.*?stream\n(.*?)endstream", pdf,
                                                      re.DOTALL)[:1]]  # fmt: skip
    assert b"/FontFile2" in pdf + b"".join(streams)  # TrueType, its letters are text
    assert b"/Type3" not in pdf


def test_a_run_says_how_its_pictures_look_and_the_command_has_the_last_word(tmp_path):
    wanted = {"width": 10, "format": ["pdf", "exe"], "font": 3, "font_size": None}
    run = read_run(make_run(tmp_path / "run", figure=wanted))
    assert look.figure_of(run) == asked(width=10, format=[FigureFormat.pdf])
    chosen = look.with_defaults(asked(format=[FigureFormat.svg]), run)
    assert chosen == asked(width=10, format=[FigureFormat.svg])
    assert look.figure_of(read_run(make_run(tmp_path / "old"))) == asked()


def test_a_font_that_is_not_here_is_a_line_before_and_a_fallback_after(caplog, tmp_path):
    with pytest.raises(UserError, match="no such font is installed"):
        look.check_font(asked(font="Nowhere Sans"))
    look._say_missing.cache_clear()
    assert curves.loss_picture(make_run(tmp_path / "run", figure={"font": "Nowhere Sans"})).exists()
    assert "not installed here: pictures have DejaVu Sans" in caplog.text


def test_a_page_shows_one_file_of_each_picture(tmp_path):
    names = ["a.pdf", "a.svg", "a.png", "b.svg", "b.pdf", "c.pdf"]
    shown = look.shown_first([tmp_path / name for name in names])
    assert [path.name for path in shown] == ["a.png", "b.svg", "c.pdf"]
