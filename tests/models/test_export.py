"""torch.export with lengths and batches that vary, while the parameters want gradients."""

import pytest
import torch
from torch.export import Dim

from mambalab.models.mamba import Mamba
from mambalab.settings.model import ScanBackend


@pytest.mark.parametrize("pattern", ["MA", "SF"])
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_any_length_and_batch_of_a_model_that_trains(build_model, backend, pattern):
    model = build_model(pattern=pattern, scan_backend=ScanBackend[backend], n_layer=2)
    shapes = ({0: Dim("batch", min=2), 1: Dim("length", min=2, max=4096)},)
    example = torch.randint(17, (2, 12))
    module = torch.export.export(model, (example,), dynamic_shapes=shapes).module()
    for rows, length in ((2, 2), (5, 65), (3, 130)):
        tokens = torch.randint(17, (rows, length))
        torch.testing.assert_close(module(tokens), model(tokens))
    module(tokens).logsumexp(-1).sum().backward()
    model(tokens).logsumexp(-1).sum().backward()
    found = dict(module.named_parameters())
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name].grad, weight.grad)


def test_any_length_of_a_mixer(build_settings):
    mixer = Mamba(build_settings()).eval()
    shapes = ({1: Dim("length", min=2, max=4096)},)
    exported = torch.export.export(mixer, (torch.randn(1, 100, 32),), dynamic_shapes=shapes)
    for length in (2, 64, 65, 300):
        hidden = torch.randn(1, length, 32)
        torch.testing.assert_close(exported.module()(hidden), mixer(hidden))
