"""Blocks on models that write pictures: bits a dimension beside simple codes, sheets of samples."""

from itertools import product

from docs.results import searches
from docs.results.old import EXPERIMENTS, load, picture, table
from docs.results.one_study import comparison
from docs.results.studies import study
from mambalab.compare.results import GroupResult
from mambalab.compare.text import interval

ORDERS = {"pixels": "pixel by pixel", "diffusion": "diffusion, an upper bound"}
PICTURES = {"digits": "digits, 8 x 8 in 17 levels", "mnist": "MNIST, 28 x 28 in 16 levels"}
CODECS = {"png": "PNG", "webp": "WebP, lossless"}
HISTOGRAMS = {  # codes by frequencies in the training split
    "histogram": "frequency of each level",
    "histogram_places": "frequency of each level at each place",
}
SHEETS = {  # picture below `experiments/`: what it shows
    "pixels/mnist/samples.png": "36 samples that Mamba wrote pixel by pixel, with learned "
    "positions, and eight digits that it completed from their upper half: the last sheet of its "
    "training, at temperature 1",
    "diffusion/mnist/samples.png": "36 samples that Mamba filled in by diffusion: "
    "`mambalab generate num_samples=36 steps=392 temperature=0.8`, two pixels a step and likelier "
    "values than at temperature 1, so they do not compare with those above",
    "diffusion/mnist/strip.png": "Samples of the same run as diffusion fills them in, from nothing "
    "on: `frames=strip.png`",
}
TEXTS = {  # file below `experiments/`: what it shows
    "diffusion/text/stages.txt": "A line with gaps as diffusion fills them in: steps, and what "
    "stands there then",
}


def _models(order: str, pictures: str) -> dict[tuple[str, bool], GroupResult]:
    """The groups of a study by model and whether positions are learnt; empty without a record."""
    of = study(f"{order}/{pictures}")
    best: dict[tuple[str, bool], GroupResult] = {}
    for result in comparison(of).groups if of.recorded else []:  # the best first
        name, placed = map(result.group.setting, ("model.name", "model.position_embedding"))
        best.setdefault((str(name), bool(placed)), result)
    return best


def _cell(result: GroupResult | None) -> str:
    if result is None:
        return "not measured"
    seeds = len(result.seeds)
    return f"{interval(result.test)} ({seeds} {'seed' if seeds == 1 else 'seeds'})"


def _codec_rows() -> list[list[str]]:
    """Bits a dimension of PNG and WebP, each picture in its file and all in one, and of
    frequencies."""
    files = [f"pixels/{pictures}/codecs.json" for pictures in PICTURES]
    found = [load(f)["bits_per_dim"] if (EXPERIMENTS / f).is_file() else {} for f in files]

    def cells(key: str, more: str | None = None) -> list[str]:
        told = []
        for bits in found:
            alone = f" (a file each: {bits[more]:.3f})" if more in bits else ""
            told.append(f"{bits[key]:.3f}{alone}" if key in bits else "not measured")
        return told

    codecs = [
        [f"{title}, all pictures in one file", *cells(f"{key}_all", key)]
        for key, title in CODECS.items()
    ]
    return codecs + [[title, *cells(key)] for key, title in HISTOGRAMS.items()]


def bits(up: str) -> str:
    """Bits a dimension on the test split of every model, beside the codecs."""
    del up
    rows = []
    for order, told in ORDERS.items():
        columns = [_models(order, pictures) for pictures in PICTURES]
        for model, placed in product(searches.MODELS, (False, True)):
            if any((model, placed) in column for column in columns):
                cells = [_cell(column.get((model, placed))) for column in columns]
                places = ", learned positions" * placed
                rows.append([f"`{model}`{places}, {told}", *cells])
    if not rows:
        return "Not measured yet."
    return (
        "Bits a dimension (a pixel) on the test split, less is better; the models of a column "
        "trained for as many steps as two quiet cores take in equal times, by timings that were "
        "not kept. Columns do not compare with each other, nor with figures of other sizes or "
        "levels; a mean of three seeds is no pair of a single one.\n\n"
        + table(["", *PICTURES.values()], [*rows, *_codec_rows()])
        + "\n\nThe bits of a model leave out the model itself, those of frequencies their tables; "
        "both come from the training pictures, while PNG and WebP are codecs for any picture. "
        "Learned positions are parameters more, which the studies above count; Transformers have "
        "their rotary positions beside them."
    )


def sheets(up: str) -> str:
    """Pictures and texts that recorded models made."""
    there = {EXPERIMENTS / name: told for name, told in SHEETS.items()}
    shown = [
        f"{picture(up, path, told.partition(':')[0])}\n\n*{told}.*"
        for path, told in there.items()
        if path.is_file()
    ]
    for name, told in TEXTS.items():
        if (path := EXPERIMENTS / name).is_file():
            text = path.read_text(encoding="utf-8").rstrip("\n")
            shown.append(f"{told} (`experiments/{name}`):\n\n```text\n{text}\n```")
    return "\n\n".join(shown) or "No samples are kept yet."


BLOCKS = {"written": bits, "sheets": sheets}
