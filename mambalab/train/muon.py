"""Muon for the matrices of layers and AdamW for the rest, as one optimiser."""

from typing import Any

import torch
from torch import Tensor, nn

# Tall and thin, and drawn such that with its bias it makes delta what the paper asks for: equal
# steps in all directions, which Muon takes, would undo that.
_NOT_FOR_MUON = "dt_proj"


def hidden_matrices(model: nn.Module) -> set[nn.Parameter]:
    """Find the matrices that Muon is for: weights of linear maps inside a numbered layer.

    These are in_proj, x_proj and out_proj of Mamba, and all matrices of attention and its FFN.
    Embedding and head (one row a token or class: each has its own scale), norms, biases, conv1d (no
    matrix), A_log and D (which the scan uses entry by entry) and dt_proj are not among them.
    """
    found = set()
    for path, module in model.named_modules():
        parts = path.split(".")
        layered = any(part.isdecimal() for part in parts)
        if isinstance(module, nn.Linear) and layered and parts[-1] != _NOT_FOR_MUON:
            found.add(module.weight)
    return found


class MuonWithAdamW(torch.optim.Optimizer):
    """Steps two optimisers together, and saves and loads both.

    Args:
        muon, adamw: made already; no parameter is in both.

    Attributes:
        param_groups: of both, the same dictionaries; an entry `lr_ratio` scales a group's rate.
        found_inf: if set and not 0, `step` changes nothing.
    """

    def __init__(self, muon: torch.optim.Optimizer, adamw: torch.optim.Optimizer) -> None:
        self.muon, self.adamw = muon, adamw
        self.found_inf: Tensor | None = None
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Step both; waits for the device, since Muon by itself knows no `found_inf`."""
        assert closure is None
        if self.found_inf is not None and bool(self.found_inf):
            return
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go back to the moment of `state_dict`.

        Raises:
            LookupError: it is the state of another optimiser.
            ValueError: of one with other groups.
        """
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self._share_groups()
