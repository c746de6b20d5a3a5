import logging

import pytest

from mambalab.plots import fonts, tables


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """No fonts but matplotlib's own, nothing said yet."""
    from matplotlib import rcParams

    monkeypatch.setitem(rcParams, "font.family", ["sans-serif"])
    monkeypatch.setattr(fonts, "_lacking", set())
    monkeypatch.setattr(fonts, "_installed", tuple)


def test_what_no_font_has_is_said_once(caplog):
    with caplog.at_level(logging.WARNING, "mambalab"):
        assert fonts.with_glyphs("é 猫 ±") == "é ? ±"
        assert fonts.with_glyphs("猫 犬") == "? ?"
    assert len(caplog.records) == 1
    assert "no installed font has 猫 (U+732B)" in caplog.text


def test_an_installed_font_draws_what_ours_lacks(monkeypatch):
    from matplotlib import rcParams

    own = fonts._glyphs(fonts.OWN)
    has = {"CJK": frozenset({ord("猫"), ord("犬")}), fonts.OWN: own, "Arabic": frozenset()}
    monkeypatch.setattr(fonts, "_installed", lambda: ("Arabic", "CJK"))
    monkeypatch.setattr(fonts, "_glyphs", lambda font: has.get(font, frozenset()))
    assert fonts.with_glyphs("a 猫 犬") == "a 猫 犬"
    assert rcParams["font.family"] == [fonts.OWN, "CJK"]


@pytest.mark.filterwarnings("error")
def test_a_confusion_picture_of_classes_outside_latin(tmp_path):
    table = {"kind": "confusion", "title": "t", "classes": ["猫", "犬"], "counts": [[1, 0], [0, 1]]}
    assert tables.picture(table, tmp_path / "plots.png").stat().st_size > 0
