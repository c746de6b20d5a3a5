"""Decoding by CUDA graph: everything but the capture itself runs without a GPU.

Where there is none, a step is repeated by calling it: the same fixed memory, the same functions.
"""

import gc

import pytest
import torch

from mambalab.generation import graph_decode
from mambalab.generation.decoding import decode_one, stepper
from mambalab.generation.graph_decode import recorded
from mambalab.settings.model import ScanBackend


class Captures:
    """Repeats a step by calling it; counts how often one was captured."""

    def __init__(self):
        self.count = 0

    def __call__(self, step):
        self.count += 1
        return step


@pytest.fixture
def capture():
    return Captures()


@pytest.fixture
def model(build_model):
    return build_model(scan_backend=ScanBackend.torch)


def start(model, batch, seed=0):
    """The state after some tokens."""
    state = model.initial_state(batch, 24)
    make = torch.Generator(model.lm_head.weight.device).manual_seed(seed)
    for layer in state.layers:
        layer.conv.normal_(generator=make)
        layer.ssm.normal_(generator=make)
    return state


def tokens(batch, count, seed=1):
    return torch.randint(17, (count, batch), generator=torch.Generator().manual_seed(seed))


def values(state):
    return [x.clone() for layer in state.layers for x in (layer.conv, layer.ssm)]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_recorded_decoder_does_what_the_model_does(mode, model, capture):
    with mode():
        state, other = start(model, 3), start(model, 3)
        step = recorded(model, state, 3, capture)
        for now in tokens(3, 4):
            assert torch.equal(step(now), decode_one(model, now, other))
        assert all(map(torch.equal, values(state), values(other)))


@torch.no_grad()
def test_memory_stays_where_it_is_and_logits_are_the_callers(model, capture):
    state = start(model, 2)
    step = recorded(model, state, 2, capture)
    first = step(tokens(2, 1)[0])
    kept, where = first.clone(), [layer.ssm.data_ptr() for layer in state.layers]
    step(tokens(2, 1, seed=2)[0])
    assert [layer.ssm.data_ptr() for layer in state.layers] == where
    assert torch.equal(first, kept)


@torch.no_grad()
def test_a_batch_size_is_captured_once(model, capture):
    for batch in (2, 3, 2, 3):
        state = start(model, batch)
        recorded(model, state, batch, capture)(tokens(batch, 1)[0])
        del state
        gc.collect()
    assert capture.count == 2


@torch.no_grad()
def test_sequences_that_take_turns_do_not_meet(model, capture):
    states = [start(model, 1, seed) for seed in (0, 1)]
    others = [start(model, 1, seed) for seed in (0, 1)]
    steps = [recorded(model, state, 1, capture) for state in states]
    for now in tokens(1, 3):
        for step, other in zip(steps, others, strict=True):
            assert torch.equal(step(now), decode_one(model, now, other))
    assert capture.count == 2


def test_the_state_may_go_on_elsewhere_in_between(model, capture):
    state, other = start(model, 2), start(model, 2)
    with torch.no_grad():
        step = recorded(model, state, 2, capture)
        first, second, third = tokens(2, 3)
        step(first), decode_one(model, first, other)
    for one in (state, other):
        decode_one(model, second, one)  # with gradients: the state gets new tensors
    state, other = (one.detach() for one in (state, other))
    with torch.no_grad():
        step = recorded(model, state, 2, capture)
        assert torch.equal(step(third), decode_one(model, third, other))


@torch.no_grad()
def test_weights_changed_in_place_are_seen_and_replaced_ones_captured_again(model, capture):
    state, other = start(model, 1), start(model, 1)
    now = tokens(1, 1)[0]
    recorded(model, state, 1, capture)(now)
    decode_one(model, now, other)
    model.lm_head.weight.mul_(2)
    assert torch.equal(recorded(model, state, 1, capture)(now), decode_one(model, now, other))
    model.lm_head.weight.data = model.lm_head.weight.data.clone()
    del state
    gc.collect()
    count = capture.count
    recorded(model, start(model, 1), 1, capture)(now)
    assert capture.count == count + 1


@torch.no_grad()
def test_a_capture_that_fails_or_is_wrong_is_said_and_the_model_runs(model):
    def fails(step):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    def wrong(step):
        model.lm_head.weight.mul_(3)
        return step

    with pytest.warns(UserWarning, match=r"without a CUDA graph.*: operation not permitted"):
        assert recorded(model, start(model, 1), 1, fails) is None
    with pytest.warns(UserWarning, match="gives other logits than the model"):
        assert recorded(model, start(model, 1), 1, wrong) is None


@torch.no_grad()
def test_other_models_run_launch_by_launch(build_model, capture):
    mixed = build_model(pattern="MA", n_layer=2)
    assert recorded(mixed, mixed.initial_state(1, 24), 1, capture) is None
    hooked = build_model(scan_backend=ScanBackend.torch)
    hooked.backbone.layers[0].mixer.register_forward_hook(lambda *_: None)
    assert recorded(hooked, start(hooked, 1), 1, capture) is None
    plain = build_model(scan_backend=ScanBackend.torch)
    assert recorded(plain, start(plain, 1), 1) is None, "there is no GPU"
    with torch.enable_grad():
        assert recorded(plain, start(plain, 1), 1, capture) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU")
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_captured_graph_gives_the_models_logits(batch, autocast, build_model):
    model = build_model().cuda()
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        for seed in range(2):
            state, other = (start(model, batch, seed) for _ in range(2))
            step = recorded(model, state, batch)
            assert step is not None
            for now in tokens(batch, 6).cuda():
                found, expected = step(now), decode_one(model, now, other)
                torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
            del state, step
            gc.collect()
        found = stepper(model, start(model, batch, 0), batch)
        assert found.__module__ == graph_decode.__name__
    (graphs,) = (graphs for graphs in graph_decode._graphs[model].values())
    assert len(graphs) == 1, "captured once for each batch size"
