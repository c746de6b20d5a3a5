"""Settings of pictures: how wide, with which letters, in which formats (no matplotlib here)."""

from dataclasses import dataclass
from enum import Enum

from mambalab.errors import UserError
from mambalab.settings.rules import option

FigureFormat = Enum("FigureFormat", {"png": "png", "svg": "svg", "pdf": "pdf"})


@dataclass
class PlainFigureSettings:
    """`figure` of pictures whose size follows from what they show.

    Attributes:
        font, format: see the lines of help.
    """

    font: str | None = option(
        "family of the letters in pictures, as in Liberation Serif; null = DejaVu Sans",
        match=r"\S[^\x00-\x1f,]{0,98}",
        hint="the name of one installed font",
    )
    format: list[FigureFormat] | None = option(  # pyright: ignore[reportInvalidTypeForm]
        "formats of pictures, as in pdf,png; null = png, and svg of comparisons"
    )

    def check(self) -> None:
        """Raise UserError for a list without a format."""
        if self.format == []:
            raise UserError("figure.format=[]: name at least one of png, svg, pdf")


@dataclass
class FigureSettings(PlainFigureSettings):
    """`figure` of all other pictures.

    Attributes:
        width: of the page or column that a picture is made for, in centimetres.
        font_size: of axis names; titles are a little larger, numbers a little smaller.
    """

    width: float | None = option(
        "width of a picture in cm, as in 8.5 for a column; null = 18.3, more for many panels",
        ge=4,
        le=100,
    )
    font_size: float | None = option("size of axis names in points; null = 9", ge=4, le=40)
