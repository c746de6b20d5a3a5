"""What tests of several rooms need: small models, a working directory, a store, a server."""

import dataclasses
import os
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as the command line does, before torch
os.environ["HF_HOME"] = str(Path(__file__).parent / "no-cache-of-the-hub")  # nor a token
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("MAMBALAB_PATIENCE", "20")  # waits end by the event, on a busy machine too
for name in ("HF_TOKEN", "HF_HUB_CACHE", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)

import hypothesis
import pytest
import torch

from mambalab.data.catalog import CATALOG
from mambalab.models.heads import LanguageModel
from mambalab.settings.model import DropoutSettings, ModelSettings, Pooling, Rotary, ScanBackend
from mambalab.settings.task import TextSettings
from mambalab.spec import ModelSpec
from tests.data.file_server import FileServer
from tests.lab import TEXT
from tests.tracking import stores

hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")

SETTINGS = ModelSettings(
    name="test",
    _target_="auto",
    pattern="M",
    d_model=32,
    n_layer=3,
    d_state=8,
    d_conv=4,
    expand=2,
    dt_rank="auto",
    dt_min=1e-3,
    dt_max=1e-1,
    dt_init_floor=1e-4,
    scan_backend=ScanBackend.auto,
    bidirectional=False,
    n_head="auto",
    d_ff="auto",
    rope_theta=10000.0,
    rotary=Rotary.sequence,
    qk_norm=False,
    patch_norm=False,
    norm_eps=1e-5,
    tie_embeddings=False,
    position_embedding=False,
    pooling=Pooling.mean,
    vocab_size=None,
    pretrained=None,
    params={},
)
NO_DROPOUT = DropoutSettings(name="none", p=0.0, ssm_p=0.0, reset_A=True)
SPEC = ModelSpec(vocab_size=17, seq_len=24)


@pytest.fixture
def build_settings():
    """A function from changed settings to ModelSettings."""
    return lambda **changes: dataclasses.replace(SETTINGS, **changes)


@pytest.fixture
def build_model():
    """A function from changed settings to a freshly initialised model in evaluation mode."""

    def build(dropout: DropoutSettings = NO_DROPOUT, **changes) -> LanguageModel:
        torch.manual_seed(0)
        if "S" in changes.get("pattern", ""):  # is repeated whole
            changes = {"n_layer": 4, **changes}
        return LanguageModel(dataclasses.replace(SETTINGS, **changes), dropout, SPEC).eval()

    return build


@pytest.fixture
def tokens():
    """(2, 24) random tokens."""
    return torch.randint(17, (2, 24), generator=torch.Generator().manual_seed(1))


TEXT_SETTINGS = TextSettings(
    name="text",
    _target_="mambalab.tasks.text.TextTask",
    batch_size=4,
    eval_batch_size=3,
    params={},
    path=None,
    tokenizer=None,
    seq_len=8,
    val_fraction=0.25,
)


@pytest.fixture
def settings():
    """A function from changed settings to TextSettings."""
    return lambda **changes: dataclasses.replace(TEXT_SETTINGS, **changes)


@pytest.fixture
def shakespeare_dir():
    """A data_dir that really holds tiny Shakespeare; skips where there is none."""
    folder = Path(os.environ.get("MAMBALAB_DATA_DIR", "data"))
    if CATALOG["shakespeare"].missing(folder):
        pytest.skip("no tiny Shakespeare: set MAMBALAB_DATA_DIR to a folder that holds it")
    return folder


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """The working directory, empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAMBALAB_DATA_DIR", raising=False)
    return tmp_path


@pytest.fixture
def write(workdir):
    """A function that writes a file below the working directory."""

    def write_file(path: str, text: str) -> None:
        target = workdir / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    return write_file


@pytest.fixture
def folder(workdir):
    """A working directory with a text in it."""
    (workdir / "text.txt").write_text(TEXT)
    return workdir


@pytest.fixture(scope="session")
def template_store(tmp_path_factory) -> Path:
    """An empty MLflow store, built once."""
    return stores.build_template(tmp_path_factory.mktemp("store"))


@pytest.fixture
def store(template_store, tmp_path) -> Path:
    """The test's own empty MLflow store, the default one for output_dir=tmp_path."""
    return stores.copy_template(template_store, tmp_path)


@pytest.fixture
def server(monkeypatch):
    """A FileServer with 600,000 bytes, reached directly whatever proxies the machine has."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    running = FileServer(bytes(range(1, 251)) * 2400)
    yield running
    running.close()
