"""Which line is whose: the same colour for a model, or a variant of dropout, in every picture.

Colours are Okabe and Ito's, told apart with any colour vision; grey takes the place of their
yellow, which is too pale for a line. Line style and marker say the second thing that differs; where
only one does, they say it again, for print without colours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BLUE, VERMILION, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
BLACK, ORANGE, SKY, GREY = "#000000", "#E69F00", "#56B4E9", "#7F7F7F"
COLOURS = (BLUE, VERMILION, GREEN, PINK, BLACK, ORANGE, SKY, GREY)
STYLES = ("-", "--", "-.", ":")
MARKERS = "os^Dv*PX"
MODEL, DROPOUT = "model.name", "dropout.name"
OF_MODEL = {
    "mamba": BLUE,
    "transformer": VERMILION,
    "transformer_equal_depth": ORANGE,
    "hybrid": GREEN,
    "pretrained": GREY,
}
OF_DROPOUT = {
    "none": BLACK,
    "standard": GREY,
    "ssm": PINK,
    "ssm_only": SKY,
    "ssm_no_reset": GREEN,
}
_NAMED = {MODEL: OF_MODEL, DROPOUT: OF_DROPOUT}
_PLACE = {  # of a style and a marker
    MODEL: {name: i for i, name in enumerate(OF_MODEL)},
    DROPOUT: {"ssm": 0, "standard": 1, "none": 2, "ssm_only": 3, "ssm_no_reset": 4},
}


@dataclass(frozen=True)
class LineLook:
    """How a line is drawn.

    Attributes:
        colour: as `#rrggbb`.
        style, marker: as matplotlib writes them.
    """

    colour: str
    style: str
    marker: str


def line_looks(rows: Sequence[Mapping[str, str]]) -> list[LineLook]:
    """Choose how each of several groups is drawn; no two look alike, up to as many as there are
    colours.

    The order of the groups, by rank perhaps, plays no part.

    Args:
        rows: for each group its settings in which the groups differ, the first of which chooses
            the colour, the others together line style and marker.
    """
    keys = list(rows[0]) if rows else []
    keys.sort(key=lambda key: (key != MODEL, key != DROPOUT))  # stable: others stay in order
    if not keys:
        return [LineLook(COLOURS[0], STYLES[0], MARKERS[0]) for _ in rows]
    first, rest = keys[0], keys[1:]
    colours = _colours(first, [row[first] for row in rows])
    seconds = rest or [first]
    places = _places(seconds, [tuple(row[key] for key in seconds) for row in rows])
    looks = [_look(colours[row[first]], place) for row, place in zip(rows, places, strict=True)]
    if len(set(looks)) < len(looks):  # more than one table can tell: by the whole of the settings
        whole = _ranks([tuple(row[key] for key in keys) for row in rows])
        looks = [_look(COLOURS[i % len(COLOURS)], i) for i in whole]
    return looks


def colour_of(model: str | None) -> str:
    """Return the colour of a model that stands alone."""
    return OF_MODEL.get(str(model), BLUE)


def _look(colour: str, place: int) -> LineLook:
    return LineLook(colour, STYLES[place % len(STYLES)], MARKERS[place % len(MARKERS)])


def _colours(key: str, values: Sequence[str]) -> dict[str, str]:
    """Give each value its colour: that of the table, else the next one that is free."""
    named = _NAMED.get(key, {})
    chosen = {value: named[value] for value in values if value in named}
    others = [v for v in _in_order(set(values)) if v not in chosen]
    free = [c for c in COLOURS if c not in named.values()]
    free += [c for c in COLOURS if c not in (*chosen.values(), *free)]
    for i, value in enumerate(others):
        chosen[value] = (free or COLOURS)[i % len(free or COLOURS)]
    return chosen


def _places(keys: Sequence[str], values: Sequence[tuple[str, ...]]) -> list[int]:
    """Give each group the place of its line style and marker."""
    table = _PLACE.get(keys[0], {}) if len(keys) == 1 else {}
    if all(value in table for (value, *_) in values):
        return [table[value] for (value, *_) in values]
    return _ranks(values)


def _ranks(values: Sequence[tuple[str, ...]]) -> list[int]:
    order = sorted(set(values), key=lambda value: [sort_key(part) for part in value])
    return [order.index(value) for value in values]


def _in_order(values: set[str]) -> list[str]:
    return sorted(values, key=sort_key)


def sort_key(value: str) -> tuple[bool, float, str]:
    """Return by what a setting's value is ordered: numbers by size, then texts."""
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value
