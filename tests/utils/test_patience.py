import pytest

from mambalab.errors import UserError
from mambalab.utils.patience import VARIABLE, patient


@pytest.mark.parametrize(
    ("given", "seconds"), [("", 6.0), ("10", 60.0), ("0.5", 3.0), ("1e2", 600.0)]
)
def test_waits_are_longer_by_the_factor(monkeypatch, given, seconds):
    monkeypatch.setenv(VARIABLE, given)
    assert patient(6.0) == seconds


def test_without_it_waits_are_as_usual(monkeypatch):
    monkeypatch.delenv(VARIABLE)
    assert patient(6.0) == 6.0


@pytest.mark.parametrize("given", ["0", "-1", "1e-300", "1e308", "inf", "nan", "long"])
def test_what_is_no_factor_is_told(monkeypatch, given):
    monkeypatch.setenv(VARIABLE, given)
    with pytest.raises(UserError, match=f"{VARIABLE}={given}: a factor for waits must be"):
        patient(6.0)
