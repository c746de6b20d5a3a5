"""How several processes train one model: each holds the whole of it (DDP) or a part (FSDP2).

The trainer's own model stays a plain one, which everything but the steps uses: evaluations,
samples, checkpoints. With DDP its parameters are those that are trained. With FSDP2 a copy is
trained whose parameters, gradients and moments are shared out (arXiv 2304.11277); the plain model
is filled from it inside `whole`, and empty otherwise. A checkpoint is therefore the same whatever
made it, and another number of processes goes on from it.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mambalab.errors import UserError
from mambalab.settings.train import Strategy, TrainerSettings
from mambalab.train.ranks import ALONE, Ranks
from mambalab.train.state import TrainState


class Together:
    """Training by one process; subclasses are for several.

    Args:
        model: the plain one, on its device.
        settings: whether to compile it.
        ranks: the processes.
        seed: of the run.

    Attributes:
        module: what a training step calls.
        evaluated: what an evaluation calls, inside `whole`.
    """

    def __init__(
        self, model: nn.Module, settings: TrainerSettings, ranks: Ranks = ALONE, *, seed: int = 0
    ) -> None:
        self.model = model
        self.settings = settings
        self.ranks = ranks
        self.seed = seed
        self.module = self.evaluated = self.compiled(model)

    def compiled(self, model: nn.Module) -> nn.Module:
        """The model, compiled if it shall be."""
        if not self.settings.compile:
            return model
        return torch.compile(model)  # pyright: ignore[reportReturnType]

    def begin(self, state: TrainState, build: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
        """Give all processes the weights and the state of rank 0.

        Args:
            state: of rank 0 as restored; its optimiser may be replaced.
            build: makes an optimiser for a model.
        """

    def seed_step(self, step: int) -> None:
        """Draw the random numbers of a step; alone they just go on."""

    def averaging(self, last: bool) -> Any:
        """The context of a backward pass: gradients are averaged in the last of a step."""
        del last
        return nullcontext()

    def clip(self, limit: float) -> Tensor:
        """Scale all gradients so that their norm is `limit` at most; returns the norm before."""
        return nn.utils.clip_grad_norm_(self.module.parameters(), limit)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside the block the plain model has the weights."""
        yield

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """`optimizer.state_dict()` as one process would have it."""
        return optimizer.state_dict()


