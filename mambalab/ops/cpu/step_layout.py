"""What the decoding step's kernel reads: arguments, a program of phases, a row for each layer.

A *program* is a list of phases: pairs of int64, the kind and the address of the layer's row, which
is 0 for the head. An A layer has two rows, its attention and its FFN, as S and F layers have one.
"""

from typing import NamedTuple

from mambalab.ops.cpu.simd import LANES, VECTOR_BYTES

COUNTER_BYTES = 128  # of a phase: its two counters are on cache lines that no other phase shares
PHASE_BYTES = 16
CHUNK = 128

IN_PROJ, X_PROJ, SCAN, OUT_PROJ, HEAD = range(5)
QKV, ATTEND, MERGE, GATE, GELU, DOWN = range(5, 11)

MAMBA_PHASES = (IN_PROJ, X_PROJ, SCAN, OUT_PROJ)
ATTENTION_PHASES = (QKV, ATTEND, MERGE)
GATED_PHASES = (GATE, DOWN)
PLAIN_PHASES = (GELU, DOWN)


class StepArgs(NamedTuple):
    """What the kernel reads after the runtime's header: sizes and addresses.

    Tensors are contiguous, and float32 where nothing else is said.
    """

    batch: int
    d_model: int
    d_inner: int
    d_state: int
    d_conv: int
    rank: int
    phases: int
    eps: int  # address of a float32
    counters: int  # (phases,) pairs of int64, zero, COUNTER_BYTES bytes apart
    program: int  # (phases, 2) int64
    hidden: int  # (b, d_model), the residual stream: read and written
    x: int  # (b, d_inner), memory to work in, as the next seven
    gate: int  # (b, d_inner)
    y: int  # (b, d_inner)
    dt_B_C: int  # (b, rank + 2 d_state): output of x_proj, which is delta at low rank, B and C
    qkv: int  # (b, 3 d_model): output of an attention layer's in_proj
    parts: int  # (b, n_head, chunks of the cache, part_bytes(head_dim) / 4): of each chunk
    mixed: int  # (b, d_model): values, added up by the attention
    inner: int  # (b, d_ff): inside an FFN
    norm_f: int  # (d_model,)
    head: int  # (vocab_size, d_model)
    vocab_size: int
    logits: int  # (b, vocab_size), written


class MambaRow(NamedTuple):
    """Addresses of a layer's weights and state; matrices marked * are bfloat16 if `bf16`."""

    norm: int  # (d_model,)
    in_proj: int  # (2 d_inner, d_model) *
    conv_weight: int  # (d_inner, d_conv)
    conv_bias: int  # (d_inner,)
    x_proj: int  # (rank + 2 d_state, d_inner) *
    dt_proj: int  # (d_inner, rank) *
    dt_bias: int  # (d_inner,)
    A: int  # (d_inner, d_state), times log2(e)
    D: int  # (d_inner,)
    out_proj: int  # (d_model, d_inner) *
    conv_state: int  # (b, d_inner, d_conv - 1), updated
    ssm_state: int  # (b, d_inner, d_state), updated


class AttentionRow(NamedTuple):
    """Addresses of a layer's weights and cache, and its sizes; * as in `MambaRow`."""

    norm: int  # (d_model,)
    in_proj: int  # (3 d_model, d_model) *: queries, keys, values, head by head
    out_proj: int  # (d_model, d_model) *
    q_norm: int  # (head_dim,), or 0: none, as k_norm
    k_norm: int
    cos: int  # (capacity, head_dim / 2): of each position's angles
    sin: int
    key: int  # (b, n_head, capacity, head_dim) *, updated
    value: int  # the same
    filled: int  # (b,) int64: positions that each sequence has in the cache
    arrived: int  # (b, n_head) int64, zero: chunks that are done
    n_head: int
    head_dim: int
    capacity: int


class FeedForwardRow(NamedTuple):
    """Addresses of an FFN's weights, and its width; * as in `MambaRow`."""

    norm: int  # (d_model,)
    fc1: int  # (d_ff, d_model) *; in a gated one (2 d_ff, d_model), the gate first
    fc2: int  # (d_model, d_ff) *
    d_ff: int


def _offsets(row: type[NamedTuple]) -> range:
    """Bytes from the beginning of a row to each of its fields."""
    return range(0, 8 * len(row._fields), 8)


M_NORM, M_IN_PROJ, M_CONV_WEIGHT, M_CONV_BIAS, M_X_PROJ, M_DT_PROJ, *_rest = _offsets(MambaRow)
M_DT_BIAS, M_A, M_D, M_OUT_PROJ, M_CONV_STATE, M_SSM_STATE = _rest
A_NORM, A_IN_PROJ, A_OUT_PROJ, A_Q_NORM, A_K_NORM, A_COS, A_SIN, *_rest = _offsets(AttentionRow)
A_KEY, A_VALUE, A_FILLED, A_ARRIVED, A_N_HEAD, A_HEAD_DIM, A_CAPACITY = _rest
F_NORM, F_FC1, F_FC2, F_D_FF = _offsets(FeedForwardRow)


def part_bytes(head_dim: int) -> int:
    """Memory of one head's attention to a chunk: a vector of two numbers, then head_dim values."""
    return VECTOR_BYTES + -(-head_dim // LANES) * VECTOR_BYTES


def scratch_bytes(batch: int, d_model: int, head_dim: int) -> int:
    """Scratch memory of a worker, in bytes; `step_kernel` says what is in it."""
    heads = 2 * (-(-head_dim // LANES) * VECTOR_BYTES) + CHUNK * 4
    return batch * (d_model * 4 + LANES * VECTOR_BYTES) + 2 * VECTOR_BYTES + heads
