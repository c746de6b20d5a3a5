"""The kernels on processors that are not here: compiled for 64-bit ARM, run for older x86."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mambalab.ops import selective_scan
from tests.ops.cases import assert_close, results, scan_case
from tests.ops.cpu import steps
from tests.ops.cpu.other_processors import TRIPLES

ROOT = Path(__file__).parents[3]
FLUSHING = {"selective_scan_forward", "selective_scan_backward", "decoding_step"}


def program(*words, **environment):
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_kernel_compiles_for_arm():
    lines = program("-m", "tests.ops.cpu.other_processors").splitlines()
    found = [json.loads(line) for line in lines]
    assert sorted(kernel["kernel"] for kernel in found) == [
        "causal_conv1d_backward",
        "causal_conv1d_forward",
        "decoding_step",
        "decoding_step",
        "dropped_sum_backward",
        "dropped_sum_forward",
        "rms_norm_backward",
        "rms_norm_forward",
        "selective_scan_backward",
        "selective_scan_forward",
    ]
    for kernel in found:
        flushes = kernel["kernel"] in FLUSHING
        control = ["llvm.aarch64.get.fpcr", "llvm.aarch64.set.fpcr"] if flushes else []
        assert kernel["intrinsics"] == control, kernel
        assert kernel["absent"] == []
        assert set(kernel["lines"]) == set(TRIPLES)
        short = kernel["kernel"].startswith("dropped_sum")  # loads, one select, a store
        assert min(kernel["lines"].values()) > (100 if short else 500), kernel
        assert set(kernel["flushes"].values()) == ({2} if flushes else {0}), kernel  # on, and back


PROGRAM = """
import sys, torch
from mambalab.ops.cpu import llvm
from tests.ops.cases import cast, results, scan_case
from tests.ops.cpu.steps import decoded
from tests.ops.cpu.test_runtime import scan

assert llvm.LANES == 8
scanned = results(scan, cast(scan_case(2, 19, 20, 5), torch.float32))
torch.save({"scan": scanned, "steps": decoded()}, sys.argv[1])
"""


def reference(**tensors):
    return selective_scan(
        **tensors, delta_softplus=True, return_final_state=True, backend="reference"
    )


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="another processor")
def test_the_scan_and_decoding_are_right_without_wide_vectors(tmp_path):
    """Code for the first x86-64 processors: no AVX, no AVX2, no AVX-512, no fused multiply-add."""
    oldest = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2", "NUMBA_OPT": "0"}
    program("-c", PROGRAM, str(tmp_path / "results"), **oldest)
    found = torch.load(tmp_path / "results", weights_only=True)
    assert_close(found["scan"], results(reference, scan_case(2, 19, 20, 5)), 1e-5)
    exact = steps.model()(steps.TOKENS)[:, -1]
    scale = exact.abs().max().item()
    torch.testing.assert_close(found["steps"], steps.decoded(), atol=2e-3 * scale, rtol=0)
    torch.testing.assert_close(found["steps"], exact, atol=0.02 * scale, rtol=0)
