"""Values that an experiment gives each model."""

import pytest

from mambalab.config import resolvers
from mambalab.config.compose import compose
from mambalab.errors import UserError
from mambalab.sweep.plan import plan


@pytest.fixture
def tuned(workdir):
    path = workdir / "conf/experiment/tuned.yaml"
    path.parent.mkdir(parents=True)

    def write(values):
        path.write_text(f"# @package _global_\noptim:\n  lr: ${{by_model:{{{values}}}}}\n")

    return write


@pytest.mark.parametrize(
    ("words", "lr"),
    [
        (["model=mamba"], 8e-3),
        (["model=transformer"], 4e-3),
        (["model=hybrid"], 2e-3),
        (["model=transformer", "optim.lr=0.5"], 0.5),
        (["model=transformer", "model.name=mine"], 4e-3),  # a name is for people
    ],
)
def test_each_model_has_its_own(tuned, words, lr):
    tuned("mamba:8e-3,transformer:4e-3,other:2e-3")
    assert compose("train", ["experiment=tuned", *words]).optim.lr == lr


def test_a_sweep_over_models_gives_each_its_own(tuned):
    tuned("mamba:8e-3,transformer:4e-3")
    jobs = plan(["experiment=tuned", "model=mamba,transformer"]).jobs
    assert [job.config.optim.lr for job in jobs] == [8e-3, 4e-3]


def test_a_model_without_a_value_is_named(tuned):
    tuned("mamba:8e-3")
    with pytest.raises(UserError, match=r"optim.lr: .*no value for model=hybrid; add it"):
        compose("train", ["experiment=tuned", "model=hybrid"])


def test_a_model_that_nobody_tuned_is_told(tuned, caplog):
    resolvers._tell_other.cache_clear()
    tuned("mamba:8e-3,other:2e-3")
    with caplog.at_level("INFO", logger="mambalab"):
        for model in ("mamba", "transformer_equal_depth", "hybrid", "hybrid"):
            compose("train", ["experiment=tuned", f"model={model}"])
    assert caplog.messages == [
        "model=hybrid takes the values that this experiment has for other models (`other`)"
    ]
