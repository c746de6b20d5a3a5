"""Fonts of pictures: matplotlib's own, and an installed one for characters that it lacks."""

import logging
import os
from functools import cache
from pathlib import Path

from mambalab.utils.console import LOG
from mambalab.utils.private import home_is_known, private_folder

OWN = "DejaVu Sans"
_KINDS = ("sans-serif", "serif", "monospace")
MAX_FONTS = 300  # that are looked into

# What matplotlib says of folders and fonts is for programmers.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
if not home_is_known() and "MPLCONFIGDIR" not in os.environ and (_own := private_folder("plots")):
    os.environ["MPLCONFIGDIR"] = str(_own)  # or it would list all fonts at every start

_lacking: set[str] = set()


def with_glyphs(text: str) -> str:
    """Return a text with `?` for what no installed font can draw, which is said once.

    What matplotlib's own font lacks is drawn with another one from then on.
    """
    new = sorted({c for c in text if c not in _lacking and not _is_drawn(c)})
    for character in new:
        if _is_drawn(character):  # by the font of one before
            continue
        if font := _font_with(character):
            _use(font)
            continue
        if not _lacking:
            LOG.warning(
                f"no installed font has {character} (U+{ord(character):04X}), perhaps others: "
                "pictures show ? there; a font such as Noto Sans CJK has most characters"
            )
        _lacking.add(character)
    return "".join("?" if c in _lacking else c for c in text)


def _is_drawn(character: str) -> bool:
    return any(ord(character) in _glyphs(font) for font in (OWN, *_chosen()))


def _chosen() -> list[str]:
    """Return the fonts in use besides matplotlib's own."""
    from matplotlib import rcParams

    return [name for name in rcParams["font.family"] if name not in (OWN, "sans-serif")]


def _use(font: str) -> None:
    from matplotlib import rcParams

    if font not in _chosen():
        first = [name for name in rcParams["font.family"] if name != "sans-serif"]
        rcParams["font.family"] = [*first, *(() if OWN in first else (OWN,)), font]


def _font_with(character: str) -> str | None:
    """Return the name of an installed font that has a character."""
    return next((font for font in _installed() if ord(character) in _glyphs(font)), None)


def is_installed(font: str) -> bool:
    """Tell whether a family of fonts is on this machine, or a kind of which one always is."""
    return font in _KINDS or font.casefold() in {name.casefold() for name in families()}


@cache
def families() -> tuple[str, ...]:
    """Return the names of all installed families."""
    from matplotlib.font_manager import fontManager

    found = (entry.name for entry in fontManager.ttflist if Path(entry.fname).exists())
    return tuple(dict.fromkeys(found))


@cache
def _installed() -> tuple[str, ...]:
    """Return names of installed fonts, those for many scripts first."""
    names = families()
    signs = ("CJK", "Han", "Hei", "Gothic", "Song", "Unicode", "Unifont", "Noto", "Fallback")
    many = [name for name in names if any(sign in name for sign in signs)]
    return tuple(dict.fromkeys([*many, *names]))[:MAX_FONTS]


@cache
def _glyphs(font: str) -> frozenset[int]:
    """Return the characters of a font, as code points; none for one that cannot be read."""
    from matplotlib.font_manager import findfont, get_font

    try:
        return frozenset(get_font(findfont(font, fallback_to_default=False)).get_charmap())
    except (OSError, ValueError, RuntimeError):
        return frozenset()
