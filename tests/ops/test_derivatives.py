"""Derivatives beyond an ordinary backward: forward mode, torch.func, derivatives of derivatives."""

import functools
import warnings

import pytest
import torch
from torch.autograd import forward_ad

from mambalab.models.backbone import MambaBlock
from mambalab.models.dropout import Dropout
from mambalab.ops import causal_conv1d, dispatch, rms_norm, selective_scan
from mambalab.ops.reference import causal_conv1d_reference, selective_scan_reference
from tests.ops.cases import scan_case

pytestmark = [
    pytest.mark.filterwarnings("ignore:mambalab.*plain PyTorch operations"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),  # torch.func's own
]
BACKENDS = ("auto", "cpu", "torch", "reference")


def scan(backend):
    def function(*tensors):
        *rest, state = tensors
        options = {"initial_state": state, "delta_softplus": True}
        if backend is None:
            return selective_scan_reference(*rest, **options)
        return selective_scan(*rest, **options, return_final_state=True, backend=backend)

    return function, list(scan_case(2, 3, 4, 2, groups=2).values())


def conv(backend):
    def function(x, weight, bias, state):
        if backend is None:
            return causal_conv1d_reference(x, weight, bias, "silu", state)
        return causal_conv1d(x, weight, bias, "silu", state, True, backend)

    make = torch.Generator().manual_seed(0)
    shapes = (2, 3, 4), (4, 3), (4,), (2, 4, 2)
    return function, [torch.randn(s, generator=make, dtype=torch.float64) for s in shapes]


def norm(backend):
    def function(x, weight):
        if backend is None:
            return (x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight,)
        return (rms_norm(x, weight, 1e-5, x.dtype),)

    make = torch.Generator().manual_seed(0)
    return function, [torch.randn(s, generator=make, dtype=torch.float64) for s in ((2, 5), (5,))]


CASES = [(scan, b) for b in BACKENDS] + [(conv, b) for b in BACKENDS] + [(norm, "auto")]
each_operator = pytest.mark.parametrize(("operator", "backend"), CASES)


def scalar(function):
    """A function's outputs as one number, by weights that no symmetry can hide behind."""

    def weighted(*tensors):
        total = 0.0
        for y in function(*tensors):
            place = torch.arange(y.numel(), dtype=y.dtype).view(y.shape)
            total = total + (y.square() * (1 + place).sin()).sum()
        return total

    return weighted


def agree(found, expected, tolerance=1e-5):
    for one, other in zip(found, expected, strict=True):
        assert (one.double() - other).norm() <= tolerance * other.norm().clamp(min=1e-6)


@each_operator
def test_forward_mode_agrees_with_a_float64_loop(operator, backend):
    function, tensors = operator(backend)
    exact, _ = operator(None)
    make = torch.Generator().manual_seed(5)
    tangents = [torch.randn(x.shape, generator=make, dtype=torch.float64) for x in tensors]
    expected = torch.func.jvp(exact, tuple(tensors), tuple(tangents))[1]
    step = 1e-6  # the loop itself, by central differences
    more, less = (exact(*(x + s * t for x, t in zip(tensors, tangents, strict=True)))
                  for s in (step, -step))  # fmt: skip
    agree([(a - b) / (2 * step) for a, b in zip(more, less, strict=True)], expected, 1e-6)

    single, turns = ([x.float() for x in some] for some in (tensors, tangents))
    agree(torch.func.jvp(function, tuple(single), tuple(turns))[1], expected)
    with forward_ad.dual_level():
        duals = map(forward_ad.make_dual, single, turns)
        agree([forward_ad.unpack_dual(y).tangent for y in function(*duals)], expected)


@each_operator
def test_torch_func_agrees_with_a_float64_loop(operator, backend):
    function, tensors = operator(backend)
    exact, _ = operator(None)
    single = [x.float() for x in tensors]
    places = tuple(range(len(tensors)))
    slope = torch.func.grad(scalar(exact), places)
    agree(torch.func.grad(scalar(function), places)(*single), slope(*tensors))
    agree(torch.func.jacrev(function)(*single), torch.func.jacrev(exact)(*tensors))
    agree(torch.func.jacfwd(function)(*single), torch.func.jacrev(exact)(*tensors))
    rest = (None,) * (len(tensors) - 1)
    samples = torch.stack([single[0], 2 * single[0], -single[0]])
    each = torch.func.vmap(torch.func.grad(scalar(function), places), (0, *rest))
    wanted = [slope(x.double(), *tensors[1:]) for x in samples]
    agree(each(samples, *single[1:]), [torch.stack(x) for x in zip(*wanted, strict=True)])


@each_operator
def test_derivatives_of_derivatives_agree_with_a_float64_loop(operator, backend):
    def both(function, tensors):
        leaves = [x.detach().requires_grad_() for x in tensors]
        inner = [x.sin() for x in leaves]
        inner[-1] = inner[-1] + inner[0].mean()  # a path from one argument to another
        first = torch.autograd.grad(scalar(function)(*inner), leaves, create_graph=True)
        again = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        return [*first, *again]

    function, tensors = operator(backend)
    exact, _ = operator(None)
    agree(both(function, [x.float() for x in tensors]), both(exact, tensors))


