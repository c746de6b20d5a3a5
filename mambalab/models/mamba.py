"""The Mamba mixer (arXiv 2312.00752, section 3.4 and Algorithm 2), with mamba_ssm's names."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambalab.models.dropout import SSMDropout, s4d_real_log
from mambalab.models.layers import as_built
from mambalab.models.state import MambaState, check_once, readable, updated
from mambalab.ops import causal_conv1d, selective_scan
from mambalab.ops.reference import compute_dtype
from mambalab.settings.model import ModelSettings


class DepthwiseConv1d(nn.Module):
    """Parameters of the causal depthwise convolution, shaped as mamba_ssm's `nn.Conv1d`.

    weight (d_inner, 1, d_conv), bias (d_inner,); both uniform in +-d_conv^-0.5.
    """

    def __init__(self, d_inner: int, d_conv: int) -> None:
        super().__init__()
        bound = d_conv**-0.5
        self.weight = nn.Parameter(torch.empty(d_inner, 1, d_conv).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(d_inner).uniform_(-bound, bound))


class SelectiveSSM(nn.Module):
    """Convolution, SiLU, selective scan and gate: one direction of a Mamba mixer.

    Args:
        settings: d_model, d_state, d_conv, expand, dt_rank, dt_min, dt_max, dt_init_floor and
            scan_backend are read.
        dropout: drops entries of A_log, B and C at training time.
    """

    def __init__(self, settings: ModelSettings, dropout: SSMDropout) -> None:
        super().__init__()
        self._build(settings, dropout)

    def _build(self, settings: ModelSettings, dropout: SSMDropout) -> None:
        """Create submodules and initial values; a subclass adds its own in between.

        The order in which parameters draw from torch's generator decides what a seed gives, and
        that of registration how a checkpoint is laid out: neither may change.
        """
        self._add_parameters(settings)
        self._initialise_delta(settings)
        self.dropout = dropout

    def _add_parameters(self, settings: ModelSettings) -> None:
        """Register conv1d, x_proj, dt_proj, A_log and D, and note the sizes."""
        d_state, d_inner = settings.d_state, settings.expand * settings.d_model
        self.d_inner, self.d_state, self.d_conv = d_inner, d_state, settings.d_conv
        self.dt_rank = dt_rank(settings)
        self.backend = settings.scan_backend.value
        self.conv1d = DepthwiseConv1d(d_inner, settings.d_conv)
        self.x_proj = nn.Linear(d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, d_inner)
        self.A_log = nn.Parameter(s4d_real_log(d_inner, d_state))
        self.D = nn.Parameter(torch.ones(d_inner))

    def _initialise_delta(self, settings: ModelSettings) -> None:
        """Draw delta log-uniform in [dt_min, dt_max] (section 3.6); bias = softplus^-1(delta)."""
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        low, high = math.log(settings.dt_min), math.log(settings.dt_max)
        delta = torch.empty(self.d_inner).uniform_(low, high).exp()
        delta = delta.clamp(min=settings.dt_init_floor)
        with torch.no_grad():
            self.dt_proj.bias.copy_(delta + torch.log(-torch.expm1(-delta)))

    def mix(self, xz: Tensor, state: MambaState | None = None) -> Tensor:
        """Map input and gate (b, l, 2 * d_inner) to (b, l, d_inner).

        Continues from `state` and updates it if given (see `mambalab.models.state`).
        """
        x, z = xz.chunk(2, dim=-1)
        carry = state is not None
        if state is not None:
            check_once(state)
        x = causal_conv1d(
            x,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            activation="silu",
            initial_state=readable(state.conv) if state else None,
            return_final_state=carry,
            backend=self.backend,
        )
        if state is not None:
            x, conv = x
            state.conv = updated(state.conv, conv)
        assert isinstance(x, Tensor)
        sizes = [self.dt_rank, self.d_state, self.d_state]
        low_rank, B, C = self.x_proj(x).split(sizes, dim=-1)
        delta, delta_bias = self.delta(low_rank)
        A_log, B, C = self.dropout(wide(self.A_log), B, C)
        y = selective_scan(
            x,
            delta,
            -torch.exp(A_log),
            B,
            C,
            D=wide(self.D),
            z=z,
            delta_bias=delta_bias,
            delta_softplus=True,
            initial_state=readable(state.ssm) if state else None,
            return_final_state=carry,
            backend=self.backend,
        )
        if state is not None:
            y, ssm = y
            state.ssm = updated(state.ssm, ssm)
        assert isinstance(y, Tensor)
        return y

    def delta(self, low_rank: Tensor) -> tuple[Tensor, Tensor | None]:
        """Project (b, l, dt_rank) to delta before softplus (b, l, d_inner), and its bias apart.

        The scan adds the bias in its own dtype. A dt_proj that was changed (an adapter, a hook, a
        quantised layer) is called instead and has the bias in its result: None.
        """
        linear = self.dt_proj
        if not as_built(linear):
            return linear(low_rank), None
        bias = linear.bias
        return F.linear(low_rank, linear.weight), None if bias is None else wide(bias)


def wide(x: Tensor) -> Tensor:
    """Convert to the dtype in which the scan computes: float32, float64 for float64."""
    return x.to(compute_dtype(x.dtype))


class Mamba(SelectiveSSM):
    """Selective SSM with its convolution, gate and projections.

    With `settings.bidirectional` a second SSM of its own weights, `reverse`, reads the same
    projected sequence from its end; the two outputs are added before the shared out_proj
    (as in arXiv 2401.09417, section 3.3).

    Args:
        settings: all that `SelectiveSSM` reads, n_layer (for the scale of out_proj) and
            bidirectional.
        dropout: drops entries of A_log, B and C at training time; none by default.
    """

    def __init__(self, settings: ModelSettings, dropout: SSMDropout | None = None) -> None:
        super().__init__(settings, dropout or SSMDropout(0.0, reset_A=True))

    def _build(self, settings: ModelSettings, dropout: SSMDropout) -> None:
        """Create both projections around the SSM's parameters, in the order that seeds rely on."""
        d_inner = settings.expand * settings.d_model
        self.in_proj = nn.Linear(settings.d_model, 2 * d_inner, bias=False)
        self._add_parameters(settings)
        self.out_proj = nn.Linear(d_inner, settings.d_model, bias=False)
        self.dropout = dropout
        self._initialise_delta(settings)
        with torch.no_grad():
            self.out_proj.weight /= math.sqrt(settings.n_layer)  # each layer adds to the residual
        again = SSMDropout(dropout.p, dropout.reset_A)
        self.reverse = SelectiveSSM(settings, again) if settings.bidirectional else None

    def initial_state(self, batch_size: int, max_len: int) -> MambaState:
        """State of zeros for new sequences; its size does not depend on `max_len`."""
        del max_len
        weight = self.conv1d.weight
        conv = weight.new_zeros(batch_size, self.d_inner, self.d_conv - 1)
        shape = batch_size, self.d_inner, self.d_state
        ssm = weight.new_zeros(shape, dtype=compute_dtype(weight.dtype))
        return MambaState(conv, ssm)

    def forward(
        self, hidden: Tensor, state: MambaState | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Map (b, l, d_model) to (b, l, d_model); continue from `state` and update it if given.

        `lengths` (b,) int64 is where each sequence ends: the reverse direction begins there.

        Raises:
            ValueError: a state for a bidirectional mixer, which needs the whole sequence at once.
        """
        if self.reverse is not None and state is not None:
            raise ValueError("a bidirectional Mamba carries no state: it reads the end first")
        xz = self.in_proj(hidden)
        y = self.mix(xz, state)
        if self.reverse is not None:
            y = y + reverse(self.reverse.mix(reverse(xz, lengths)), lengths)
        return self.out_proj(y)


def reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverse the first `lengths[i]` steps of each sequence i of x (b, l, ...); its own inverse.

    The padding after them stays where it is; `lengths` None reverses all steps.
    """
    if lengths is None:
        return x.flip(1)
    step = torch.arange(x.shape[1], device=x.device)
    ends = lengths[:, None]
    source = torch.where(step < ends, ends - 1 - step, step)
    return x.gather(1, source[..., None].expand_as(x))


def dt_rank(settings: ModelSettings) -> int:
    """Rank of the delta projection; `auto` is ceil(d_model / 16)."""
    if settings.dt_rank == "auto":
        return math.ceil(settings.d_model / 16)
    return int(settings.dt_rank)


def parameter_count(settings: ModelSettings) -> int:
    """Count the parameters of one Mamba mixer from its settings alone."""
    d_model, d_inner = settings.d_model, settings.expand * settings.d_model
    rank, d_state = dt_rank(settings), settings.d_state
    ssm = d_inner * (rank + 2 * d_state) + rank * d_inner + d_inner  # x_proj, dt_proj
    ssm += d_inner * (settings.d_conv + 1) + d_inner * d_state + d_inner  # conv1d, A_log, D
    return 3 * d_model * d_inner + ssm * (2 if settings.bidirectional else 1)
