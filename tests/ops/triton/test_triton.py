import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton has no wheel for this machine")

from mambalab.bench import sm90
from mambalab.ops.triton import conv as triton_conv
from mambalab.ops.triton import scan_backward, scan_forward, scan_segments, sums
from mambalab.ops.triton.plans import Plan

TRITON = metadata.version("triton").rpartition(".")[0]
SWITCHES = ("HAS_D", "HAS_Z", "HAS_BIAS", "HAS_START", "HAS_CARRY", "HAS_STATE", "HAS_INITIAL")
SWITCHES += ("SOFTPLUS", "SILU", "KEEP", "FINAL", "OUTPUT", "EVEN_D", "REVERSE", "HAND_ON")
SWITCHES += ("FIRST", "SECOND")
KERNELS = {
    "scan": (scan_forward.scan_kernel, {"BLOCK_T": 8, "BLOCK_D": 16}),
    "combine": (scan_segments.combine_kernel, {"BLOCK_D": 32}),
    "carry": (scan_segments.carry_kernel, {"BLOCK_T": 4, "BLOCK_D": 32}),
    "backward": (scan_backward.scan_backward_kernel, {"BLOCK_T": 4, "BLOCK_D": 32}),
    "matrix sums": (sums.matrix_sums_kernel, {"BLOCK_K": 8, "BLOCK": 128}),
    "channel sums": (sums.channel_sums_kernel, {"BLOCK_K": 64, "BLOCK_D": 32, "ROWS": 2}),
    "conv": (triton_conv.conv_kernel, {"BLOCK_T": 16, "BLOCK_D": 64, "K": 4}),
    "conv weight": (triton_conv.conv_weight_kernel, {"BLOCK_T": 16, "BLOCK_D": 64, "K": 4}),
    "conv input": (triton_conv.conv_input_kernel, {"BLOCK_T": 16, "BLOCK_D": 64, "K": 4}),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def test_kernels_agree_with_the_oracle_in_the_interpreter():
    """Runs all of tests/ops/interpreted in a process of its own: see there."""
    root = Path(__file__).parents[3]
    folder = root / "tests/ops/interpreted"
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(folder)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_the_forward_keeps_within_its_instructions_on_hopper():
    report = sm90.report_forward()
    assert report.spilled == (0, 0)
    # Older compilers widen bfloat16 after spreading it over the lanes: more shifts, the same sums.
    assert 5 < report.instructions <= {"3.6": 15, "3.7": 13}.get(TRITON, 11)
    assert report.special >= 1, "an exponential for each state: the loops were not found"


def test_the_backward_keeps_within_its_instructions_on_hopper():
    report = sm90.report_backward()
    assert report.spilled == (0, 0)
    assert 15 < report.instructions <= 45
    assert report.special >= 2, "two exponentials for each state: the loops were not found"


def test_a_narrow_backward_leaves_room_for_three_warps_on_hopper():
    report = sm90.report_backward(plan=Plan(16, 3, 168))
    assert report.spilled in {(0, 0), {"3.9": (8, 2)}.get(TRITON)}  # a word, outside of the loops
    assert report.resident() == 3
    assert 15 < report.instructions <= {"3.6": 54}.get(TRITON, 52)


def test_many_states_are_not_spilled_on_older_gpus():
    assert sm90.report_backward(64, arch=80).spilled == (0, 0)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("half", "on", "d_state"), [("fp32", False, 3), ("fp16", True, 64)])
def test_kernels_compile_for_hopper_in_all_forms(name, half, on, d_state):
    kernel, sizes = KERNELS[name]
    block_n = {3: 4, 64: 64}[d_state]
    constants = {"N": d_state, "BLOCK_N": block_n, "CHUNK": 64, **sizes}
    constants |= dict.fromkeys(SWITCHES, on)
    constants = {k: v for k, v in constants.items() if k in kernel.arg_names}
    warps = 4 if "K" in constants else max(1, block_n // 16)
    assert sm90.compile_kernel(kernel, constants, warps, half)
