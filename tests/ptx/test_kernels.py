"""The compiled kernels, executed: right results, clean memory, the same bits in every order.

A few cases of every kernel; `python -m tests.ptx` runs as many as wanted.
"""

import pytest
import torch

pytest.importorskip("triton", reason="triton has no wheel for this machine")

from triton.runtime.jit import JITFunction

from mambalab.ops.triton import conv, scan_backward
from tests.ptx.cases import MODULES, NARROW, WIDE, Conv, Scan, bits, errors, run_conv, run_scan
from tests.ptx.program import EmulatorError

TOLERANCE = 1e-6
"""Largest error beyond rounding to a result's dtype, as a share of its largest value."""

SCANS = {
    "everything, bf16": Scan(length=66, plan=NARROW),
    "nothing, fp32, ragged": Scan(
        length=5, d_inner=33, d_state=3, dtype=torch.float32, options="", layout=2
    ),
    "rounds, segments, groups": Scan(
        batch=2, length=140, d_inner=18, d_state=2, groups=2, dtype=torch.float16,
        options="z final", parts=2, limit=8 * 2 * 2 * 256, plan=WIDE, layout=1,
    ),
}  # fmt: skip
CONVS = {
    "everything, bf16": Conv(),
    "nothing, fp32, ragged": Conv(length=3, options="", dtype=torch.float32, layout=2),
    "width 1, whose state is empty": Conv(length=3, width=1, options="initial"),
}


@pytest.mark.parametrize("name", SCANS)
def test_the_scan_is_right_and_clean(name, emulator_of):
    emulator = emulator_of(90, MODULES)
    outcome = run_scan(SCANS[name], emulator)
    assert errors(outcome) == pytest.approx(dict.fromkeys(outcome.exact, 0), abs=TOLERANCE)
    assert (outcome.unwritten, emulator.examples) == (0, {})
    if "segments" in name:
        assert emulator.launches["carry_kernel"] == 2, "two rounds, each of two segments"


@pytest.mark.parametrize("name", CONVS)
def test_the_convolution_is_right_and_clean(name, emulator_of):
    emulator = emulator_of(90, MODULES)
    outcome = run_conv(CONVS[name], emulator)
    assert errors(outcome) == pytest.approx(dict.fromkeys(outcome.exact, 0), abs=TOLERANCE)
    assert (outcome.unwritten, emulator.examples) == (0, {})
    emulator.max_lanes = 128  # one program at a time
    assert bits(run_conv(CONVS[name], emulator)) == bits(outcome)


def mutant(kernel, old, new):
    """The same kernel with a piece of its source replaced."""
    assert kernel.src.count(old) == 1
    changed = JITFunction(kernel.fn)
    changed._unsafe_update_src(kernel.src.replace(old, new))
    return changed


def found(run, case, emulator):
    """What is wrong with the results of a case or was found when it ran; empty if nothing."""
    try:
        outcome = run(case, emulator)
    except EmulatorError as error:
        return [str(error)]
    wrong = [f"{name}: off by {e}" for name, e in errors(outcome).items() if not e <= TOLERANCE]
    return [*wrong, *(["unwritten"] if outcome.unwritten else []), *emulator.examples]


@pytest.mark.parametrize(
    ("kernel", "old", "new"),
    [
        ("conv_kernel", "t + (k + 1 - K)", "t + (k - K)"),
        ("conv_kernel", "inside = (t < length)", "inside = (t <= length)"),
        ("conv_weight_kernel", "product(grad, x)", "(grad * x)"),  # replicas that differ
        ("conv_input_kernel", "before = (t < 0)", "before = (t < -1)"),
    ],
)
def test_a_mistake_in_the_convolution_is_seen(kernel, old, new, emulator_of, monkeypatch):
    monkeypatch.setattr(conv, kernel, mutant(getattr(conv, kernel), old, new))
    assert found(run_conv, Conv(length=15), emulator_of(90, MODULES))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("earlier = high < length", "earlier = high > length"),
        ("tl.store(carried, carry)\n        tl.store(grad_As", "tl.store(grad_As"),
        ("slope = product(slope, sigmoid(", "slope = ((slope) * sigmoid("),  # replicas that differ
    ],
)
def test_a_mistake_in_the_scan_is_seen(old, new, emulator_of, monkeypatch):
    broken = mutant(scan_backward.scan_backward_kernel, old, new)
    monkeypatch.setattr(scan_backward, "scan_backward_kernel", broken)
    case = Scan(length=70, d_inner=5, d_state=2, dtype=torch.float32, limit=1)
    assert found(run_scan, case, emulator_of(90, MODULES))
