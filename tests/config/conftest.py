"""An empty working directory for every test: what is written there is the user's own."""

import pytest


@pytest.fixture(autouse=True)
def _in_an_empty_folder(workdir):
    pass
