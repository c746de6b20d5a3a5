"""Writes and reads checkpoints: folders that appear complete or not at all, with checksums.

`checkpoints/last-00001200/` holds everything to go on exactly from step 1200 (weights as
safetensors; optimiser, random state and data position beside them). `checkpoints/best-00000800/`
holds the weights that did best on validation, and with `trainer.keep` `checkpoints/step-00000400/`
those of other steps.
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mambalab.errors import UserError, first_line
from mambalab.records.run_folder import RunFolder, checkpoint_name, checkpoint_of
from mambalab.train import verify
from mambalab.train.verify import CHECKSUM
from mambalab.utils import files, reading, tensors

LOG = logging.getLogger("mambalab")
WEIGHTS = "model.safetensors"
TRAINER = "trainer.pt"
MANIFEST = "manifest.json"
MEMORY = "not enough memory; free some, and the same command goes on"
_AGAIN = "start again with resume=never (the damaged run is set aside)"
_PARTIAL = ".partial-"  # prefixes of folders: one that is being written,
_REMOVED = ".removed-"  # and one that is being removed
_stay: set[Path] = set()  # checkpoints of which this process has said that it cannot remove them


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint folder.

    Attributes:
        path: the folder.
        kind: `last`, `best` or `step`.
        step: optimiser steps done when it was written.
    """

    path: Path
    kind: str
    step: int


class DamagedError(UserError):
    """The bytes of a checkpoint are not those that were written; the one before it may do.

    Args:
        what: what is wrong with which file.
        remedy: what to do if there is no other checkpoint.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what


class ForeignError(UserError):
    """A checkpoint belongs to another run."""


def find(run_dir: Path, kind: str) -> Checkpoint | None:
    """Find the newest checkpoint of a kind, or None; raises as `find_all`."""
    return next(iter(find_all(run_dir, kind)), None)


def find_all(run_dir: Path, kind: str) -> list[Checkpoint]:
    """Find the checkpoints of a kind (`last`, `best` or `step`), the newest first.

    A person's own files and folders, whose names are other ones, are passed over.

    Raises:
        UserError: their folder cannot be read.
    """
    found = []
    folder = RunFolder(run_dir).checkpoints
    try:
        for path in folder.iterdir():
            named = checkpoint_of(path.name)
            if named and named[0] == kind and path.is_dir():
                found.append(Checkpoint(path, kind, named[1]))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    return sorted(found, key=lambda c: c.step, reverse=True)


def save(
    run_dir: Path,
    kind: str,
    step: int,
    weights: dict[str, torch.Tensor],
    *,
    facts: dict[str, Any],
    trainer: dict[str, Any] | None = None,
    keep: int = 1,
) -> Path:
    """Write a checkpoint and then remove the older ones of its kind.

    Args:
        run_dir: the run folder.
        kind: `last`, `best` or `step`.
        step: optimiser steps done.
        weights: the model's state dict; shared tensors are stored once.
        facts: small JSON-able facts, e.g. the metric that made it the best.
        trainer: tensors and plain values needed to go on; for `last` alone.
        keep: checkpoints of this kind that stay: this one and those before it.

    Raises:
        UserError: if the disk is full or not writable; the earlier checkpoint stays, and what was
            begun is removed.
    """
    target = RunFolder(run_dir).checkpoints / checkpoint_name(kind, step)
    content = (weights, trainer, {"step": step, "facts": facts})
    try:
        try:
            _put(target, *content)
        except OSError as error:
            spare = [c for c in find_all(run_dir, kind) if c.path != target][1:]
            # Those of steps were asked for, and nothing needs the new one to go on.
            if error.errno not in files.NO_SPACE or not spare or kind == "step":
                raise
            LOG.warning("the disk is full: %s and what is older goes", spare[0].path)
            for old in spare:
                _remove(old.path)
            _put(target, *content)
    except OSError as error:
        raise UserError(
            f"cannot write the checkpoint {target}: {first_line(error)}; {files.remedy(error)}"
        ) from error
    remove_older(run_dir, kind, target, keep)
    return target


def _put(target: Path, weights: dict[str, torch.Tensor], *content: Any) -> None:
    """Write a checkpoint in one step; raises OSError, and leaves nothing, if that fails."""
    folder = target.parent
    partial = folder / f"{_PARTIAL}{target.name}"
    try:
        folder.mkdir(exist_ok=True)  # not the run folder: if that is gone, it stays so
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _write(partial, weights, *content)
        _make_way(target)
        partial.rename(target)
        files.flush_to_disk(folder)
    except SafetensorError as error:  # it keeps the system's number to itself
        full = shutil.disk_usage(folder).free < sum(t.nbytes for t in weights.values())
        shutil.rmtree(partial, ignore_errors=True)
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
        raise OSError(errno.EIO, first_line(error), str(target)) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(
    partial: Path,
    weights: dict[str, torch.Tensor],
    trainer: dict[str, Any] | None,
    manifest: dict[str, Any],
) -> None:
    """Write the files of a checkpoint, and the manifest that covers them, to the disk."""
    tensors.save(_unshared(weights), partial / WEIGHTS)
    if trainer is not None:
        with (partial / TRAINER).open("wb") as file:
            _save_trainer(trainer, file)
    written = sorted(partial.iterdir())
    manifest["files"] = {p.name: p.stat().st_size for p in written}
    manifest["sha256"] = {p.name: files.sha256(p) for p in written}
    manifest[CHECKSUM] = verify.checksum(manifest)
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in partial.iterdir():
        files.flush_to_disk(path)
    files.flush_to_disk(partial)


class _WatchedFile:
    """A file that remembers why it could not be written: torch.save only says that it could not."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _save_trainer(trainer: dict[str, Any], file: IO[bytes]) -> None:
    """As torch.save; raises OSError if the file cannot be written."""
    watched = _WatchedFile(file)
    try:
        torch.save(trainer, watched)  # pyright: ignore[reportArgumentType]
    except RuntimeError:
        if watched.error is not None:
            raise watched.error from None
        raise


