import pytest
import torch

from mambalab.generation import cpu_decode
from mambalab.generation.decoding import generate
from mambalab.generation.sampling import Sampling
from mambalab.generation.sequences import complete

RULES = Sampling(allowed=16)


@pytest.mark.parametrize("pattern", ["M", "SF"])
def test_batches_change_nothing_and_run_fused(build_model, monkeypatch, pattern):
    model = build_model(pattern=pattern)
    prompts = torch.randint(16, (7, 3), generator=torch.Generator().manual_seed(0))
    sizes = []
    fused = cpu_decode.fused

    def noted(model, state, batch):
        found = fused(model, state, batch)
        sizes.append((batch, found is not None))
        return found

    monkeypatch.setattr("mambalab.generation.decoding.fused", noted)
    whole = complete(model, prompts, 5, rules=RULES, seed=3, batch=7)
    parts = complete(model, prompts, 5, rules=RULES, seed=3, batch=3)
    assert torch.equal(whole, parts)
    assert [size for size, _ in sizes] == [7, 3, 2, 2]
    assert all(made for _, made in sizes)
    steps = generate(model, [prompts[4]], max_new_tokens=5, rules=RULES, seed=7)
    assert torch.cat(list(steps)).tolist() == whole[4].tolist()
    assert (whole.shape, int(whole.max()) < 16) == ((7, 5), True)


def test_somebody_may_stop_it_between_tokens(build_model):
    calls = []

    def stop():
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt

    model, prompts = build_model(), torch.zeros(4, 1, dtype=torch.int64)
    with pytest.raises(KeyboardInterrupt):
        complete(model, prompts, 3, rules=RULES, seed=0, batch=2, on_token=stop)
