from pathlib import Path

import pytest

from tests import stores


@pytest.fixture(scope="session")
def template_store(tmp_path_factory) -> Path:
    """An empty MLflow store, built once."""
    return stores.build_template(tmp_path_factory.mktemp("store"))


@pytest.fixture
def store(template_store, tmp_path) -> Path:
    """The test's own empty MLflow store, the default one for output_dir=tmp_path."""
    return stores.copy_template(template_store, tmp_path)
