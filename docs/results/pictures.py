"""Pictures that are drawn from records.

Two machines draw the same picture with other bytes: other fonts and versions. So a picture says, in
its PNG text, which data it was drawn from, and what its own pixels are; both are checked. It is
drawn again only when its data changed.
"""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docs.results import speed
from docs.results.images import INDUCTION
from docs.results.old import load, run, sweep_runs
from docs.results.one_study import Study, comparison
from docs.results.shakespeare import CURVES, DROPOUT, DROPOUT_PICTURE, MAIN_JOB
from docs.results.studies import STUDIES, study
from mambalab.plots.colours import COLOURS, MARKERS, colour_of, line_looks
from mambalab.plots.style import Quantity, finish, frame, legend, panels
from mambalab.plots.words import in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DATA, PIXELS = "mambalab data sha256", "mambalab pixels sha256"


@dataclass(frozen=True)
class Picture:
    """A picture of a record.

    Attributes:
        path: the PNG file.
        data: what is drawn.
        draw: draws it.
    """

    path: Path
    data: Any
    draw: "Callable[[Any], Figure]"

    @property
    def fingerprint(self) -> str:
        """Hash of what is drawn, and by which function."""
        text = json.dumps([self.draw.__name__, self.data], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def every() -> list[Picture]:
    """All pictures that the pages show and records hold."""
    job = {name: run(MAIN_JOB, name).val_loss for name in ("mamba_ssm", "transformer_standard")}
    seeds = [[r["group"], float(r["best"]), float(r["last"])] for r in sweep_runs(DROPOUT)]
    test = run("induction_heads/results.json", "mamba_cpu").test
    lengths = [[int(k.rpartition("/")[2]), v] for k, v in test.items() if "accuracy_at" in k]
    return [
        Picture(CURVES, job, main_job),
        Picture(DROPOUT_PICTURE, sorted(seeds), best_and_last),
        Picture(INDUCTION, sorted(lengths), induction),
        *(
            Picture(path, load(f"benchmarks/{name}.json"), benchmark)
            for name, path in speed.PICTURES.items()
        ),
        *(Picture(s.curves, _curves(s), study_curves) for s in STUDIES if s.recorded),
    ]


def is_current(picture: Picture) -> bool:
    """Tell whether the file was drawn from these data and nobody changed it since."""
    from PIL import Image

    if not picture.path.is_file():
        return False
    with Image.open(picture.path) as image:
        image.load()
        text = getattr(image, "text", {})
        return text.get(DATA) == picture.fingerprint and text.get(PIXELS) == _pixels(image)


def write(picture: Picture) -> None:
    """Draw it; of the same versions the same bytes."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    drawn = io.BytesIO()
    picture.draw(picture.data).savefig(drawn, format="png")
    with Image.open(drawn) as image:
        flat = image.convert("RGB")
    told = PngInfo()
    told.add_text(DATA, picture.fingerprint)
    told.add_text(PIXELS, _pixels(flat))
    flat.save(picture.path, pnginfo=told, optimize=True)


def _pixels(image: Any) -> str:
    return hashlib.sha256(repr(image.size).encode() + image.convert("RGB").tobytes()).hexdigest()


def _curves(of: Study) -> dict[str, Any]:
    found = comparison(of)
    name = found.metric.name
    curves = {g.label: [r.curves.get(name) for r in g.group.records] for g in found.groups}
    tokens = [record.summary.tokens_per_step for g in found.groups for record in g.group.records]
    about = {"folder": of.folder, "metric": name, "baseline": found.baseline}
    return {**about, "curves": curves, "tokens": tokens}


def study_curves(data: dict[str, Any]) -> "Figure":
    """Curves of a recorded study, mean and band of each group."""
    from mambalab.compare import pictures

    return pictures.curves(comparison(study(data["folder"])), data["metric"])


def main_job(data: dict[str, list[list[float]]]) -> "Figure":
    """Validation loss of both models by step."""
    figure, (axes,) = panels(1, width=7.2, height=4.0)
    told = {
        "mamba_ssm": {"model.name": "mamba", "dropout.name": "ssm"},
        "transformer_standard": {
            "model.name": "transformer_equal_depth",
            "dropout.name": "standard",
        },
    }
    names = {entry: ", ".join(in_words(*one) for one in told[entry].items()) for entry in told}
    curves = []
    for (entry, points), one in zip(data.items(), line_looks([*told.values()]), strict=True):
        steps, values = zip(*points, strict=True)
        look = {"color": one.colour, "linestyle": one.style, "marker": one.marker}
        axes.plot(steps, values, label=names[entry], markersize=4, **look)
        curves.append((list(steps), list(values)))
    loss = Quantity("validation loss (nats per character)", percent=False)
    frame(axes, curves, loss)
    legend(figure, axes)
    return finish(figure, [axes], loss, "tiny Shakespeare, one run each")


def best_and_last(data: list[list[Any]]) -> "Figure":
    """Best and last loss of every seed, a row for each setting of dropout."""
    figure, (axes,) = panels(1, width=7.2, height=3.6)
    labels = sorted({label for label, _, _ in data})
    for column, name in enumerate(("best", "last")):
        points = [(row[1 + column], labels.index(row[0])) for row in data]
        look = {"color": COLOURS[column], "marker": MARKERS[column], "linestyle": "none"}
        axes.plot(*zip(*points, strict=True), label=name, markersize=5, alpha=0.7, **look)
    words = [", ".join(in_words(*one.split("=")) for one in label.split()) for label in labels]
    axes.set_yticks(range(len(labels)), words, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("validation loss (nats per character), a point for each seed", fontsize=9)
    axes.grid(visible=True, color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    legend(figure, axes)
    return figure


def induction(data: list[list[float]]) -> "Figure":
    """Accuracy by length of the sequence."""
    from matplotlib.ticker import NullLocator, PercentFormatter, StrMethodFormatter

    figure, (axes,) = panels(1, width=7.2, height=3.2)
    lengths, values = zip(*data, strict=True)
    axes.plot(lengths, values, color=colour_of("mamba"), marker="o")
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("length of the sequence (steps, log scale), trained at 256", fontsize=9)
    axes.set_ylabel("test accuracy (% right)", fontsize=9)
    axes.grid(visible=True, color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("induction heads, Mamba, one run", fontsize=10)
    return figure


def benchmark(data: dict[str, Any]) -> "Figure":
    """The picture of a benchmark, as `mambalab bench` draws it."""
    from mambalab.bench import report

    known = {field.name for field in fields(report.Result)}
    return report.draw(report.Result(**{k: v for k, v in data.items() if k in known}))
