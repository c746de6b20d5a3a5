"""The emulator and its cache of compiled kernels; skips where Triton cannot compile."""

import pytest

CACHE = "ptx"


@pytest.fixture
def ptx_cache(request, monkeypatch, tmp_path):
    """Triton's cache in the folder of pytest's own: kernels compile when they change only."""
    cache = getattr(request.config, "cache", None)
    folder = cache.mkdir(CACHE) if cache is not None else tmp_path
    monkeypatch.setenv("TRITON_CACHE_DIR", str(folder))


@pytest.fixture
def emulator_of(ptx_cache):
    """A function from the compute capability (80 for sm_80) to an emulator of such a GPU."""
    pytest.importorskip("triton", reason="triton has no wheel for this machine")
    from tests.ptx import small
    from tests.ptx.emulator import Emulator

    if why := small.obstacle():
        pytest.skip(f"triton cannot compile to PTX here: {why}")
    undo = []

    def make(arch=90, modules=()):
        emulator = Emulator(arch)
        undo.append(emulator.install(*modules))
        return emulator

    yield make
    for restore in undo:
        restore()
