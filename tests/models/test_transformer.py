"""S and F layers against plain float64 loops; heads, rows and columns, patch norms, sizes."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from mambalab import config
from mambalab.errors import UserError
from mambalab.models.attention import Attention, gated_d_ff, n_head
from mambalab.models.backbone import FeedForwardBlock, SelfAttentionBlock
from mambalab.models.dropout import NO_DROPOUT
from mambalab.models.heads import Classifier, LanguageModel, count_parameters
from mambalab.models.layers import PatchEmbedding
from mambalab.runs import build
from mambalab.settings.model import Rotary
from mambalab.spec import ModelSpec
from mambalab.train.optim import decays

GRID = (3, 4)
PATCHES = ModelSpec(vocab_size=0, seq_len=12, input_dim=5, classes=3, rows=3, columns=4)


def norm(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def turned(x, angles):
    """x (head_dim,), its pairs (i, i + head_dim / 2) turned by their angles."""
    half = len(x) // 2
    pairs = [
        (a * math.cos(t) - b * math.sin(t), b * math.cos(t) + a * math.sin(t))
        for a, b, t in zip(x[:half], x[half:], angles, strict=True)
    ]
    return torch.stack([a for a, _ in pairs] + [b for _, b in pairs])


def angles_of(position, size, grid):
    """Angles of the pairs of a head of `size` channels."""
    if grid is None:
        return [position * 10000.0 ** (-2 * i / size) for i in range(size // 2)]
    row, column = divmod(position, grid[1])
    powers = [10000.0 ** (-2 * i / (size // 2)) for i in range(size // 4)]
    return [row * p for p in powers] + [column * p for p in powers]


def attention_loop(p, x, heads, end, causal, grid):
    """An S block on one sequence x (l, d), position by position, head by head."""
    size = x.shape[1] // heads
    normed, mixed = norm(x, p["norm.weight"]), []
    parts = (normed @ p["mixer.in_proj.weight"].T).view(len(x), 3, heads, size)
    for t in range(len(x)):
        outs = []
        for h in range(heads):
            sees = range(t + 1 if causal else end)
            query, keys = parts[t, 0, h], [parts[s, 1, h] for s in sees]
            if "mixer.q_norm.weight" in p:
                query = norm(query, p["mixer.q_norm.weight"])
                keys = [norm(key, p["mixer.k_norm.weight"]) for key in keys]
            query = turned(query, angles_of(t, size, grid))
            keys = [turned(k, angles_of(s, size, grid)) for s, k in zip(sees, keys, strict=True)]
            share = torch.stack([query @ key / math.sqrt(size) for key in keys]).softmax(0)
            outs.append(sum(a * parts[s, 2, h] for a, s in zip(share, sees, strict=True)))
        mixed.append(torch.cat(outs))
    return x + torch.stack(mixed) @ p["mixer.out_proj.weight"].T


def ffn_loop(p, x):
    """An F block on one sequence x (l, d)."""
    w1, w3 = p["mlp.fc1.weight"].chunk(2)
    normed = norm(x, p["norm.weight"])
    return x + (F.silu(normed @ w1.T) * (normed @ w3.T)) @ p["mlp.fc2.weight"].T


def compare(block, loop):
    """Outputs up to their ends and all gradients of a float64 block against a loop."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in block.double().parameters():  # norms are not all 1, weights not small
            p.copy_(torch.randn_like(p) * (0.3 if p.ndim > 1 else 0.5) + (p.ndim == 1))
    lengths = torch.tensor([7, 4])
    x = torch.randn(2, 7, 16, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 7, 16, dtype=torch.float64)
    weights[1, 4:] = 0
    p = {name: w.detach().requires_grad_() for name, w in block.named_parameters()}
    exact = x.detach().requires_grad_()
    expected = torch.stack([loop(p, row, int(n)) for row, n in zip(exact, lengths, strict=True)])
    (expected * weights).sum().backward()
    found = block(x, lengths=lengths)
    (found * weights).sum().backward()
    torch.testing.assert_close(found * weights, expected * weights, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(x.grad, exact.grad, atol=1e-12, rtol=1e-9)
    for name, weight in block.named_parameters():
        torch.testing.assert_close(weight.grad, p[name].grad, atol=1e-12, rtol=1e-9, msg=name)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize(("causal", "grid"), [(True, None), (False, None), (False, GRID)])
def test_an_s_layer_is_the_loop_with_every_gradient(build_settings, causal, grid, qk_norm):
    settings = build_settings(d_model=16, n_head=2, qk_norm=qk_norm, rotary=Rotary.auto)
    block = SelfAttentionBlock(settings, NO_DROPOUT, causal, grid)
    compare(block, lambda p, x, end: attention_loop(p, x, 2, end, causal, grid))


def test_an_f_layer_is_the_loop_with_every_gradient(build_settings):
    compare(
        FeedForwardBlock(build_settings(d_model=16), NO_DROPOUT), lambda p, x, _: ffn_loop(p, x)
    )


@pytest.mark.parametrize("qk_norm", [False, True])
def test_only_shifts_in_the_grid_matter(build_settings, qk_norm):
    """The same pair of patches, moved together by rows and columns, has the same score."""
    settings = build_settings(n_head=2, rotary=Rotary.grid, qk_norm=qk_norm)
    layer = Attention(settings, causal=False, kind="S", grid=(6, 5)).double()
    content = torch.randn(3 * 32, dtype=torch.float64).expand(1, 30, -1)
    query, key, _ = layer.split(content)
    scores = (query @ key.transpose(-1, -2))[0].view(2, 6, 5, 6, 5)
    by_shift = {}
    for r, c, s, d in torch.cartesian_prod(*map(torch.arange, (6, 5, 6, 5))).tolist():
        by_shift.setdefault((s - r, d - c), []).append(scores[:, r, c, s, d])
    for same in by_shift.values():
        torch.testing.assert_close(torch.stack(same), same[0].expand(len(same), 2))
    firsts = torch.stack([same[0] for same in by_shift.values()])
    assert len(firsts.round(decimals=6).unique(dim=0)) == len(by_shift)  # and each shift does


def test_the_grid_is_the_tasks(build_settings):
    settings = build_settings(pattern="SF", n_layer=2, n_head=2)
    line = dataclasses.replace(PATCHES, rows=12, columns=1)
    for rotary, spec, columns in (
        (Rotary.auto, PATCHES, 4),
        (Rotary.grid, PATCHES, 4),
        (Rotary.sequence, PATCHES, None),
        (Rotary.auto, line, None),
    ):
        changed = dataclasses.replace(settings, rotary=rotary)
        layer = Classifier(changed, NO_DROPOUT, spec).backbone.layers[0]
        assert layer.mixer.columns == columns
    grid = dataclasses.replace(settings, rotary=Rotary.grid)
    with pytest.raises(UserError, match="rotary=grid: the steps of this task are no grid"):
        Classifier(grid, NO_DROPOUT, line)
    with pytest.raises(UserError, match="rotary=grid: the steps of this task are no grid"):
        LanguageModel(grid, NO_DROPOUT, ModelSpec(vocab_size=5, seq_len=4))
    narrow = dataclasses.replace(settings, rotary=Rotary.auto, d_model=36, n_head=2)
    with pytest.raises(UserError, match=r"multiple of 4, .* give 18; "):
        Classifier(narrow, NO_DROPOUT, PATCHES)


@pytest.mark.parametrize(
    ("d_model", "heads"),
    [
        *((16, 1), (32, 2), (48, 3), (64, 4), (80, 4), (96, 4), (100, 5), (128, 4), (192, 4)),
        *((256, 4), (320, 5), (512, 8), (768, 12), (66, 3), (65, 1), (1, 1)),
    ],
)
def test_s_layers_have_at_least_four_heads(build_settings, d_model, heads):
    assert n_head(build_settings(d_model=d_model), "S") == heads
    assert n_head(build_settings(d_model=d_model, n_head=2), "S") == 2


# Those of the sources have the sizes of the sources.
PRESETS = [name for name in config.paths.options("experiment") if not name.startswith("sources/")]


@pytest.mark.parametrize("d_model", [16, 32, 48, 64, 96, 128, 160, 192, 256, 512])
@pytest.mark.parametrize("changes", [{}, {"d_state": 64}, {"expand": 3}, {"qk_norm": True}])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_s_and_f_have_as_many_parameters_as_two_mamba_layers(
    build_settings, d_model, changes, bidirectional
):
    settings = build_settings(d_model=d_model, n_layer=2, bidirectional=bidirectional, **changes)
    spec = ModelSpec(vocab_size=50, seq_len=8, classes=3)
    counts = []
    with torch.device("meta"):
        for pattern in ("M", "SF"):
            model = Classifier(dataclasses.replace(settings, pattern=pattern), NO_DROPOUT, spec)
            counts.append(sum(map(count_parameters, model.backbone.layers)))
    step = 16 if d_model >= 128 else 4
    assert gated_d_ff(settings) % step == 0
    assert abs(counts[1] - counts[0]) <= 3 * d_model * step / 2  # no nearer width there is


def test_a_given_width_is_taken(build_settings):
    assert gated_d_ff(build_settings(d_ff=100)) == 100


@pytest.mark.parametrize("pattern", ["SF", "MMSF"])
def test_initial_values(build_settings, pattern):
    torch.manual_seed(0)
    settings = build_settings(pattern=pattern, n_layer=8, d_model=128, qk_norm=True)
    model = LanguageModel(settings, NO_DROPOUT, ModelSpec(vocab_size=5, seq_len=4))
    for name, weight in model.named_parameters():
        if ".mlp." in name or ("mixer" in name and weight.shape[0] in (128, 384)):
            outer = name.endswith(("out_proj.weight", "fc2.weight"))
            wanted = 0.02 / math.sqrt(8) if outer else 0.02
            if "MM" not in pattern or ".mlp." in name:
                assert weight.std().item() == pytest.approx(wanted, rel=0.05), name
        if name.endswith("norm.weight"):
            assert not decays(name, weight)


def test_patch_norms_are_the_formula_and_make_scale_and_shift_of_a_patch_vanish():
    torch.manual_seed(0)
    layer = PatchEmbedding(5, 8).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(torch.randn_like(p))
    x = torch.randn(2, 3, 5, dtype=torch.float64)

    def plain(x, norm):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias

    inner = plain(x, layer.norm) @ layer.linear.weight.T + layer.linear.bias
    torch.testing.assert_close(layer(x), plain(inner, layer.norm2), atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(layer(3 * x + 2), layer(x), atol=1e-3, rtol=1e-3)
    assert not any(decays(n, p) for n, p in layer.named_parameters() if "norm" in n)


@pytest.mark.parametrize("pattern", ["M", "SF", "A"])
def test_patch_norms_stand_where_there_are_patches(build_settings, pattern):
    line = dataclasses.replace(PATCHES, rows=0, columns=0)
    grey = dataclasses.replace(PATCHES, input_dim=1)
    tokens = ModelSpec(vocab_size=5, seq_len=12, classes=3)
    for value, spec, wanted in (
        ("auto", PATCHES, True),
        ("auto", line, False),
        ("auto", grey, False),
        ("auto", tokens, False),
        (False, PATCHES, False),
        (None, PATCHES, False),
        (True, line, True),
    ):
        settings = build_settings(pattern=pattern, n_layer=2, patch_norm=value)
        model = Classifier(settings, NO_DROPOUT, spec)
        assert isinstance(model.backbone.embedding, PatchEmbedding) == wanted
        if wanted:
            for dtype in (torch.bfloat16, torch.float32):
                assert model.to(dtype)(torch.randn(2, 12, 5, dtype=dtype)).dtype == dtype
            with torch.autocast("cpu", torch.bfloat16):
                assert model.backbone.embedding(torch.randn(2, 12, 5)).dtype == torch.float32
    settings = build_settings(pattern=pattern, n_layer=2, patch_norm=True)
    for spec, why in ((grey, "steps of one value"), (tokens, "tokens")):
        with pytest.raises(UserError, match=f"patch_norm=true: this task gives {why}"):
            Classifier(settings, NO_DROPOUT, spec)


SPECS = {
    "text": ModelSpec(vocab_size=65, seq_len=64),
    "tokens": ModelSpec(vocab_size=256, seq_len=64, classes=10),
    "patches": ModelSpec(vocab_size=0, seq_len=64, input_dim=48, classes=10, rows=8, columns=8),
}


@pytest.mark.parametrize("name", PRESETS)
def test_the_models_of_every_preset_have_as_many_parameters(name):
    """Within 3 %, as language models and as classifiers, of either Mamba."""
    from mambalab.sweep.plan import plan

    settings = plan([f"experiment={name}"]).first
    for task, spec in SPECS.items():
        for both in (False,) if task == "text" else (False, True):
            counts = {}
            for pattern in ("M", "SF", "A"):
                model = dataclasses.replace(
                    settings.model,
                    pattern=pattern,
                    rotary=Rotary.auto,
                    bidirectional=both,
                    position_embedding=settings.model.position_embedding and task != "text",
                )
                off = dataclasses.replace(settings.dropout, ssm_p=0.0)
                with torch.device("meta"):
                    built = build.build_model(
                        dataclasses.replace(settings, model=model, dropout=off), spec
                    )
                counts[pattern] = count_parameters(built)
            assert all(abs(n / counts["M"] - 1) < 0.03 for n in counts.values()), (task, counts)
