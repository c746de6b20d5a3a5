import pytest
import torch

from mambalab.commands import doctor
from mambalab.ops import check

CPU = torch.device("cpu")


@pytest.mark.parametrize("case", check.ON_GPU, ids=lambda case: case.name)
def test_a_right_backend_passes_every_case(case):
    assert check.compare("torch", CPU, case) <= case.allowed


def test_doctor_compiles_every_form_on_a_gpu(monkeypatch):
    monkeypatch.setattr(check, "cases", lambda _: check.ON_GPU)
    monkeypatch.setattr(check, "compare", lambda backend, device, case: case.allowed / 2)
    mark, what, result = doctor._checked("triton", CPU)
    assert (mark, what) == ("ok", "triton")
    assert result.endswith("right to 5e-06: float32, bfloat16, segments, convolution")


@pytest.mark.parametrize("error", [0.5, float("nan")])
def test_doctor_names_the_form_that_is_wrong(error, monkeypatch):
    monkeypatch.setattr(check, "cases", lambda _: check.ON_GPU)
    monkeypatch.setattr(check, "compare", lambda backend, device, case: error if case.conv else 0.0)
    mark, _, result = doctor._checked("triton", CPU)
    assert mark == "!!"
    assert f"wrong by {error:.1e} (convolution): please report this" in result


def test_an_error_of_nan_is_the_largest(monkeypatch):
    exact = [torch.ones(3), torch.ones(3)]
    answers = iter([exact, [torch.ones(3), torch.full((3,), float("nan"))]])
    monkeypatch.setattr(check, "_results", lambda *_: next(answers))
    assert not check.compare("torch", CPU, check.ODD) <= 1.0
