"""How large pictures are, with which letters, and in which files: what `figure.*` asks for.

`drawn_as` says it for all pictures that are made inside its block; `points`, `inches` and
`new_figure` answer to whoever draws.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambalab.errors import UserError
from mambalab.plots import fonts
from mambalab.records.reader import RunRecord
from mambalab.settings.figure import FigureFormat, FigureSettings, PlainFigureSettings
from mambalab.utils.console import LOG
from mambalab.utils.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CM_PER_INCH = 2.54
WIDTH_INCHES = 7.2  # of a picture with one panel
AXIS_POINTS = 9.0  # size of the name of an axis
DOTS_PER_INCH = 150
NARROW_DOTS_PER_INCH = 300  # of a picture made for paper
# Text stays text: it can be searched, and edited in a drawing program.
_TEXT: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "mambalab"}
_DATES = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}


@dataclass(frozen=True)
class Look:
    """What is asked of pictures; None = as they are for a screen.

    Attributes:
        width: in inches.
        scale: of all letters.
    """

    width: float | None = None
    scale: float = 1.0


_FOR_SCREENS = Look()
_LOOK: ContextVar[Look | None] = ContextVar("look", default=None)


@contextlib.contextmanager
def drawn_as(figure: PlainFigureSettings | None) -> Iterator[None]:
    """Draw pictures inside the block as `figure.*` says; None = for a screen.

    A font that is not installed is replaced, which is said.
    """
    from matplotlib import rc_context

    look, letters = _FOR_SCREENS, dict(_TEXT)
    if isinstance(figure, FigureSettings):
        width = None if figure.width is None else figure.width / CM_PER_INCH
        look = Look(width, (figure.font_size or AXIS_POINTS) / AXIS_POINTS)
    if figure is not None and figure.font is not None:
        if fonts.is_installed(figure.font):
            letters["font.family"] = [figure.font, fonts.OWN]
        else:
            _say_missing(figure.font)
    token = _LOOK.set(look)
    try:
        letters["font.size"] = 10.0 * look.scale
        with rc_context(letters):
            yield
    finally:
        _LOOK.reset(token)


def check_font(figure: PlainFigureSettings) -> None:
    """Raise UserError if the font that pictures are to have is not installed here."""
    if figure.font is not None and not fonts.is_installed(figure.font):
        raise UserError(
            f"figure.font={figure.font}: no such font is installed; "
            f"leave it out, or take one of those that `fc-list : family` lists{_near(figure.font)}"
        )


def _near(font: str) -> str:
    from difflib import get_close_matches

    found = get_close_matches(font, fonts.families(), n=1)
    return f"; did you mean {found[0]}?" if found else ""


@cache
def _say_missing(font: str) -> None:
    LOG.warning("figure.font=%s is not installed here: pictures have %s", font, fonts.OWN)


def figure_of(run: RunRecord) -> FigureSettings:
    """Return what a run asks of its pictures; nothing where an older one, or a damaged file, says
    nothing that makes sense."""
    names = ("width", "font", "font_size")
    asked: dict[str, Any] = {name: run.setting(f"figure.{name}") for name in names}
    for name, kind in (("width", int | float), ("font", str), ("font_size", int | float)):
        value = asked[name]
        if not isinstance(value, kind) or isinstance(value, bool) or not value:
            asked[name] = None
    listed = run.setting("figure.format")
    known = FigureFormat.__members__
    formats = [known[n] for n in listed if n in known] if isinstance(listed, list) else None
    return FigureSettings(format=formats or None, **asked)


def with_defaults(figure: FigureSettings | None, run: RunRecord) -> FigureSettings:
    """Fill what `figure` leaves open with what a run asks of its pictures."""
    own = figure_of(run)
    if figure is None:
        return own
    chosen = {name: getattr(figure, name) for name in vars(own)}
    return FigureSettings(**{k: getattr(own, k) if v is None else v for k, v in chosen.items()})


def points(size: float) -> float:
    """Return a size of letters in points, larger or smaller where `figure.font_size` says so."""
    return size * (_LOOK.get() or _FOR_SCREENS).scale


def inches(natural: float = WIDTH_INCHES) -> float:
    """Return the width of a picture: what `figure.width` says, else its natural one."""
    return (_LOOK.get() or _FOR_SCREENS).width or natural


def new_figure(width: float, height: float) -> "Figure":
    """Make a figure of this size in inches, or of the asked width and a height that fits it."""
    from matplotlib.figure import Figure

    wide = inches(width)
    dots = DOTS_PER_INCH if wide >= WIDTH_INCHES else NARROW_DOTS_PER_INCH
    return Figure(figsize=(wide, height * wide / width), dpi=dots, layout="constrained")


def save(figure: "Figure", target: Path) -> Path:
    """Write a picture, in the format that its name says, so that readers see the old or the new
    one; returns its path.

    Raises:
        UserError: if it cannot be written.
    """
    from matplotlib import rc_context

    kind = target.suffix[1:]
    try:
        target.parent.mkdir(exist_ok=True)
        with replacing(target) as partial, rc_context(_TEXT):
            figure.savefig(partial, format=kind, metadata=_DATES.get(kind, {}))
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from error
    return target


def save_all(
    figure: "Figure",
    stem: Path,
    asked: PlainFigureSettings | None,
    default: Sequence[str] = ("png",),
) -> list[Path]:
    """Write a picture in every format that is asked for; returns the paths.

    Args:
        figure: the picture.
        stem: its path without the ending.
        asked: its `format` counts.
        default: the formats if none is asked for.

    Raises:
        UserError: if one cannot be written.
    """
    names = dict.fromkeys(one.name for one in asked.format) if asked and asked.format else default
    return [save(figure, stem.with_name(f"{stem.name}.{name}")) for name in names]


def shown_first(paths: Sequence[Path]) -> list[Path]:
    """Choose one file of each picture for a page: PNG, else SVG, else PDF (which is linked)."""
    best: dict[str, Path] = {}
    rank = {".png": 0, ".svg": 1, ".pdf": 2}
    for path in paths:
        kept = best.get(path.stem)
        if kept is None or rank.get(path.suffix, 3) < rank.get(kept.suffix, 3):
            best[path.stem] = path
    return list(best.values())
