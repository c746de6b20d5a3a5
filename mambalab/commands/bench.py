"""`mambalab bench`: measure the operator, training, generation, batches, or recording."""

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mambalab.errors import UserError
from mambalab.settings.rules import DEVICE, DEVICE_HINT, FOLDER, NAME, NAME_HINT, option
from mambalab.utils import console


class Benchmark(Enum):
    """What `mambalab bench` can measure."""

    scan = "scan"
    train = "train"
    generate = "generate"
    data = "data"
    tracking = "tracking"


class ScanType(Enum):
    """Element types of the scan's inputs."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass
class BenchSettings:
    """`mambalab bench scan|train|generate|data|tracking`."""

    what: Benchmark = option(
        "what to measure: the operator, whole training steps, tokens written, tasks' batches, or "
        "recording"
    )
    device: str = option(DEVICE_HINT, match=DEVICE, hint=DEVICE_HINT)
    dtype: ScanType = option("scan: element type of the inputs")
    shapes: list[str] | None = option("scan: shapes BxLxD; null = those of the targets")
    lengths: list[int] | None = option(
        "sequence lengths (generate: contexts) of the picture; null = the usual", ge=1
    )
    batches: list[int] | None = option("generate: sequences at once; null = 1, 8, 32", ge=1)
    seconds: float = option("time to spend on each contender and shape; at most 200 calls", gt=0)
    yardstick: str | None = option("scan on a CPU: a C++ file to compare with (fwd and bwd)")
    tune: bool = option(
        "scan: find how the backward is best cut on this NVIDIA GPU, and write that to "
        "mambalab/ops/triton/tuned.json; nothing else is measured"
    )
    out: str = option("folder for the JSON file and the picture", **FOLDER)
    peers: bool = option(
        "generate: also compare with transformers, if it is installed, at the size of mamba-130m "
        "(3 GB of memory)"
    )
    d_model: int = option("train, generate: width of the models", ge=8)
    n_layer: int = option("train, generate: layers of the models", ge=1)
    tokens: int = option("train: tokens in a step, spread over sequences", ge=64)
    tasks: list[str] | None = option("data: which tasks; null = all", match=NAME, hint=NAME_HINT)
    data_dir: str = option("data: folder of the data sets", **FOLDER)
    processes: int = option("tracking: processes that record together", ge=1)
    metrics: int = option("tracking: points that each records", ge=10)

    def check(self) -> None:
        """Raise UserError for shapes that cannot be read, and for tuning anything but the scan."""
        if self.tune and self.what is not Benchmark.scan:
            raise UserError(
                f"tune=true: tunes the scan; use mambalab bench scan, not {self.what.value}"
            )
        for shape in self.shapes or []:
            if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", shape):
                raise UserError(f"shapes: {shape}: write BxLxD, e.g. shapes=[16x256x256]")


def run(settings: BenchSettings) -> int:
    """Measure, print a table, write `<what>-<device>.json` and `.png`; returns the exit status.

    Returns:
        0; 1 if a contender of ours gave wrong results (nothing is timed then).

    Raises:
        UserError: no such device, a yardstick that cannot be built, an unwritable folder.
    """
    from mambalab.bench import data, generate, report, scan, tracking, train, tune
    from mambalab.train import runtime

    runtime.prepare_process()
    if settings.tune:
        console.result(tune.run(runtime.choose_device(settings.device), settings.seconds))
        return 0
    out = Path(settings.out).expanduser()
    report.check_writable(out)
    device = runtime.choose_device(settings.device)
    if settings.what is Benchmark.scan:
        dtype = settings.dtype.value if settings.dtype is not ScanType.auto else None
        result = scan.measure(
            device, dtype, settings.shapes, settings.lengths, settings.seconds, settings.yardstick
        )
    elif settings.what is Benchmark.data:
        result = data.measure(device, settings.tasks, settings.seconds, settings.data_dir)
    elif settings.what is Benchmark.tracking:
        result = tracking.measure(device, settings.processes, settings.metrics)
    elif settings.what is Benchmark.generate:
        result = generate.measure(
            device,
            settings.lengths,
            settings.batches,
            settings.seconds,
            d_model=settings.d_model,
            n_layer=settings.n_layer,
            peers=settings.peers,
        )
    else:
        result = train.measure(
            device,
            settings.lengths,
            settings.seconds,
            d_model=settings.d_model,
            n_layer=settings.n_layer,
            tokens=settings.tokens,
        )
    console.result(report.as_text(result))
    for path in report.write(result, out):
        console.result(path)
    return 1 if result.wrong else 0
