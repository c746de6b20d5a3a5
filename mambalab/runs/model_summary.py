"""Sums up a model without computing anything: layers, parameters, operations, memory.

Everything runs on fake tensors, which have a shape and a device but no content: a large model takes
no memory, and the kernels, and what they keep for the backward pass, are those of the real device.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils.flop_counter import FlopCounterMode

from mambalab import config
from mambalab.errors import UserError
from mambalab.models.dropout import Dropout
from mambalab.models.heads import count_parameters
from mambalab.ops.flops import formulas
from mambalab.runs import user_code
from mambalab.runs.build import build_model, is_ours
from mambalab.settings.model import ScanBackend
from mambalab.settings.train import Precision
from mambalab.spec import ModelSpec
from mambalab.train import runtime
from mambalab.train.averaging import WeightAverage
from mambalab.train.optim import build_optimizer

EMBEDDINGS = ("embedding", "positions")  # last parts of the names of what embeds


@dataclass(frozen=True)
class Layer:
    """A row of the summary.

    Attributes:
        name: path of the module or parameter in the model.
        kind: its class.
        shape: of its output for a batch, (b, l, d) mostly; None if it was not called.
        parameters: trainable ones; those shared with a layer above count there.
        flops: forward, for the batch.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int
    flops: int


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step holds, of each kind."""

    parameters: int
    gradients: int
    optimiser: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        """All of them, at the moment between forward and backward pass."""
        return self.parameters + self.gradients + self.optimiser + self.average + self.activations


@dataclass(frozen=True)
class ModelSummary:
    """What there is to know of a model before it is trained.

    Attributes:
        layers: in the order of the model.
        parameters: trainable ones, shared ones once.
        embeddings: those of them that embed inputs and positions.
        batch_size: sequences (or pairs) in a batch.
        tokens: steps of all sequences of a batch.
        forward, backward: floating-point operations for a batch, a multiply-add as two.
        memory: of a training step over one batch.
        device, precision: for which that holds.
    """

    layers: list[Layer]
    parameters: int
    embeddings: int
    batch_size: int
    tokens: int
    forward: int
    backward: int
    memory: Memory
    device: str
    precision: str


def summarise(
    settings: config.TrainConfig, spec: ModelSpec, device: torch.device, precision: Precision
) -> ModelSummary:
    """Sum up the model that the settings and the shape of a task make.

    Args:
        settings: of a run.
        spec: of its task.
        device, precision: with which it would be trained; nothing is computed there.

    Raises:
        UserError: no such model can be made, or a class of the user's own needs real numbers.
    """
    try:
        found = _summarise(settings, spec, device, precision)
        if settings.model.scan_backend is not ScanBackend.reference:
            return found
        # Plain tensor operations, which nobody can tell from others: counted as the operators'.
        model = dataclasses.replace(settings.model, scan_backend=ScanBackend.torch)
        same = _summarise(dataclasses.replace(settings, model=model), spec, device, precision)
        counts = {"layers": same.layers, "forward": same.forward, "backward": same.backward}
        return dataclasses.replace(found, **counts)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise UserError(
            f"model._target_={settings.model._target_}: its forward asks for the value of a "
            "tensor, as .item() does; a summary computes none, so this model has no summary"
        ) from error


def _summarise(
    settings: config.TrainConfig, spec: ModelSpec, device: torch.device, precision: Precision
) -> ModelSummary:
    own = not is_ours(settings.model._target_)
    kind = config.resolve_target(settings.model._target_) if own else nn.Module
    with FakeTensorMode(), _one_line_errors(kind), torch.device(device):
        model = build_model(settings, spec)
        _draw_nothing(model)
        inputs, targets = _batch(spec, settings.task.batch_size)
        counter = FlopCounterMode(display=False, custom_mapping=formulas())
        rows = _Rows(model, counter)
        saved = _Saved(model)
        hooks = torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor)
        with hooks, counter:
            with rows, runtime.autocast(device, precision):
                loss = _loss(model(inputs), targets)
            forward = counter.get_total_flops()
            loss.backward()
        memory = Memory(
            parameters=_bytes(model.parameters()),
            gradients=_bytes(p.grad for p in model.parameters()),
            optimiser=_optimiser_bytes(model, settings),
            average=_average_bytes(model, settings),
            activations=saved.bytes,
        )
    layers = rows.layers()
    return ModelSummary(
        layers=layers,
        parameters=count_parameters(model),
        embeddings=sum(
            layer.parameters for layer in layers if layer.name.split(".")[-1] in EMBEDDINGS
        ),
        batch_size=settings.task.batch_size,
        tokens=inputs.numel() // (spec.input_dim or 1),
        forward=forward,
        backward=counter.get_total_flops() - forward,
        memory=memory,
        device=str(device),
        precision=precision.value,
    )


@contextmanager
def _one_line_errors(kind: type) -> Iterator[None]:
    """As `user_code.one_line_errors`, but for what says that there are no numbers."""
    try:
        with user_code.one_line_errors(model=kind):
            yield
    except UserError as error:
        if isinstance(error.__cause__, DataDependentOutputException | DynamicOutputShapeException):
            raise error.__cause__ from None
        raise


def _draw_nothing(model: nn.Module) -> None:
    """Let our dropout on a CPU, which asks for a real random number, make a mask without one."""

    def drop(x: Tensor) -> Tensor:
        return torch.where(x.new_empty(x.shape, dtype=torch.bool), x * 1.0, 0.0)

    for module in model.modules():
        if isinstance(module, Dropout) and module.p and _device(model).type == "cpu":
            module.forward = drop


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _batch(spec: ModelSpec, batch_size: int) -> tuple[Tensor, Tensor]:
    """Inputs of a training batch, and what a loss compares the outputs with."""
    shape = (batch_size, 2, spec.seq_len) if spec.pair else (batch_size, spec.seq_len)
    if spec.input_dim:
        inputs = torch.zeros(*shape, spec.input_dim)
    else:
        inputs = torch.zeros(shape, dtype=torch.int64)
    targets = torch.zeros(shape[:1] if spec.classes else shape, dtype=torch.int64)
    return inputs, targets


def _loss(output: Any, targets: Tensor) -> Tensor:
    """Cross-entropy as the tasks compute it; the sum of what no logits can be."""
    if not isinstance(output, Tensor) or output.shape[:-1] != targets.shape:
        return sum(x.float().sum() for x in _tensors(output))  # pyright: ignore[reportReturnType]
    return F.cross_entropy(output.flatten(0, -2).float(), targets.flatten())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


class _Rows:
    """Notes shapes and operations of the parts of a model while it is called.

    A part is a module that holds no numbered layers; a parameter beside such is one, too.
    """

    def __init__(self, model: nn.Module, counter: FlopCounterMode) -> None:
        self._counter = counter
        self._parts = list(_parts(model, ""))
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._flops: dict[str, int] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for name, part in self._parts:
            if isinstance(part, nn.Module):
                self._handles += self._hooks(name, part)

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hooks(self, name: str, part: nn.Module) -> list[Any]:
        begun: list[int] = []

        def before(*_: Any) -> None:
            begun.append(self._counter.get_total_flops())

        def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
            spent = self._counter.get_total_flops() - begun.pop()
            self._flops[name] = self._flops.get(name, 0) + spent
            if (found := next(_tensors(output), None)) is not None:
                self._shapes[name] = tuple(found.shape)

        return [part.register_forward_pre_hook(before), part.register_forward_hook(after)]

    def layers(self) -> list[Layer]:
        """Return the rows; a parameter that several parts share counts in the first."""
        seen: set[int] = set()
        found = []
        for name, part in self._parts:
            own = [part] if isinstance(part, Tensor) else list(part.parameters())
            new = [p for p in own if p.requires_grad and id(p) not in seen]
            seen |= {id(p) for p in new}
            shape = tuple(part.shape) if isinstance(part, Tensor) else self._shapes.get(name)
            count = sum(p.numel() for p in new)
            kind = "Parameter" if isinstance(part, Tensor) else type(part).__name__
            found.append(Layer(name, kind, shape, count, self._flops.get(name, 0)))
        return found


def _parts(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    for name, parameter in module.named_parameters(recurse=False):
        yield prefix + name, parameter
    for name, child in module.named_children():
        lists = isinstance(child, nn.ModuleList | nn.Sequential)
        if lists or any(isinstance(m, nn.ModuleList) for m in child.modules()):
            yield from _parts(child, f"{prefix}{name}.")
        elif next(child.parameters(), None) is not None:
            yield prefix + name, child


class _Saved:
    """Adds up the bytes that autograd keeps for the backward pass, parameters left out."""

    def __init__(self, model: nn.Module) -> None:
        self._seen = {_place(tensor) for tensor in [*model.parameters(), *model.buffers()]}
        self._held: list[Any] = []  # so that no later storage has the place of one that is gone
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor's storage, once."""
        if (place := _place(tensor)) not in self._seen:
            self._seen.add(place)
            self._held.append(tensor)
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensors: Any) -> int:
    return sum(t.nbytes for t in tensors if t is not None)


def _optimiser_bytes(model: nn.Module, settings: config.TrainConfig) -> int:
    """Bytes of the moments after one step, which is done on fake tensors, too."""
    optimizer = build_optimizer(model, settings.optim)
    optimizer.step()
    inner = [getattr(optimizer, name) for name in ("muon", "adamw") if hasattr(optimizer, name)]
    states = [state for one in inner or [optimizer] for state in one.state.values()]
    return _bytes(v for state in states for v in state.values() if isinstance(v, Tensor))


def _average_bytes(model: nn.Module, settings: config.TrainConfig) -> int:
    decay = settings.trainer.ema
    return _bytes(WeightAverage(model, decay).state_dict().values()) if decay else 0
