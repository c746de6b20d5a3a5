"""Does the checking check? Small kernels with a mistake, and without."""

import pytest
import torch

pytest.importorskip("triton", reason="triton has no wheel for this machine")

from tests.ptx import small
from tests.ptx.program import EmulatorError

F32 = torch.float32


@pytest.fixture(autouse=True)
def machine(emulator_of):
    """Skips where there is none."""


@pytest.mark.parametrize("warps", [1, 4])
def test_a_missing_barrier_is_a_race(warps):
    x = torch.randn(512)
    fresh = [(512, F32), (512, F32)]
    made, found = small.run(small.turn_kernel, (2,), x, fresh=fresh, BARRIER=True, num_warps=warps)
    assert found == []
    assert torch.equal(made[0].view(2, 256), x.view(2, 256).flip(1))
    _, found = small.run(small.turn_kernel, (2,), x, fresh=fresh, BARRIER=False, num_warps=warps)
    assert any("race: read after write" in what for what in found)


def test_reading_beyond_a_tensor_is_an_error():
    x = torch.randn(500)
    made, found = small.run(small.copy_kernel, (4,), x, 500, fresh=[(500, F32)], MASK=True, SHIFT=0)
    assert (found, torch.equal(made[0], x)) == ([], True)
    for mistake in ({"MASK": False, "SHIFT": 0}, {"MASK": True, "SHIFT": 1}):
        with pytest.raises(EmulatorError, match=r"out of bounds|outside the tensor"):
            small.run(small.copy_kernel, (4,), x, 500, fresh=[(500, F32)], **mistake)
    rows = torch.zeros(10, 100)[:, :50]
    with pytest.raises(EmulatorError, match="outside the tensor's elements"):
        small.run(small.copy_kernel, (4,), rows, 400, fresh=[(400, F32)], MASK=True, SHIFT=0)


def test_memory_that_was_not_written_shows():
    _, found = small.run(
        small.copy_kernel, (1,), None, 100, fresh=[(128, F32)] * 2, MASK=True, SHIFT=0
    )
    assert any("read before written: x_ptr" in what for what in found)
    x = torch.randn(500)
    _, found = small.run(small.copy_kernel, (3,), x, 300, fresh=[(500, F32)], MASK=True, SHIFT=0)
    assert found == ["unwritten: 200"]


def test_programs_that_write_to_one_place_race():
    _, found = small.run(small.overlap_kernel, (3,), None, fresh=[(256, F32)])
    assert any("another CTA" in what or "two CTAs" in what for what in found)


def test_arithmetic_is_that_of_torch():
    n = 1000
    x = torch.cat([torch.randn(500) * 10, torch.linspace(-30, 30, 500)])
    x[:7] = torch.tensor([0.0, -0.0, 1e-8, -70000.0, 100.0, 3.0e-8, 5.96e-8])
    fresh = [(n, F32), (n, torch.float16), (n, torch.bfloat16)]
    (y, half, brain), found = small.run(
        small.arithmetic_kernel, (1,), x, n, fresh=fresh, BLOCK=1024, num_warps=4
    )
    assert found == []
    d, i = x.double(), torch.arange(n)
    want = torch.exp2(d) + d.abs().sqrt() + torch.log2(d.abs() + 1) + 1 / (1 + d * d)
    want += torch.where(d > 0, torch.fmod(d, 3), 1.0)
    want += (d.trunc().to(torch.int64) * i).to(torch.int32)
    torch.testing.assert_close(y.double(), want, rtol=1e-6, atol=1e-6)
    assert torch.equal(half, x.half())
    assert torch.equal(brain, x.bfloat16())
