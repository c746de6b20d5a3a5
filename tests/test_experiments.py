"""Every ready-made experiment runs: a few steps of a small model on its own data and settings."""

import os
import re
from functools import cache
from pathlib import Path

import pytest
import torch

from mambalab import config
from mambalab.bench import lra_corpus
from mambalab.cli import main
from mambalab.config import paths
from mambalab.config.compose import compose_parts
from mambalab.config.overrides import assignment, prepare
from mambalab.data.catalog import CATALOG
from mambalab.errors import UserError
from mambalab.models.heads import count_parameters
from mambalab.runs import build, training
from mambalab.spec import ModelSpec
from mambalab.sweep.plan import Plan, plan
from mambalab.tasks import cifar10, lra_image
from mambalab.tasks.images import ImageData
from tests.tasks.toys import made

EXPERIMENTS = paths.options("experiment")
# Those of the sources: test_sources.py. A search runs what the experiment beside it runs.
RUN = [n for n in EXPERIMENTS if not n.startswith("sources/") and not n.endswith("/search")]
SHORT = [
    "trainer.max_steps=2",
    "trainer.max_minutes=null",
    "trainer.eval_every=1000",
    "trainer.checkpoint_every=1000",
    "trainer.log_every=1",
    "model.d_model=8",
    "model.n_layer=2",
    "model.d_state=2",
    "tracking=jsonl",
    "device=cpu",
]
FEW = {  # what makes an evaluation short
    "induction_heads": ["task.eval_sequences=2", "task.longest=2", "task.batch_size=2"],
    "selective_copying": ["task.eval_sequences=2", "task.seq_len=64", "task.batch_size=2"],
    "shakespeare": ["task.val_fraction=0.002"],
    "retrieval": ["task.path=corpus", "task.max_bytes=200", "task.batch_size=2"],
    "cifar10": ["task.batch_size=4"],
    "mnist": ["task.batch_size=4", "task.input_dim=28"],
    "listops": [
        *("task.train_size=9", "task.val_size=4", "task.test_size=4", "task.batch_size=2"),
        "data_dir=made",
    ],
    "pixels": [
        *("task.data=digits", "task.colour=false", "task.size=4", "task.val_size=9"),
        "task.batch_size=4",
    ],
    "diffusion": [
        *("task.data=digits", "task.size=4", "task.val_size=9", "task.batch_size=4"),
        "task.eval_samples=2",
    ],
    "diffusion/text": ["task.eval_samples=2", "task.batch_size=4", "trainer.sample_chars=9"],
    "lra_image": ["task.val_size=4", "task.batch_size=2"],
}


# Where twenty images are enough: all 60,000 are read by cifar10/cpu, and pixel by pixel would take
# minutes.
FEW_IMAGES = {"lra_image": lra_image, "cifar10/cpu_30": cifar10, "cifar10/gpu": cifar10}


def is_sweep(name: str) -> bool:
    """Whether an experiment, or one that it builds on, lists values: as the text of its file has
    it, for a composition of each would take every process of the tests seconds."""
    text = (paths.package_conf() / f"experiment/{name}.yaml").read_text()
    bases = re.findall(r"^ *- /experiment/([\w/]+)", text, re.MULTILINE)
    return "\n  params:" in text or any(map(is_sweep, bases))


SWEEPS = [name for name in EXPERIMENTS if is_sweep(name)]


@cache
def planned(name: str) -> Plan:
    """An experiment with all of its jobs, which for the large sweeps takes seconds."""
    return plan([f"experiment={name}"])


def first_of(name: str) -> list[str]:
    """The overrides that make the first of its jobs of a sweep."""
    params = compose_parts("train", prepare("train", [f"experiment={name}"])).sweep["params"]
    return [assignment(key, values[0], paths.groups()) for key, values in params.items() if values]


@pytest.mark.parametrize("name", RUN)
def test_an_experiment_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = planned(name).first.task.name
    data = CATALOG["shakespeare" if name == "diffusion/text" else task]
    data_dir = Path(os.environ.get("MAMBALAB_DATA_DIR", "data"))
    if task == "retrieval":
        lra_corpus.write(tmp_path / "corpus", train=12, eval=6, test=6, size=300, seed=1)
    elif module := FEW_IMAGES.get(name, FEW_IMAGES.get(task)):
        few = ImageData(list("abc"), made(20, 3, 32, 32), made(4, 3, 32, 32), {"path": "made"})
        monkeypatch.setattr(module, "read_cifar10", lambda *where: few)
    elif data.missing(data_dir):
        pytest.skip(f"no {data.title}: set MAMBALAB_DATA_DIR to a folder that holds it")
    options = [*SHORT, *FEW.get(name, FEW.get(task, []))]
    if name in FEW_IMAGES:
        options.append("task.val_size=4")
    if name in SWEEPS:  # the first of its jobs: the others differ in a value or two
        assert training.run(plan([f"experiment={name}", *options, *first_of(name)]).first) == 0
    else:
        assert main.main(["train", f"experiment={name}", *options]) == 0
    (summary,) = tmp_path.glob("outputs/*/*/*/summary.json")
    assert '"status": "FINISHED"' in summary.read_text()


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_says_so(name):
    with pytest.raises(UserError, match=f"write mambalab train -m experiment={name}$"):
        config.compose("train", [f"experiment={name}"])
    found = planned(name)
    if found.ranges:  # a search: its jobs are drawn one after the other
        assert not found.jobs
        assert found.settings.trials >= 9
        return
    assert len(found.jobs) == len({job.name for job in found.jobs}) >= 9


OURS = [n for n in EXPERIMENTS if "/" in n and n not in SWEEPS and n in RUN]


@pytest.mark.parametrize("name", OURS)
def test_both_models_have_the_same_number_of_parameters(name):
    counts = []
    for model in ("mamba", "transformer"):
        cfg = config.compose("train", [f"experiment={name}", f"model={model}"])
        spec = ModelSpec(vocab_size=256, seq_len=64, classes=10)
        with torch.device("meta"):
            counts.append(count_parameters(build.build_model(cfg, spec)))
    assert abs(counts[1] / counts[0] - 1) < 0.03, counts
