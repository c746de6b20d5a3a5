"""`mambalab doctor`: check this machine, one line a thing: ok, or what to do."""

import contextlib
import importlib.util
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING

from mambalab.errors import UserError, first_line
from mambalab.settings.rules import DEVICE, DEVICE_HINT, FOLDER, option
from mambalab.utils import console

if TYPE_CHECKING:
    import torch


@dataclass
class DoctorSettings:
    """`mambalab doctor`."""

    output_dir: str = option("folder where runs go", **FOLDER)
    data_dir: str = option("folder of the data sets", **FOLDER)
    device: str = option(DEVICE_HINT, match=DEVICE, hint=DEVICE_HINT)


# One module of each package that is imported by name somewhere: what fails when it is broken.
MODULES = (
    *("torch", "numba", "numpy", "scipy.special", "safetensors.torch", "tokenizers", "hydra"),
    *("omegaconf", "mlflow.store.tracking.sqlalchemy_store", "matplotlib.figure", "pyarrow"),
    *("huggingface_hub", "PIL.Image", "yaml", "packaging", "tqdm", "filelock", "optuna"),
)
DISPENSABLE = {"mlflow": "or use tracking=jsonl"}
EXTRAS = ("slurm", "wandb", "tensorboard")
NEWEST_PYTHON = (3, 14)  # as in pyproject.toml

Finding = tuple[str, str, str]
"""Mark (`ok`, `--` for something optional that is absent, `!!`), what was checked, the result."""


def run(settings: DoctorSettings) -> int:
    """Print one line a check; returns 1 if something that training needs is broken."""
    broken = False
    for mark, what, result in _findings(settings):
        console.result(f"{mark}  {what:<12} {result}")
        broken |= mark == "!!"
    return 1 if broken else 0


def _findings(settings: DoctorSettings) -> Iterator[Finding]:
    checks: list[tuple[str, Callable[[DoctorSettings], Iterator[Finding]]]] = [
        ("python", _python),
        ("packages", _packages),
        ("torch", _torch),
        ("device", _device),
        ("triton", _triton),
        ("cpu kernels", _cpu_kernels),
        ("data", _data),
        ("outputs", _outputs),
        ("mlflow", _mlflow),
    ]
    for what, check in checks:
        try:
            yield from check(settings)
        except UserError as error:
            yield "!!", what, str(error)
        except Exception as error:  # a broken installation fails in its own ways; say how
            line = " ".join(str(error).split())[:200]
            yield "!!", what, f"{type(error).__name__}: {line}"


def _python(_settings: DoctorSettings) -> Iterator[Finding]:
    found = f"{platform.python_version()} on {platform.platform(terse=True)}"
    if sys.version_info[:2] <= NEWEST_PYTHON:  # one that is too old imports nothing
        yield "ok", "python", f"{found} (3.11 to 3.14 will do)"
    else:
        yield (
            "!!",
            "python",
            f"{found}; take 3.11 to 3.14: pyarrow has no wheels for newer",
        )