class _Several(Together):
    """What both strategies do alike."""

    def begin(self, state: TrainState, build: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
        """Give all processes the weights and the state of rank 0."""
        for tensor in self.model.state_dict().values():
            dist.broadcast(tensor, src=0)
        mine = {"step": state.step, "state": on_cpu(state.state_dict())}
        told = self.ranks.tell(mine if self.ranks.is_first else None)
        state.load_state_dict(told["state"], step=told["step"])

    def seed_step(self, step: int) -> None:
        """Draw a step's random numbers anew from seed, step and rank: any process can go on.

        Dropout of the same run with another number of processes is therefore another: its masks
        have another shape in each process.
        """
        words = np.random.SeedSequence((self.seed, step, self.ranks.rank)).generate_state(2)
        torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


class Copies(_Several):
    """DDP: each process has the whole model; gradients are averaged while they are computed."""

    def begin(self, state: TrainState, build: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
        """Wrap the model, which gives all of them the weights of rank 0."""
        super().begin(state, build)
        device = next(self.model.parameters()).device
        wrap = nn.parallel.DistributedDataParallel
        # A rotary table is the same everywhere; running statistics are taken over in `whole`.
        names = ("forward_sync_buffers", "broadcast_buffers")  # the latter before torch 2.13
        known = inspect.signature(wrap).parameters
        quiet: dict[str, Any] = {next(name for name in names if name in known): False}
        ids = [device] if device.type == "cuda" else None
        # Ours use every parameter in every step; to look for those left out takes its time.
        other = type(self.model).__module__.partition(".")[0] != "mambalab"
        self.module: nn.Module = wrap(
            self.evaluated, device_ids=ids, find_unused_parameters=other, **quiet
        )

    def averaging(self, last: bool) -> Any:
        """Leave the gradients alone but in the last backward pass of a step."""
        assert isinstance(self.module, nn.parallel.DistributedDataParallel)
        return nullcontext() if last else self.module.no_sync()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Have the running statistics of rank 0 on all, if the model has any."""
        for buffer in self.model.buffers():
            dist.broadcast(buffer, src=0)
        yield


class Shards(_Several):
    """FSDP2: weights, gradients and moments are shared out; a layer is whole while it computes."""

    def begin(self, state: TrainState, build: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
        """Share the model and the moments out."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        _refuse_scalars(self.model)
        super().begin(state, build)
        moments = state.optimizer.state_dict()
        sharded = copy.deepcopy(self.model)
        for parameter in sharded.parameters():
            parameter.data = parameter.data.contiguous()
        device = next(self.model.parameters()).device
        mesh = init_device_mesh(device.type, (self.ranks.size,))
        for layer in layers_of(sharded):
            fully_shard(layer, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        self._sharded: Any = sharded
        self._depth = 0
        self.module, self.evaluated = self.compiled(sharded), self.model
        state.optimizer = build(sharded)
        _load_moments(state.optimizer, moments)
        self._empty()

    def averaging(self, last: bool) -> Any:
        """Leave the gradients alone but in the last backward pass of a step."""
        self._sharded.set_requires_gradient_sync(last)
        return nullcontext()

    def clip(self, limit: float) -> Tensor:
        """Scale all gradients so that their norm is `limit` at most; returns the norm before."""
        norm: Any = nn.utils.clip_grad_norm_(self._sharded.parameters(), limit)
        return norm.full_tensor()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Gather the weights into the plain model for as long as the block lasts."""
        self._depth += 1
        if self._depth == 1:
            plain = dict(self.model.named_parameters())
            for name, parameter in self._sharded.named_parameters():
                plain[name].data = parameter.full_tensor().detach()
            buffers = dict(self.model.named_buffers())  # those made while training stay there
            for name, buffer in self._sharded.named_buffers():
                dist.broadcast(buffer, src=0)  # running statistics, as with DDP
                if name in buffers:
                    buffers[name].copy_(buffer)
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._empty()

    def _empty(self) -> None:
        for parameter in self.model.parameters():
            parameter.data = parameter.data.new_empty(0)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Gather the moments."""
        return pytree.tree_map(_gathered, optimizer.state_dict())


_STRATEGIES: dict[Strategy, type[Together]] = {Strategy.ddp: Copies, Strategy.fsdp2: Shards}


def together(model: nn.Module, settings: TrainerSettings, ranks: Ranks, seed: int) -> Together:
    """Choose how the processes train the model: alone, or by `trainer.strategy`."""
    kind = _STRATEGIES[settings.strategy or Strategy.ddp] if ranks.size > 1 else Together
    return kind(model, settings, ranks, seed=seed)


def on_cpu(tree: Any) -> Any:
    """Copy the tensors of a nested state to the CPU, as another process may read them."""
    return pytree.tree_map(lambda x: x.cpu() if isinstance(x, Tensor) else x, tree)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Find the layers whose weights are gathered one at a time: the entries of `nn.ModuleList`s.

    One inside another belongs to that. A layer that shares weights with another part of the model
    is none: they are gathered with the rest of the model.
    """
    uses: dict[nn.Parameter, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            uses[parameter] = uses.get(parameter, 0) + 1
    found: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList):
                own: dict[nn.Parameter, int] = {}
                for part in child.modules():
                    for parameter in part.parameters(recurse=False):
                        own[parameter] = own.get(parameter, 0) + 1
                if all(uses[parameter] == count for parameter, count in own.items()):
                    found.append(child)
            else:
                look(child)

    look(model)
    return list(dict.fromkeys(found))


def _refuse_scalars(model: nn.Module) -> None:
    """Raise UserError for a parameter without a dimension, of which there are no parts."""
    scalars = [name for name, parameter in model.named_parameters() if not parameter.ndim]
    if scalars:
        raise UserError(
            f"trainer.strategy=fsdp2: the parameter {scalars[0]} of the model is a scalar, which "
            "cannot be shared out; give it a dimension, torch.zeros(1), or use "
            "trainer.strategy=ddp"
        )


def _gathered(value: Any) -> Any:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _load_moments(optimizer: torch.optim.Optimizer, moments: dict[str, Any]) -> None:
    """Load the state of an optimiser of the plain model into that of the sharded one."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shared: dict[Any, Any] = {}
    for index, values in moments["state"].items():
        of = parameters[index]
        assert isinstance(of, DTensor)
        shared[index] = {
            key: distribute_tensor(value.to(of.device), of.device_mesh, of.placements)
            if isinstance(value, Tensor) and value.shape == of.shape
            else value
            for key, value in values.items()
        }
    optimizer.load_state_dict({**moments, "state": shared})
