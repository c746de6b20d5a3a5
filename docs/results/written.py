"""Blocks on models that write pictures: bits a dimension beside PNG and WebP, sheets of samples."""

from docs.results import searches
from docs.results.old import EXPERIMENTS, load, picture, table
from docs.results.studies import Study, comparison, group, study
from mambalab.compare.results import GroupResult
from mambalab.compare.statistics import Estimate
from mambalab.compare.text import interval
from mambalab.errors import UserError

ORDERS = {"pixels": "pixel by pixel", "diffusion": "diffusion, an upper bound"}
PICTURES = {"digits": "digits, 8 x 8 in 17 levels", "mnist": "MNIST, 28 x 28 in 16 levels"}
CODECS = {"png": "PNG", "webp": "WebP, lossless"}
SHEETS = {  # picture below `experiments/`: what it shows
    "pixels/mnist/samples.png": "36 digits that Mamba wrote pixel by pixel",
    "pixels/mnist/completions.png": "eight digits completed from their upper half by Mamba",
    "diffusion/mnist/samples.png": "36 digits that Mamba filled in by diffusion",
    "diffusion/mnist/strip.png": "a digit as diffusion fills it in, from nothing to the whole",
}


def _studies(pictures: str) -> dict[str, Study]:
    """The recorded studies of one kind of pictures, by the order of writing."""
    found = {order: study(f"{order}/{pictures}") for order in ORDERS}
    return {order: one for order, one in found.items() if one.recorded}


def _group(of: Study, model: str) -> GroupResult | None:
    try:
        return group(comparison(of), f"model={model}")
    except UserError:
        return None


def _cell(estimate: Estimate | None, seeds: int) -> str:
    return f"{interval(estimate)} ({seeds} {'seed' if seeds == 1 else 'seeds'})"


def _codec_rows() -> list[list[str]]:
    """Bits a dimension of PNG and WebP: each picture in its file, and all in one."""
    rows = []
    for key, title in CODECS.items():
        cells = []
        for pictures in PICTURES:
            name = f"pixels/{pictures}/codecs.json"
            if not (EXPERIMENTS / name).is_file():
                cells.append("not measured")
                continue
            bits = load(name)["bits_per_dim"]
            cells.append(f"{bits[f'{key}_all']:.3f} (a file each: {bits[key]:.3f})")
        rows.append([f"{title}, all pictures in one file", *cells])
    return rows


def bits(up: str) -> str:
    """Bits a dimension on the test split of every model, beside the codecs."""
    del up
    columns = {pictures: _studies(pictures) for pictures in PICTURES}
    if not any(columns.values()):
        return "Not measured yet."
    rows = []
    for order, told in ORDERS.items():
        for model in searches.MODELS:
            found = [
                _group(columns[p][order], model) if order in columns[p] else None for p in PICTURES
            ]
            if any(found):
                cells = [
                    _cell(one.test, len(one.seeds)) if one else "not measured" for one in found
                ]
                rows.append([f"`{model}`, {told}", *cells])
    return (
        "Bits a dimension (a pixel) on the test split, less is better; the models of a column "
        "trained for equal times.\n\n" + table(["", *PICTURES.values()], [*rows, *_codec_rows()])
    )


def sheets(up: str) -> str:
    """Pictures that recorded models wrote."""
    there = {EXPERIMENTS / name: told for name, told in SHEETS.items()}
    shown = [picture(up, path, told) for path, told in there.items() if path.is_file()]
    return "\n\n".join(shown) or "No samples are kept yet."


BLOCKS = {"written": bits, "sheets": sheets}
