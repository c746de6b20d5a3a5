"""The kernels on processors that are not here: compiled for 64-bit ARM, run for older x86."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from numba.core import codegen

from mambalab.ops import selective_scan
from tests.ops import test_causal_conv1d as conv
from tests.ops import test_rms_norm as norm
from tests.ops.cases import assert_close, results
from tests.ops.cpu import steps
from tests.ops.cpu.every_kernel import CASES
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


OLDEST = "+sse2"  # no AVX, no AVX2, no AVX-512, no fused multiply-add
USUAL = "+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+bmi,+bmi2,+f16c,+fma"  # of most desktops: no AVX-512


def reference(**tensors):
    return selective_scan(
        **tensors, delta_softplus=True, return_final_state=True, backend="reference"
    )


@pytest.mark.parametrize(("name", "features"), [("x86-64", OLDEST), ("haswell", USUAL)])
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="another processor")
def test_every_kernel_is_right_without_wide_vectors(name, features, tmp_path):
    lacks = set(features.split(",")) - set(codegen.get_host_cpu_features().split(","))
    if lacks:
        pytest.skip(f"this processor has no {', '.join(sorted(lacks))}")
    of = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "NUMBA_OPT": "0"}
    program("-m", "tests.ops.cpu.every_kernel", str(tmp_path / "results"), **of)
    found = torch.load(tmp_path / "results", weights_only=True)
    assert found["lanes"] == 8
    assert_close(found["scan"], results(reference, CASES["scan"]), 1e-5)
    for case in (c for c in CASES if c.startswith("conv")):
        dtype = CASES[case]["x"].dtype
        assert_close(found[case], conv.oracle(CASES[case]), conv.TOLERANCE[dtype])
    for case in (c for c in CASES if c.startswith("norm")):
        bound = norm.TOLERANCE[CASES[case][0].dtype]
        norm.close(found[case], norm.oracle(*CASES[case]), [bound, bound, 2e-6])
    for one, other in found["dropped"].values():
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    exact = steps.model()(steps.TOKENS)[:, -1]
    scale = exact.abs().max().item()
    torch.testing.assert_close(found["steps"], steps.decoded(), atol=2e-3 * scale, rtol=0)
    torch.testing.assert_close(found["steps"], exact, atol=0.02 * scale, rtol=0)