def _make_way(target: Path) -> None:
    """Free the name of a checkpoint: an older one goes, a link or file of a person's is renamed."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        aside = files.free_name(target)
        target.rename(aside)
        LOG.warning("%s was in the way of a checkpoint: it is %s now", target, aside.name)
    elif target.exists():
        _remove(target)


def _remove(path: Path) -> None:
    """Remove a checkpoint in such a way that no half of it is ever taken for one."""
    aside = path.with_name(f"{_REMOVED}{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def remove_older(run_dir: Path, kind: str, target: Path, keep: int) -> None:
    """Remove the checkpoints of a kind but `target` and the `keep - 1` before it.

    Links, which a person made, stay; so does what cannot be removed, with a warning.
    """
    others = [c for c in find_all(run_dir, kind) if c.path.name != target.name]
    newest = checkpoint_of(target.name)
    assert newest is not None
    kept = [c for c in others if c.step < newest[1]][: keep - 1]
    for old in others:
        if old in kept or old.path.is_symlink() or old.path in _stay:
            continue
        try:
            _remove(old.path)
        except OSError as error:
            _stay.add(old.path)
            LOG.warning("cannot remove the checkpoint %s: %s", old.path, error.strerror)


def sweep(run_dir: Path) -> None:
    """Remove what a killed process left of checkpoints that it wrote or removed.

    The caller holds the run folder.
    """
    folder = RunFolder(run_dir).checkpoints
    for mark in (_PARTIAL, _REMOVED):
        for path in folder.glob(f"{mark}*"):
            if checkpoint_of(path.name.removeprefix(mark)) and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)


def load(
    checkpoint: Checkpoint, device: torch.device
) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any]]:
    """Read weights, facts and trainer state of a checkpoint (empty unless it is a `last` one).

    Nothing in it is executed: weights are safetensors, the rest is read with `weights_only`.

    Raises:
        DamagedError: a file is missing, cut short or damaged.
        UserError: it cannot be read: for want of rights or memory, say.
    """
    path = checkpoint.path
    remedy = _AGAIN
    if checkpoint.kind == "best":
        remedy = "delete that folder, and the last weights take its place"
    elif checkpoint.kind == "step":
        remedy = "delete that folder, or take another one (checkpoint=best)"
    whole = False  # by checksums: what fails afterwards is not the fault of its bytes
    try:
        manifest = verify.manifest(path / MANIFEST, checkpoint.step)
        whole = verify.check_files(path, manifest, {WEIGHTS, TRAINER})
        weights = load_file(path / WEIGHTS, device=str(device))
        trainer: dict[str, Any] = {}
        if TRAINER in manifest["files"]:
            reading.check_unpacked_size(path / TRAINER)
            trainer = torch.load(path / TRAINER, map_location="cpu", weights_only=True)
        return weights, manifest["facts"], trainer
    except verify.BrokenError as error:
        raise DamagedError(str(error), remedy) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise UserError(f"cannot read the checkpoint {path}: {MEMORY}") from error
    except reading.CannotReadError as error:
        raise UserError(f"{error}; {files.remedy(error.error)}") from error
    except OSError as error:
        reason = f"cannot read the checkpoint {error.filename or path}: {error.strerror}"
        if error.errno in verify.NOT_THERE:
            raise DamagedError(reason, remedy) from error
        raise UserError(f"{reason}; {files.remedy(error)}") from error
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        reason = " ".join(str(error).split())[:200]
        if whole:
            raise UserError(
                f"cannot read the checkpoint {path}: {reason}; its files are those that were "
                f"written, so is there memory enough?"
            ) from error
        raise DamagedError(f"cannot read the checkpoint {path}: {reason}", remedy) from error


def read_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Read the facts of a checkpoint without its tensors; empty if they cannot be read."""
    try:
        return dict(verify.manifest(checkpoint.path / MANIFEST, checkpoint.step)["facts"])
    except (OSError, verify.BrokenError, TypeError, ValueError):
        return {}


def refuse_foreign(checkpoint: Checkpoint, facts: dict[str, Any], run: Mapping[str, str]) -> None:
    """Raise ForeignError if the facts of a checkpoint name another run.

    Args:
        checkpoint: where it is.
        facts: its facts; older versions did not name the run.
        run: identities of this run by name; those that the checkpoint lacks are not compared.
    """
    theirs = facts.get("run")
    if not isinstance(theirs, dict):
        return
    if any(run[name] != theirs[name] for name in run.keys() & theirs.keys()):
        raise ForeignError(
            f"the checkpoint {checkpoint.path} is another run's: move it away and bring this "
            f"run's own back, or start again with resume=never (what is here is set aside)"
        )


def lacks_state(checkpoint: Checkpoint) -> DamagedError:
    """The error for a checkpoint that can be read and does not say how training goes on."""
    return DamagedError(
        f"the checkpoint {checkpoint.path} lacks what is needed to go on from it", _AGAIN
    )


def restore_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor], source: Path) -> None:
    """Load `weights` into `model`; a mismatch, or NaN and Inf in parameters, names the tensors and
    raises UserError."""
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
    parameters = {name for name, _ in model.named_parameters()}  # a buffer may well hold -inf
    if bad := tensors.nonfinite({n: t for n, t in weights.items() if n in parameters}):
        raise UserError(
            f"{source}: {bad[0]} has {bad[1]}: a model with it computes nothing; take the weights "
            "of another run or step"
        )
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
