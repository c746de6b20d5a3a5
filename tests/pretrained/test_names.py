"""Names of tensors as wrappers change them."""

from pathlib import Path

import pytest
import torch

from mambalab.errors import UserError
from mambalab.pretrained.names import unwrapped

FOLDER = Path("ck")
PLAIN = (
    *("backbone.embeddings.weight", "backbone.layers.0.mixer.A_log", "backbone.layers.0.mixer.D"),
    *("backbone.layers.0.mixer.x_proj.weight", "backbone.norm_f.weight", "lm_head.weight"),
)


def table(*names):
    return {name: torch.full((1,), float(number)) for number, name in enumerate(names)}


def test_plain_names_are_left_alone(caplog):
    caplog.set_level("INFO", "mambalab")
    assert unwrapped(table(*PLAIN), FOLDER) == table(*PLAIN)
    assert unwrapped(table("x", "y.z"), FOLDER) == table("x", "y.z")
    assert not caplog.text


@pytest.mark.parametrize(
    "change",
    [
        *(
            lambda n, p=p: p + n
            for p in ("_orig_mod.", "module.", "model.", "_fsdp_wrapped_module.", "net.inner.")
        ),
        lambda n: "module._orig_mod.model." + n,
        lambda n: n.replace("layers.0.", "layers.0._fsdp_wrapped_module._orig_mod."),
        lambda n: "model." + n.replace("x_proj.", "x_proj._checkpoint_wrapped_module."),
        lambda n: n.removeprefix("backbone."),
        lambda n: "model." + n.removeprefix("backbone."),
        lambda n: n if n == "lm_head.weight" else "model." + n.removeprefix("backbone."),
    ],
)
def test_wrapped_names(caplog, change):
    caplog.set_level("INFO", "mambalab")
    assert unwrapped(table(*map(change, PLAIN)), FOLDER) == table(*PLAIN)
    first = next(name for name in PLAIN if change(name) != name)
    assert f"ck: tensors are taken by other names, {change(first)} as {first}\n" in caplog.text


def test_strangers_among_them_stay(caplog):
    names = ["model." + name for name in PLAIN]
    assert set(unwrapped(table(*names, "loss.weight"), FOLDER)) == {*PLAIN, "loss.weight"}


def test_names_that_can_be_read_in_two_ways():
    twice = [p + name for p in ("model.", "ema.") for name in PLAIN]
    with pytest.raises(
        UserError, match=r"several models, behind 'ema\.backbone\.' and 'model\.back"
    ):
        unwrapped(table(*twice), FOLDER)
    with pytest.raises(UserError, match=r"_orig_mod\.lm_head\.weight are one tensor: drop one"):
        unwrapped(table(*PLAIN, "_orig_mod.lm_head.weight"), FOLDER)
