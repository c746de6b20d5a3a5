"""Counts the floating-point operations of our operators for `torch.utils.flop_counter`.

As there a multiply-add is two operations, and what is done element by element between the products
(norms, activations, gates, additions of a bias) is not counted. A backward pass counts twice its
forward pass: what a kernel computes again to save memory is no work of the model.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

Shape = Any  # torch.Size; what is no tensor comes as it is


def scan_flops(u: Shape, A: Shape, D: Shape | None) -> int:
    """Count those of the selective scan of u (b, l, d) with A (d, n), forward.

    Of each state at each step: delta A and its exponential 1 each, (delta u) B 1, the recurrence 2,
    its part of C h 2. Of each channel at each step: delta u 1, D u and its addition 2.
    """
    batch, length, channels = u
    return batch * length * channels * (7 * A[1] + 1 + (0 if D is None else 2))


def conv_flops(x: Shape, weight: Shape) -> int:
    """Count those of the causal convolution of x (b, l, d) with weight (d, k), forward."""
    batch, length, channels = x
    return 2 * batch * length * channels * weight[1]


def _scan(u: Shape, delta: Shape, A: Shape, B: Shape, C: Shape, D: Any, *_: Any, **__: Any) -> int:
    return scan_flops(u, A, D)


def _scan_backward(
    grad_y: Shape, grad_state: Any, u: Shape, delta: Shape, A: Shape, B: Shape, C: Shape, D: Any,
    *_: Any, **__: Any
) -> int:  # fmt: skip
    return 2 * scan_flops(u, A, D)


def _conv(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return conv_flops(x, weight)


def _conv_backward(grad_y: Shape, x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 2 * conv_flops(x, weight)


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    grad: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def formulas() -> dict[Any, Callable[..., int]]:
    """Return the formulas that `FlopCounterMode(custom_mapping=...)` lacks, by operator: ours, and
    attention on a CPU, which as on a GPU counts the whole square, masked or not."""
    ours, aten = torch.ops.mambalab, torch.ops.aten
    return {
        ours.selective_scan: _scan,
        ours.selective_scan_backward: _scan_backward,
        ours.causal_conv1d: _conv,
        ours.causal_conv1d_backward: _conv_backward,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
