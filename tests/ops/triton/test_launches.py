"""What a call of an operator starts on a GPU: counted where there is none, nothing is computed."""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton", reason="triton has no wheel for this machine")

from triton.runtime.jit import JITFunction

from mambalab.ops.triton import (
    conv,
    plans,
    scan,
    scan_backward,
    scan_backward_launch,
    scan_forward,
    scan_segments,
    shapes,
    sums,
)

MODULES = (scan_forward, scan_backward, scan_segments, sums, conv)
FREE = {"view", "_unsafe_view", "unsqueeze", "slice", "transpose", "t", "select", "detach"}
FREE |= {"empty", "new_empty", "empty_like", "as_strided", "expand", "alias"}


class Launches(TorchDispatchMode):
    """Names of the kernels that are started, PyTorch's included, with their arguments."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.names, self.options, self.guarded = [], [], []
        self.on = None  # the GPU that is made current
        for module in MODULES:
            for name, value in vars(module).copy().items():
                if isinstance(value, JITFunction) and name.endswith("_kernel"):
                    monkeypatch.setattr(module, name, self.launcher(name))
        monkeypatch.setattr(torch.cuda, "device_of", self.device_of)

    def launcher(self, name):
        def launch(*args, **options):
            self.names.append(name)
            self.options.append(options)
            self.guarded.append(self.on)

        return type("Launcher", (), {"__getitem__": lambda *_: launch})()

    @contextlib.contextmanager
    def device_of(self, tensor):
        self.on = tensor.device
        yield
        self.on = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in FREE:
            self.names.append(f"torch {name}")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def launches(monkeypatch):
    return Launches(monkeypatch)


def scan_tensors(dtype=torch.bfloat16, length=70):
    """As a layer has them: B and C are parts of one projection."""
    x = torch.randn(2, length, 12 + 2 * 16).to(dtype)
    u, delta, z, grad_y = torch.randn(4, 2, length, 64).to(dtype)
    B, C = x[..., 12:28], x[..., 28:]
    A, D, bias = -torch.rand(64, 16), torch.randn(64), torch.randn(64)
    return (u, delta, A, B, C, D, z, bias), grad_y


def scan_both(launches, state=None, parts=1):
    """Forward and backward; the last state is wanted if there is a first."""
    tensors, grad_y = scan_tensors()
    wanted = state is not None
    with launches:
        _, final, saved = scan.forward(*tensors, state, True, True, wanted, parts=parts)
        found = scan.backward(grad_y, final, *tensors, True, saved, wanted, parts=parts)
    assert (final is not None) == (found.initial_state is not None) == wanted


def conv_both(launches):
    x, grad_y = torch.randn(2, 2, 20, 8)
    weight, bias = torch.randn(8, 4), torch.randn(8)
    with launches:
        conv.forward(x, weight, bias, None, True)
        conv.backward(grad_y, x, weight, bias, None, True)


def test_a_scan_is_four_launches(launches):
    scan_both(launches)
    assert launches.names == [
        *("scan_kernel", "scan_backward_kernel", "matrix_sums_kernel", "channel_sums_kernel")
    ]


def test_a_scan_with_states_in_and_out_starts_nothing_more(launches):
    scan_both(launches, torch.zeros(2, 64, 16))
    assert len(launches.names) == 4


def test_segments_are_four_more(launches):
    scan_both(launches, parts=2)
    assert len(launches.names) == 8


def test_a_convolution_is_four_launches(launches):
    conv_both(launches)
    assert launches.names == [
        *("conv_kernel", "conv_weight_kernel", "conv_input_kernel", "channel_sums_kernel")
    ]


def test_every_launch_is_on_the_gpu_of_its_tensors_and_fuses_multiply_add(launches):
    scan_both(launches, torch.zeros(2, 64, 16), parts=2)
    conv_both(launches)
    assert {"combine_kernel", "carry_kernel", "conv_input_kernel"} <= {*launches.names}
    assert set(launches.guarded) == {torch.device("cpu")}
    assert all(options.get("enable_fp_fusion") is True for options in launches.options)


def test_partial_gradients_are_bounded(launches, monkeypatch):
    made = []
    real = sums.add_matrices

    def add(parts_B, parts_C, *rest):
        made.append(parts_B.numel() + parts_C.numel())
        real(parts_B, parts_C, *rest)

    monkeypatch.setattr(scan_backward_launch.sums, "add_matrices", add)
    tensors, grad_y = scan_tensors(length=300)
    saved = torch.zeros(scan.states_shape(2, 300, 64, 16))
    limit = 8 * 16 * 2 * 130  # two blocks of channels: a little more than two chunks of a sequence
    scan.backward(grad_y, None, *tensors, True, saved, limit=limit, parts=1)
    assert max(made) * 4 <= limit
    assert sum(made) * 4 == 8 * 16 * 2 * 2 * 300


@pytest.mark.parametrize(
    ("batch", "length", "d_inner", "d_state"),
    [(8, 2048, 5120, 16), (8, 2048, 2048, 64), (1, 65536, 2048, 16), (512, 64, 5120, 64)],
)
def test_rounds_of_any_model_stay_within_64_mebibytes(batch, length, d_inner, d_state):
    a_step = 8 * d_state * d_inner // 32
    cut = scan_backward_launch.rounds(batch, length, a_step, scan_backward_launch.PARTIAL_BYTES)
    assert cut.batches * min(cut.steps, length) * a_step <= 64 << 20
    assert cut.steps % shapes.CHUNK == 0
    assert cut.batches * min(cut.steps, length) * a_step > 16 << 20, "many small launches"


def test_a_short_batch_is_one_round():
    assert scan_backward_launch.rounds(64, 256, 8 * 16 * 12, 64 << 20) == (64, 256)
    assert scan_backward_launch.rounds(4, 100, 8 * 16, 64 << 20) == (4, 100)


def test_plans_follow_from_registers():
    hopper, ampere = (9, 0), (8, 0)
    assert plans.by_rule(1.0, 16, hopper) == (16, 3, 168)
    assert plans.by_rule(2.0, 16, hopper) == (32, 2, None)
    assert plans.by_rule(1.0, 64, hopper) == (32, 2, None)
    assert plans.by_rule(4.0, 16, ampere).block_d == 16, "32 channels spill there"
    assert plans.choose(64, 16, torch.device("cpu")) == (32, 2, None)


def test_a_measured_plan_goes_before_the_rule(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(plans, "schedulers", lambda _: 528)
    monkeypatch.setattr(plans, "table", lambda: {"a GPU": {"plans": {"16": {"0": [32, 4, None]}}}})
    monkeypatch.setattr(plans, "_on_gpu", plans._on_gpu.__wrapped__)
    device = torch.device("cuda", 0)
    assert plans.choose(528 * 32, 16, device) == (32, 4, None)
    assert plans.choose(528 * 32 // 4, 16, device) == (16, 3, 168)
    assert plans.choose(528 * 32, 64, device) == (32, 2, None)


def test_segments_fill_the_schedulers(monkeypatch):
    monkeypatch.setattr(shapes, "schedulers", lambda _: 528)
    device = torch.device("cuda", 0)
    assert shapes.segments(512, 8192, device) == 1, "a second pass must pay"
    assert shapes.segments(512, 8192, device, least=2) == 2
    assert shapes.segments(64, 8192, device) == 16
    assert shapes.segments(64, 1024, device) == 2, "none shorter than 512 steps"
    assert shapes.segments(64, 8192, device, fill=1) == 8
