import math

import pytest
import torch

from mambalab.errors import UserError
from mambalab.train.checks import check_loss, check_metrics, describe_changes

WEIGHT = torch.ones(3, requires_grad=True)


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (WEIGHT * 2, r"not a tensor \(3,\): take the mean"),
        (1.5, "not float"),
        (None, "not NoneType"),
        ((WEIGHT * 2).mean().detach(), "does not depend on the model's weights"),
    ],
)
def test_a_loss_that_cannot_be_trained_on(loss, why):
    with pytest.raises(UserError, match=why):
        check_loss(loss)
    check_loss(WEIGHT.mean())


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        (None, "not NoneType"),
        ({"val/loss": torch.tensor(1.5)}, r"val/loss as Tensor, .* or \.item\(\)"),
        ({"val/acc": 0.5}, "must return val/loss, .*; it returned val/acc"),
        ({}, "it returned nothing"),
    ],
)
def test_metrics_that_choose_nothing(metrics, why):
    with pytest.raises(UserError, match=why):
        check_metrics(metrics, "val/loss")
    found = check_metrics({"val/loss": 1.5, "val/ok": True, "val/none": None}, "val/loss")
    assert (found["val/loss"], found["val/ok"]) == (1.5, True)
    assert math.isnan(found["val/none"])


def test_what_changed_about_data_is_said():
    before = {"sha256": "a", "path": "x", "rows": "60"}
    now = {"sha256": "b", "path": "y", "rows": "72", "transparent": "4 images"}
    assert describe_changes(before, now) == (
        " (rows: 60 before, 72 now; transparent: none before, 4 images now)"
    )
    assert describe_changes(before, before | {"path": "z"}) == ""
