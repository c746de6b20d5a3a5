"""Our Mamba and transformers', writing greedily from the same weights and the same prompt.

As a program (`python -m mambalab.bench.against_transformers DEVICE SECONDS D_MODEL N_LAYER
VOCAB_SIZE`) it prints rows, notes and what was wrong, as JSON.
"""

import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mambalab.bench.generate import TURN, ready, turn
from mambalab.bench.reading import bytes_of_weights, readers
from mambalab.bench.timing import in_turns, milliseconds
from mambalab.generation.decoding import generate
from mambalab.generation.sampling import Sampling
from mambalab.models.heads import LanguageModel
from mambalab.pretrained.load import load
from mambalab.settings.train import Precision
from mambalab.train import runtime

_GREEDY = Sampling(temperature=0)
_PROMPT, _NEW = 16, 32  # tokens
_CONTENDERS = ("ours", "theirs")


def measure(
    device: torch.device, seconds: float, d_model: int, n_layer: int, vocab_size: int
) -> dict[str, Any]:
    """Time a token of both, and a step of ours against the time that reading its weights takes.

    Returns:
        `rows` and `notes` of a `Result`, and `wrong`, in which case nothing is timed.
    """
    transformers: Any = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found: dict[str, Any] = {"rows": [], "notes": [], "wrong": {}}
    sizes = {"hidden_size": d_model, "num_hidden_layers": n_layer, "vocab_size": vocab_size}
    torch.manual_seed(0)
    theirs = transformers.MambaForCausalLM(transformers.MambaConfig(**sizes)).eval()
    with tempfile.TemporaryDirectory(prefix="mambalab-") as folder:
        theirs.save_pretrained(folder)
        wide, _ = load(Path(folder), device)
    prompt = torch.randint(vocab_size, (1, _PROMPT), device=device)
    for precision, dtype in ((Precision.fp32, torch.float32), (Precision.bf16, torch.bfloat16)):
        ours, theirs = ready(wide, precision), theirs.to(device, dtype)
        size = bytes_of_weights(ours)
        calls: dict[str, Callable[[], object]] = {
            "step": turn(ours, ours.initial_state(1, 1), 0, 1, device, precision),
            **readers(size, device),
        }
        for name, new in (("first", 1), ("all", 1 + _NEW)):
            calls[f"ours {name}"] = partial(_ours, ours, prompt, precision, new)
            calls[f"theirs {name}"] = partial(_theirs, theirs, prompt, new)
        if precision is Precision.fp32 and calls["ours all"]() != calls["theirs all"]():
            found["wrong"]["transformers"] = "other tokens than ours from the same weights"
            return found
        times = in_turns(calls, device, seconds)
        took = {name: milliseconds(each) for name, each in times.items()}
        bound = 1e3 * min(*times["reading"], *times["rows"])
        share = 100 * bound / (took["step"] / TURN)
        each = {who: (took[f"{who} all"] - took[f"{who} first"]) / _NEW for who in _CONTENDERS}
        for who in _CONTENDERS:
            row = {"contender": f"mamba-130m {precision.value}, {who}", "batch": 1}
            row |= {"context": _PROMPT, "ms a token": each[who], "tokens/s": 1e3 / each[who]}
            found["rows"].append(row | ({"% of bound": share} if who == "ours" else {}))
        found["notes"].append(
            f"mamba-130m {precision.value}: {each['theirs'] / each['ours']:.2f} times as fast as "
            f"transformers, {took['theirs first'] / took['ours first']:.2f} times in reading "
            f"{_PROMPT} tokens; a step takes {took['step'] / TURN:.1f} ms, reading its weights at "
            f"{size / bound / 1e6:.1f} GB/s {bound:.1f} ms"
        )
    if device.type != "cuda":
        found["notes"].append("transformers computes Mamba by plain PyTorch operations here")
    return found


def _ours(model: LanguageModel, prompt: Tensor, precision: Precision, new: int) -> list[int]:
    """`new` tokens of ours."""
    with torch.inference_mode(), runtime.autocast(prompt.device, precision):
        steps = generate(model, [prompt[0]], max_new_tokens=new, rules=_GREEDY)
        return [int(token) for token in steps]


def _theirs(model: Any, prompt: Tensor, new: int) -> list[int]:
    """`new` tokens of transformers'."""
    rules = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(prompt, max_new_tokens=new, **rules)[0, _PROMPT:].tolist()


def main() -> None:
    """Print the result as JSON."""
    kind, seconds, *sizes = sys.argv[1:]
    runtime.prepare_process()
    print(json.dumps(measure(torch.device(kind), float(seconds), *map(int, sizes))))


if __name__ == "__main__":
    main()
