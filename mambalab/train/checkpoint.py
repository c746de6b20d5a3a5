"""Writes and reads checkpoints: folders that appear complete or not at all, with checksums.

`checkpoints/last-00001200/` holds everything to go on exactly from step 1200 (weights as
safetensors; optimiser, random state and data position beside them). `checkpoints/best-00000800/`
holds the weights that did best on validation.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mambalab.errors import UserError
from mambalab.utils import files, reading, tensors

WEIGHTS = "model.safetensors"
TRAINER = "trainer.pt"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint folder.

    Attributes:
        path: the folder.
        kind: `last` or `best`.
        step: optimiser steps done when it was written.
    """

    path: Path
    kind: str
    step: int


def find(run_dir: Path, kind: str) -> Checkpoint | None:
    """Find the newest checkpoint of a kind (`last` or `best`), or None."""
    found = []
    folder = run_dir / "checkpoints"
    for path in folder.glob(f"{kind}-*") if folder.is_dir() else ():
        if match := re.fullmatch(rf"{kind}-(\d+)", path.name):
            found.append(Checkpoint(path, kind, int(match[1])))
    return max(found, key=lambda c: c.step, default=None)


def save(
    run_dir: Path,
    kind: str,
    step: int,
    weights: dict[str, torch.Tensor],
    *,
    facts: dict[str, Any],
    trainer: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint and then remove the older ones of its kind.

    Args:
        run_dir: the run folder.
        kind: `last` or `best`.
        step: optimiser steps done.
        weights: the model's state dict; shared tensors are stored once.
        facts: small JSON-able facts, e.g. the metric that made it the best.
        trainer: tensors and plain values needed to go on; none for `best`.

    Raises:
        UserError: if the disk is full or not writable; the earlier checkpoint stays.
    """
    folder = run_dir / "checkpoints"
    target = folder / f"{kind}-{step:08d}"
    partial = folder / f".partial-{kind}-{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        tensors.save(_unshared(weights), partial / WEIGHTS)
        if trainer is not None:
            torch.save(trainer, partial / TRAINER)
        written = sorted(partial.iterdir())
        manifest = {
            "step": step,
            "files": {p.name: p.stat().st_size for p in written},
            "sha256": {p.name: files.sha256(p) for p in written},
            "facts": facts,
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in partial.iterdir():
            files.flush_to_disk(path)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        files.flush_to_disk(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"cannot write the checkpoint {target}: {error}") from error
    for path in folder.glob(f"{kind}-*"):
        if path != target:
            shutil.rmtree(path)
    return target


def load(
    checkpoint: Checkpoint, device: torch.device
) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any]]:
    """Read weights, facts and trainer state of a checkpoint (the last is empty for `best`).

    Nothing in it is executed: weights are safetensors, the rest is read with `weights_only`.

    Raises:
        UserError: if a file is missing, cut short or damaged.
    """
    path = checkpoint.path
    remedy = "start again with resume=never (the damaged run is set aside)"
    if checkpoint.kind == "best":
        remedy = "delete that folder, and the last weights take its place"
    try:
        manifest = json.loads(reading.read_bytes(path / MANIFEST))
        for name in {WEIGHTS, *manifest["files"]}:
            if Path(name).name != name:
                raise UserError(f"{path / MANIFEST} names {name}, which is no file beside it")
            reading.open_regular(path / name).close()
        for name, size in manifest["files"].items():
            actual = (path / name).stat().st_size
            if actual != size:
                raise UserError(
                    f"the checkpoint {path / name} is cut short: {actual} of {size} bytes; {remedy}"
                )
        for name, sha256 in manifest.get("sha256", {}).items():  # not in those of older versions
            if files.sha256(path / name) != sha256:
                raise UserError(
                    f"the checkpoint {path / name} is damaged: its bytes are not those that were "
                    f"written; {remedy}"
                )
        weights = load_file(path / WEIGHTS, device=str(device))
        trainer: dict[str, Any] = {}
        if TRAINER in manifest["files"]:
            trainer = torch.load(path / TRAINER, map_location="cpu", weights_only=True)
        return weights, manifest["facts"], trainer
    except UserError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read the checkpoint {path}: {reason}; {remedy}") from error


def restore_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor], source: Path) -> None:
    """Load `weights` into `model`; a mismatch names the tensors and raises UserError."""
    present = model.state_dict()
    shared = {name: _first_alias(present, name) for name in present}
    missing = [n for n in present if n not in weights and shared[n] not in weights]
    unknown = [n for n in weights if n not in present]
    shapes = [
        n for n in present if n in weights and tuple(weights[n].shape) != tuple(present[n].shape)
    ]
    for what, names in (("lacks", missing), ("has the unknown", unknown), ("reshapes", shapes)):
        if names:
            raise UserError(f"{source} {what} {', '.join(names[:3])}: another model's checkpoint?")
    with torch.no_grad():
        for name, tensor in present.items():
            tensor.copy_(weights[name if name in weights else shared[name]])


def _first_alias(state: dict[str, torch.Tensor], name: str) -> str:
    pointer = state[name].data_ptr()
    return next(n for n, t in state.items() if t.data_ptr() == pointer)


def _unshared(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy to contiguous CPU tensors, tied ones only under their first name."""
    kept = {n: t for n, t in weights.items() if _first_alias(weights, n) == n}
    return {n: t.detach().cpu().contiguous() for n, t in kept.items()}