def _packages(_settings: DoctorSettings) -> Iterator[Finding]:
    from mambalab.tracking import mlflow_store
    from mambalab.utils import packages

    versions = []
    for name in ("mambalab", "hydra-core", "numba", "safetensors", "mlflow"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    for name in ("wandb", "tensorboard"):  # for those who have them
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    yield "ok", "packages", ", ".join(versions)
    extras = [r for extra in EXTRAS for r in packages.requirements(extra)]
    for requirement in [*packages.requirements(), *extras]:
        if (why := packages.obstacle(requirement)) is not None:
            yield "!!", "packages", why
    mlflow_store.prepare_environment()
    for module in MODULES:
        name = module.partition(".")[0]
        try:
            import_module(module)
        except ImportError as error:
            if importlib.util.find_spec(name) is None and name in DISPENSABLE:
                mend = packages.pip_install(name)
                yield "--", name, f"not installed: {mend}, {DISPENSABLE[name]}"
            else:
                yield "!!", "packages", packages.told(error) or f"{name}: {first_line(error)}"
        except Exception as error:  # of a package that is broken in a way of its own
            yield "!!", "packages", f"{name}: {type(error).__name__}: {first_line(error)}"


def _torch(_settings: DoctorSettings) -> Iterator[Finding]:
    import torch

    yield "ok", "torch", f"{torch.__version__}, {torch.get_num_threads()} CPU threads"


def _device(settings: DoctorSettings) -> Iterator[Finding]:
    from mambalab.settings.train import Precision
    from mambalab.train import gpu, runtime

    device = runtime.choose_device(settings.device)
    precision = runtime.choose_precision(Precision.auto, device)
    yield "ok", "device", f"{runtime.device_name(device)}; precision=auto is {precision.value}"
    if device.type == "cpu":
        why = gpu.unused() or "none that torch can use"
        yield "--", "gpu", f"{why}; training runs on the CPU"
    if device.type == "mps":
        yield "--", "gpu", "Apple GPU: the torch backend runs there, but is untested"


def _triton(settings: DoctorSettings) -> Iterator[Finding]:
    import torch

    from mambalab.ops import backend
    from mambalab.train import runtime

    if importlib.util.find_spec("triton") is None:
        yield "--", "triton", "not installed (only needed on an NVIDIA GPU)"
        return
    found = f"{metadata.version('triton')} installed"
    if not torch.cuda.is_available():
        yield "--", "triton", f"{found}; its kernels are for NVIDIA GPUs, and torch can use none"
        return
    device = runtime.choose_device(settings.device)
    if device.type != "cuda":
        device = torch.device("cuda")
    if why := backend.obstacle("triton", device, torch.float32):
        yield "--", "triton", f"{found}; not used, training on the GPU will be slow: {why}"
    else:
        yield _checked("triton", device)


def _cpu_kernels(_settings: DoctorSettings) -> Iterator[Finding]:
    import torch

    from mambalab.ops import backend

    if why := backend.obstacle("cpu", torch.device("cpu"), torch.float32):
        yield "--", "cpu kernels", f"not used, training on the CPU will be slow: {why}"
    else:
        yield _checked("cpu", torch.device("cpu"))


def _checked(backend: str, device: "torch.device") -> Finding:
    """Compile the kernels of a backend and compare their output and gradients with float64."""
    from mambalab.ops import check

    what = f"{backend} kernels" if backend == "cpu" else backend
    cases = check.cases(device)
    start = time.monotonic()
    worst = 0.0
    for case in cases:
        error = check.compare(backend, device, case)
        if not error <= case.allowed:
            which = f" ({case.name})" if len(cases) > 1 else ""
            advice = "please report this; use scan_backend=torch"
            return "!!", what, f"wrong by {error:.1e}{which}: {advice}"
        if case.dtype.itemsize == 4:
            worst = max(worst, error)
    seconds = time.monotonic() - start
    names = f": {', '.join(case.name for case in cases)}" if len(cases) > 1 else ""
    return "ok", what, f"compiled or loaded in {seconds:.1f} s, right to {worst:.0e}{names}"


def _data(settings: DoctorSettings) -> Iterator[Finding]:
    from mambalab.data.catalog import CATALOG

    folder = Path(settings.data_dir).expanduser()
    for name, dataset in CATALOG.items():
        if not dataset.needs_download:
            continue
        try:
            dataset.verify(folder)
        except UserError as error:
            yield "!!", "data", f"{name}: {error}"
            continue
        here = dataset.missing(folder) == []
        advice = f"not in {folder}: mambalab data fetch {name} (offline: {dataset.offline})"
        yield ("ok", "data", f"{name} in {folder}") if here else ("--", "data", advice)


def _outputs(settings: DoctorSettings) -> Iterator[Finding]:
    from mambalab.utils.files import obstacle

    if why := obstacle(Path(settings.output_dir)):
        raise UserError(f"output_dir={settings.output_dir}: {why}; choose another folder")
    yield "ok", "outputs", f"runs go to {Path(settings.output_dir).absolute()}"


def _mlflow(settings: DoctorSettings) -> Iterator[Finding]:
    if importlib.util.find_spec("mlflow") is None:
        return
    from mambalab.tracking import mlflow_store, store_state

    uri = mlflow_store.store_uri(None, Path(settings.output_dir))
    mlflow_store.check(uri)
    if line := mlflow_store.origin(None):
        yield "ok", "mlflow", line.removeprefix("MLflow: ")
        return
    path = Path(settings.output_dir, mlflow_store.STORE)
    if not path.exists():
        yield "ok", "mlflow", f"{path} is made by the first run"
        return
    root = mlflow_store.artifact_root(uri, Path(settings.output_dir))
    old = store_state.foreign_root(path.absolute(), str(root))
    client = mlflow_store.connect(uri, Path(settings.output_dir))
    count = len(client.search_experiments())
    yield "ok", "mlflow", f"{path} opens, {count} experiment{'' if count == 1 else 's'}"
    if old is not None:
        yield "ok", "mlflow", f"{path} was moved; it named artifacts in {old}, now in {root}"