@pytest.mark.parametrize(("operator", "backend"), [c for c in CASES if c[1] != "reference"])
def test_tangents_pass_through_a_backward(operator, backend):
    """Forward over reverse: outputs of an ordinary graph are given gradients with tangents."""

    def both(function, tensors):
        leaves = [x.detach().requires_grad_() for x in tensors]
        outputs = function(*leaves)
        make = torch.Generator().manual_seed(5)
        grads, turns = (
            [torch.randn(y.shape, generator=make, dtype=torch.float64).to(y) for y in outputs]
            for _ in range(2)
        )
        expected = torch.autograd.grad(outputs, leaves, turns, retain_graph=True)
        with forward_ad.dual_level():
            found = torch.autograd.grad(
                outputs, leaves, list(map(forward_ad.make_dual, grads, turns))
            )
            tangents = [forward_ad.unpack_dual(grad).tangent for grad in found]
        return tangents, [x.double() for x in expected]

    function, tensors = operator(backend)
    agree(*both(function, [x.float() for x in tensors]))


@pytest.mark.parametrize("transform", [torch.func.jvp, None])
def test_forward_mode_inside_compiled_code(transform):
    one = torch.ones(1, 1, 1)

    def function(u):
        return selective_scan(u, one, -torch.ones(1, 1), one, one)

    torch.compiler.reset()
    if transform:
        compiled = torch.compile(
            lambda u: torch.func.jvp(function, (u,), (one,))[1], backend="aot_eager"
        )
        assert compiled(one).item() == 1.0
    else:  # code that was compiled without
        compiled = torch.compile(function, backend="aot_eager")
        compiled(one)
        with forward_ad.dual_level():
            found = forward_ad.unpack_dual(compiled(forward_ad.make_dual(one, one))).tangent
            assert found.item() == 1.0
    torch.compiler.reset()


def test_the_slow_way_is_said_once_and_never_taken_for_a_backward(monkeypatch):
    monkeypatch.setattr(dispatch, "_announced", set())
    x = torch.randn(1, 3, 4, requires_grad=True)
    weight = torch.randn(4, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        causal_conv1d(x, weight).sum().backward()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for _ in range(2):
            torch.func.jvp(lambda x: causal_conv1d(x, weight), (x,), (x,))
            torch.autograd.grad(causal_conv1d(x, weight).sum(), x, create_graph=True)
    said = [str(w.message) for w in heard if str(w.message).startswith("mambalab: ")]
    assert len(said) == 2
    assert said[0].startswith("mambalab: forward-mode and torch.func derivatives are computed by")
    assert said[1].startswith("mambalab: derivatives of derivatives (create_graph=True) are")


def test_a_whole_block_with_a_state(build_settings):
    torch.manual_seed(0)
    block = MambaBlock(build_settings(d_model=8)).double()
    hidden, turn = torch.randn(2, 1, 5, 8, dtype=torch.float64)

    def pieces(hidden):
        state = block.mixer.initial_state(1, 5)
        return torch.cat([block(piece, state) for piece in hidden.split([2, 3], 1)], 1)

    _, found = torch.func.jvp(pieces, (hidden,), (turn,))
    with torch.no_grad():
        _, still = torch.func.jvp(pieces, (hidden,), (turn,))
    step = 1e-6
    expected = (pieces(hidden + step * turn) - pieces(hidden - step * turn)) / (2 * step)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(still, expected, atol=1e-7, rtol=1e-6)
    weights = dict(block.named_parameters())
    samples = torch.stack([hidden, 2 * hidden])

    def loss(weights, sample):
        return torch.func.functional_call(block, weights, (sample,)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, samples)
    for name, weight in weights.items():
        for sample, grad in zip(samples, each[name], strict=True):
            (own,) = torch.autograd.grad(block(sample).square().sum(), weight)
            torch.testing.assert_close(grad, own, atol=1e-8, rtol=1e-6)


def test_dropout_for_each_sample():
    drop = Dropout(0.5)
    found = torch.func.vmap(drop, randomness="different")(torch.ones(4, 64))
    assert set(found.flatten().tolist()) == {0.0, 2.0}
    assert not torch.equal(found[0], found[1])


def test_vmap_alone_calls_the_operator_once_a_sample():
    make = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0))
    x, weight = make(3, 1, 4, 2), make(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own word on its speed
        found = torch.func.vmap(lambda x: causal_conv1d(x, weight))(x)
    torch.testing.assert_close(found, torch.stack([causal_conv1d(one, weight) for one in x]))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_an_ensemble_trains_under_vmap(build_settings):
    torch.manual_seed(0)
    blocks = [MambaBlock(build_settings(d_model=8)) for _ in range(2)]
    weights, _ = torch.func.stack_module_state(blocks)
    hidden = torch.randn(1, 5, 8)

    def run(weights):
        return torch.func.functional_call(blocks[0], weights, (hidden,))

    torch.func.vmap(run)(weights).square().sum().backward()
    for i, block in enumerate(blocks):
        block(hidden).square().sum().backward()
        for name, weight in block.named_parameters():
            torch.testing.assert_close(weights[name].grad[i], weight.grad, atol=1e-6, rtol=1e-4)
