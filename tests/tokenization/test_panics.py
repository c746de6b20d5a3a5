"""The tokenizers library panics where others raise."""

import pytest

from mambalab.errors import UserError
from mambalab.tokenization.tokenizer import FileTokenizer, _panics_as_errors


class PanicException(BaseException):
    """What the library's binding raises: no Exception."""


def test_a_panic_is_an_error_and_an_interrupt_is_none():
    with pytest.raises(RuntimeError, match="wild regex"), _panics_as_errors():
        raise PanicException("wild regex")
    with pytest.raises(KeyboardInterrupt), _panics_as_errors():
        raise KeyboardInterrupt


@pytest.mark.parametrize("content", ["[" * 100_000, "1" * 5000, "{}", '{"model": 1}'])
def test_odd_files_are_one_line(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError) as caught:
        FileTokenizer(tmp_path / "tokenizer.json")
    assert "\n" not in str(caught.value)
