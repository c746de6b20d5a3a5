"""Decoding on a GPU by CUDA graphs: the launches of one step are recorded once and replayed.

One token a sequence is little work, and a step of a model is hundreds of launches: started one by
one they take longer than the work itself. A graph starts all of them at once. It reads and writes
fixed memory, so the state of the sequences moves into the graph's.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mambalab.errors import first_line
from mambalab.generation.cpu_decode import Decoder, as_built
from mambalab.models.backbone import MambaBlock
from mambalab.models.heads import LanguageModel
from mambalab.models.state import MambaState, ModelState

Capture = Callable[[Callable[[], None]], Callable[[], Any]]
"""Turns a step, which takes no argument, into a function that repeats it."""

_WARM_UP_STEPS = 3  # kernels are compiled and libraries get their memory before the capture
_TOLERANCE = 1e-2  # of the largest logit: recorded products may be summed up in another order

_graphs: weakref.WeakKeyDictionary[LanguageModel, dict[Any, list[Graph]]]
_graphs = weakref.WeakKeyDictionary()


class Graph:
    """One decoding step of a model on a batch, on memory that stays where it is.

    Args:
        model: in evaluation mode, with Mamba layers only.
        batch: number of sequences.
        capture: turns the step into what is called for each token.

    Raises:
        RuntimeError: the step cannot be recorded, or gives other logits when repeated.
    """

    def __init__(self, model: LanguageModel, batch: int, capture: Capture) -> None:
        kind = model.lm_head.weight.device.type
        self._model = weakref.ref(model)  # which holds the graph
        self._autocast: dict[str, Any] = {
            "device_type": kind,
            "enabled": torch.is_autocast_enabled(kind),
            "dtype": torch.get_autocast_dtype(kind),
            "cache_enabled": False,  # converted weights would be freed after the capture
        }
        with torch.inference_mode(False), torch.no_grad():
            device = model.lm_head.weight.device
            self.tokens = torch.zeros(batch, dtype=torch.int64, device=device)
            self.state = model.initial_state(batch, 1)
            if self.state.read is not None:
                self.state.places = torch.zeros_like(self.tokens)
            self.logits = torch.empty(0)
            self._owner: Callable[[], ModelState | None] = lambda: None
            self._step()
            expected = self.logits.clone()
            self._replay = capture(self._step)
            for layer in self._layers(self.state):
                layer.conv.zero_()
                layer.ssm.zero_()
            self._replay()
            scale = float(expected.abs().nan_to_num().max())
            if not torch.allclose(
                self.logits, expected, rtol=0, atol=_TOLERANCE * scale, equal_nan=True
            ):
                raise RuntimeError("the recorded step gives other logits than the model")

    def __call__(self, state: ModelState, tokens: Tensor) -> Tensor:
        """Map tokens (b,) to logits (b, v); update `state`, which then lies in the graph.

        Raises:
            ValueError: no more positions have been learnt, or `state` does not count steps.
        """
        with torch.no_grad():
            self._take(state)
            self.tokens.copy_(tokens)
            self._replay()
            state.advance(1)
            return self.logits.clone()

    def free(self) -> bool:
        """Whether no living state lies in the graph's memory."""
        return self._owner() is None

    def lease(self, state: ModelState) -> None:
        """Keep the graph for `state` as long as that lives."""
        self._owner = weakref.ref(state)

    def _step(self) -> None:
        model = self._model()
        assert model is not None, "a graph does not outlive its model"
        with torch.autocast(**self._autocast):
            self.logits = model.last_logits(self.tokens[:, None], self.state)

    def _take(self, state: ModelState) -> None:
        """Move a state into the graph's memory, where it is not there already."""
        if self.state.places is not None:
            model = self._model()
            assert model is not None, "a graph does not outlive its model"
            model.backbone.check_positions(max(state.counts()) + 1)
            self.state.places.copy_(torch.tensor(state.counts()))
        pairs = zip(self._layers(state), self._layers(self.state), strict=True)
        for theirs, mine in pairs:
            if theirs.conv is not mine.conv:
                theirs.conv = mine.conv.copy_(theirs.conv)
            if theirs.ssm is not mine.ssm:
                theirs.ssm = mine.ssm.copy_(theirs.ssm)

    @staticmethod
    def _layers(state: ModelState) -> list[MambaState]:
        return [layer for layer in state.layers if isinstance(layer, MambaState)]


def recorded(
    model: object, state: ModelState, batch: int, capture: Capture | None = None
) -> Decoder | None:
    """Return a decoder by CUDA graph of a model in evaluation mode, bound to a state, or None.

    There is one on an NVIDIA GPU for language models of this package with Mamba layers only, as
    they were built. It is recorded once for each batch size and compared with the model; where that
    fails it is said once, and the model runs launch by launch. It uses the weights as they are now:
    make a new one after they were replaced (changes in place are seen). Nothing is differentiated.

    Args:
        model, state: the model, and the state to go on from.
        batch: number of sequences.
        capture: records the step; None for CUDA's.
    """
    if type(model) is not LanguageModel or torch.is_grad_enabled():
        return None
    layers = list(model.backbone.layers)
    blocks = [layer for layer in layers if isinstance(layer, MambaBlock)]
    if len(blocks) < len(layers) or not as_built(model):
        return None
    device = model.lm_head.weight.device
    if capture is None:
        if device.type != "cuda":
            return None
        capture = on_gpu(device)
    graph = _graph(model, batch, capture)
    if graph is None:
        return None
    graph.lease(state)
    return lambda tokens: graph(state, tokens)


def _graph(model: LanguageModel, batch: int, capture: Capture) -> Graph | None:
    """Find a free graph for this batch size and these weights, or record one."""
    kind = model.lm_head.weight.device.type
    precision = (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
    weights = tuple(x.data_ptr() for x in (*model.parameters(), *model.buffers()))
    known = _graphs.setdefault(model, {})
    for key in [key for key in known if key[2] != weights]:
        del known[key]  # of weights that are gone
    ready = known.setdefault((batch, precision, weights), [])
    for graph in ready:
        if graph.free():
            return graph
    try:
        graph = Graph(model, batch, capture)
    except RuntimeError as error:
        message = f"mambalab: decoding without a CUDA graph, which is slow: {first_line(error)}"
        warnings.warn(message, stacklevel=4)  # Python says it once
        return None
    ready.append(graph)
    return graph


def on_gpu(device: torch.device) -> Capture:
    """Return what records steps on a GPU."""

    def capture(step: Callable[[], None]) -> Callable[[], None]:
        with torch.cuda.device(device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UP_STEPS):
                    step()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()

        def replay() -> None:
            with torch.cuda.device(device):
                graph.replay()

        return replay

    return capture
