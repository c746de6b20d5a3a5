"""`mambalab bench`: measure the operator, training, generation, batches, or recording."""

from pathlib import Path

from mambalab.bench import data, generate, report, scan, tracking, train
from mambalab.settings.bench import Benchmark, BenchSettings, ScanType
from mambalab.train import runtime


def run(settings: BenchSettings) -> int:
    """Measure, print a table, write `<what>-<device>.json` and `.png`; returns the exit status.

    Returns:
        0; 1 if a contender of ours gave wrong results (nothing is timed then).

    Raises:
        UserError: no such device, a yardstick that cannot be built, an unwritable folder.
    """
    runtime.prepare_process()
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
    print(report.table(result))
    for path in report.write(result, out):
        print(path)
    return 1 if result.wrong else 0
