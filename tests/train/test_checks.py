import pytest
import torch

from mambalab.errors import UserError
from mambalab.train.checks import check_loss, check_metrics

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
    check_metrics({"val/loss": 1.5, "val/ok": True, "val/none": None}, "val/loss")
