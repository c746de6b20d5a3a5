"""Reads what wandb keeps on this machine: its transaction log, records in blocks of 32 KiB."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER = struct.Struct("<IHB")  # checksum, length, kind: 1 whole, 2 first, 3 middle, 4 last
BLOCK = 32768


def records(path: Path) -> Iterator[Any]:
    """All records of a `run-*.wandb`."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, part = path.read_bytes(), 7, b""
    while position + HEADER.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER.size:
            position += left
            continue
        _, length, kind = HEADER.unpack_from(data, position)
        position += HEADER.size
        part += data[position : position + length]
        position += length
        if kind in (1, 4):
            yield Record.FromString(part)
            part = b""


def files(run_dir: Path) -> list[Path]:
    """The logs of all sessions of a run, in order."""
    return sorted((run_dir / "wandb").glob("*run-*/run-*.wandb"))


def history(path: Path) -> list[dict[str, Any]]:
    """Rows of the run's history, nested keys joined by a dot."""
    return [
        {
            ".".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in record.history.item
        }
        for record in records(path)
        if record.WhichOneof("record_type") == "history"
    ]


def of_kind(path: Path, kind: str) -> list[Any]:
    """All records of a kind: `run`, `summary`, `exit`, ..."""
    return [getattr(r, kind) for r in records(path) if r.WhichOneof("record_type") == kind]
