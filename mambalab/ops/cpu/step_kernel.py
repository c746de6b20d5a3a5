"""The kernel that takes a stack of layers one step further.

One call computes all layers and the head. Decoding at small batches is bound by the reading of
weights and of the attention's cache; what costs next are the pauses between phases, when threads
wait for each other: a few a layer, each some hundred nanoseconds. Lanes are output rows of a
matrix, or channels, or entries of the state, or positions, whichever is contiguous.

A *phase* is one matrix with what follows it, a *unit* LANES of its rows, a *task* up to TASK_UNITS
units.

    phase     computes                                         writes
    IN_PROJ   norm, in_proj, convolution and SiLU; silu(z)     x, gate, conv_state
    X_PROJ    x_proj                                           dt_B_C
    SCAN      dt_proj, softplus, one step of the scan, gate    y, ssm_state
    OUT_PROJ  out_proj, added to the residual stream           hidden
    QKV       norm, in_proj of an attention layer              qkv
    ATTEND    norm of heads, rotation, attention               key, value, parts, mixed
    MERGE     out_proj, added to the residual stream           hidden
    GATE      norm, both halves of fc1, SiLU, product          inner
    GELU      norm, fc1, GELU                                  inner
    DOWN      fc2, added to the residual stream                hidden
    HEAD      last norm, projection to the vocabulary          logits

Scratch memory of a worker, in this order; all float32:

    name     shape               written by                      read by
    spare    (2, LANES)          scan: delta, delta u; a sum     scan, normalise
    scratch  (b, LANES, LANES)   products: sums lane by lane     sums: one total a lane
    normal   (b, d_model)        normalise, by every worker      IN_PROJ, QKV, GATE, GELU, HEAD
    query    (head_dim,) padded  ATTEND: query of a head         the units of this head
    rotated  (head_dim,) padded  ATTEND: its new key             ATTEND
    weights  (CHUNK,)            ATTEND: scores, then weights    ATTEND
"""

from collections.abc import Callable
from typing import Any

from mambalab.ops.cpu.products import normalise, project
from mambalab.ops.cpu.simd import LANES, VECTOR_BYTES, carray, inline, load_float, load_int
from mambalab.ops.cpu.step_attention import attend, chunks, gate
from mambalab.ops.cpu.step_layout import (
    A_IN_PROJ,
    A_N_HEAD,
    A_OUT_PROJ,
    ATTEND,
    COUNTER_BYTES,
    DOWN,
    F_D_FF,
    F_FC1,
    F_FC2,
    GATE,
    GELU,
    HEAD,
    IN_PROJ,
    M_OUT_PROJ,
    M_X_PROJ,
    MERGE,
    OUT_PROJ,
    PHASE_BYTES,
    QKV,
    SCAN,
    X_PROJ,
)
from mambalab.ops.cpu.step_mamba import project_in, scan
from mambalab.ops.cpu.threads import arrive, flush_denormals, restore, take_ticket, wait_for

TASK_UNITS = 4
_SHARES = 8  # tasks that a small phase is cut into at least, for threads to share evenly
_V = VECTOR_BYTES


@inline
def _matrix(a, layer, kind, normal):
    """Say what a phase multiplies: matrix, rows, width, x, target, and whether it is added."""
    if kind == X_PROJ:
        return load_int(layer + M_X_PROJ), a.rank + 2 * a.d_state, a.d_inner, a.x, a.dt_B_C, False
    if kind == OUT_PROJ:
        return load_int(layer + M_OUT_PROJ), a.d_model, a.d_inner, a.y, a.hidden, True
    if kind == QKV:
        return load_int(layer + A_IN_PROJ), 3 * a.d_model, a.d_model, normal, a.qkv, False
    if kind == MERGE:
        return load_int(layer + A_OUT_PROJ), a.d_model, a.d_model, a.mixed, a.hidden, True
    if kind == GELU:
        d_ff = load_int(layer + F_D_FF)
        return load_int(layer + F_FC1), d_ff, a.d_model, normal, a.inner, False
    if kind == DOWN:
        d_ff = load_int(layer + F_D_FF)
        return load_int(layer + F_FC2), a.d_model, d_ff, a.inner, a.hidden, True
    return a.head, a.vocab_size, a.d_model, normal, a.logits, False


@inline
def _units(a, layer, kind):
    """Count the units of a phase."""
    if kind == IN_PROJ:
        return 2 * -(-a.d_inner // LANES)
    if kind == SCAN:
        return -(-a.d_inner // LANES)
    if kind == ATTEND:
        return a.batch * load_int(layer + A_N_HEAD) * chunks(layer, a.batch)
    if kind == GATE:
        return -(-load_int(layer + F_D_FF) // LANES)
    return -(-_matrix(a, layer, kind, 0)[1] // LANES)


@inline
def _do(a, layer, bf16, kind, eps, unit, units, fresh, ahead, normal, scratch, spare):
    """Compute one unit of a phase."""
    if kind == IN_PROJ:
        project_in(a, layer, bf16, unit, normal, scratch)
    elif kind == SCAN:
        scan(a, layer, bf16, unit, scratch, spare)
    elif kind == ATTEND:
        count = units // (a.batch * load_int(layer + A_N_HEAD))
        query = normal + a.batch * a.d_model * 4
        attend(a, layer, bf16, eps, unit, count, fresh or unit % count == 0, ahead, scratch, query)
    elif kind == GATE:
        gate(a, layer, bf16, unit, normal, scratch)
    else:
        weight, rows, width, x, out, add = _matrix(a, layer, kind, normal)
        project(weight, bf16, unit, rows, width, x, a.batch, out, add, kind == GELU, scratch)


def build_step(sources: int, bf16: bool) -> Callable[[Any], None]:
    """Build the Python function of one step, for bfloat16 matrices if `bf16`, else float32.

    `sources` identifies the code in numba's cache key.
    """

    def decoding_step(block):
        _ = sources
        a = carray(block, 1)[0]
        worker = take_ticket(a.tickets)
        before = flush_denormals()
        spare = a.scratch + worker * a.scratch_bytes  # (2, LANES)
        scratch = spare + 2 * _V  # (b, LANES, LANES)
        normal = scratch + a.batch * LANES * _V  # (b, d_model)
        eps = load_float(a.eps)
        for phase in range(a.phases):
            kind = load_int(a.program + phase * PHASE_BYTES)
            layer = load_int(a.program + phase * PHASE_BYTES + 8)
            if kind in (IN_PROJ, QKV, GATE, GELU, HEAD):
                weight = a.norm_f if kind == HEAD else load_int(layer)
                normalise(a.hidden, weight, eps, a.batch, a.d_model, normal, spare)
            counter = a.counters + phase * COUNTER_BYTES
            units = _units(a, layer, kind)
            each = max(1, min(TASK_UNITS, units // _SHARES))
            tasks = -(-units // each)
            while True:
                task = take_ticket(counter)
                if task >= tasks:
                    break
                first, last = task * each, min(units, (task + 1) * each)
                for unit in range(first, last):
                    fresh, ahead = unit == first, unit + 1 < last
                    _do(
                        a, layer, bf16, kind, eps, unit, units, fresh, ahead, normal, scratch, spare
                    )
                arrive(counter + COUNTER_BYTES // 2)
            wait_for(
                counter + COUNTER_BYTES // 2, tasks
            )  # the next phase reads what this one wrote
        restore(before)

    return decoding_step
