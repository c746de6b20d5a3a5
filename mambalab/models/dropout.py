"""Ordinary dropout, and SSM dropout for the parameters of a selective state space model.

SSM dropout acts at training time with probability `ssm_p`: B_t and C_t get ordinary (inverted)
dropout, and each entry of A_log is *reset* to its S4D-real initial value log(n) for one forward
pass, so that a channel cannot come to rely on one tuned time scale.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambalab.models.layers import untouched
from mambalab.ops.dispatch import transforming
from mambalab.ops.dropped_sum import dropped, dropped_sum, fits
from mambalab.settings.model import DropoutSettings

NO_DROPOUT = DropoutSettings(name="none", p=0.0, ssm_p=0.0, reset_A=True)
"""What conf/dropout/none.yaml says, for models that are built without a configuration."""


class Dropout(nn.Module):
    """Inverted dropout: entries become 0 with probability p, the others grow by 1 / (1 - p).

    Has the distribution of `torch.nn.Dropout`, several times faster on a CPU, where drawing random
    numbers one by one is what costs: each 64-bit draw decides four entries, so p is rounded to
    the nearest 1/65536.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop entries of x, of any shape and dtype; the identity in evaluation or at p = 0."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling() or transforming():
            return F.dropout(x, self.p)
        cut = round(self.p * 65536)
        if cut == 65536:
            return x * 0.0
        return dropped(x, _draws(x), cut)

    def add(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Return hidden + self(x), to the last bit, in one pass where that is possible."""
        cut = round(self.p * 65536)
        plain = not self.training or not 0 < cut < 65536 or not fits(hidden, x)
        if plain or torch.compiler.is_compiling() or transforming() or not untouched(self):
            return hidden + self(x)
        return dropped_sum(hidden, x, _draws(x), cut)

    def extra_repr(self) -> str:
        """Arguments that `print(model)` shows."""
        return f"p={self.p}"


def _draws(x: Tensor) -> Tensor:
    """Draw an int16 for each entry of x, all 65536 values equally likely, seeded by torch."""
    seed = int(torch.randint(2**62, ()))
    source = np.random.Generator(np.random.SFC64(seed))
    words = source.integers(0, 2**64, size=(x.numel() + 3) // 4, dtype=np.uint64)
    return torch.from_numpy(words.view(np.int16))[: x.numel()].view(x.shape)


def s4d_real_log(d_inner: int, d_state: int, device: torch.device | None = None) -> Tensor:
    """S4D-real initial A_log (arXiv 2206.11893): log(1..n) for each channel, (d, n) float32."""
    row = torch.arange(1, d_state + 1, dtype=torch.float32, device=device)
    return row.log().repeat(d_inner, 1)


class SSMDropout(nn.Module):
    """SSM dropout: ordinary dropout of B_t and C_t, and a reset or dropout of A_log.

    Args:
        p: probability for each entry of B_t and C_t, and for each entry of A_log.
        reset_A: dropped entries of A_log take their initial value log(n), the others stay as
            they are; otherwise A_log gets ordinary inverted dropout.
    """

    def __init__(self, p: float, reset_A: bool) -> None:
        super().__init__()
        self.p = p
        self.reset_A = reset_A
        self.drop = Dropout(p)

    def forward(self, A_log: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Drop entries of A_log (d, n), B and C (b, l, n); the identity in evaluation.

        One mask of shape (d, n) serves the whole batch. A reset entry receives no gradient.
        """
        if not self.training or self.p == 0:
            return A_log, B, C
        if self.reset_A:
            reset = torch.rand(A_log.shape, device=A_log.device) < self.p
            initial = s4d_real_log(*A_log.shape, device=A_log.device)
            A_log = torch.where(reset, initial.to(A_log.dtype), A_log)
        else:
            A_log = F.dropout(A_log, self.p)
        return A_log, self.drop(B), self.drop(C)

    def extra_repr(self) -> str:
        """Arguments that `print(model)` shows."""
        return f"p={self.p}, reset_A={self.reset_A}"
