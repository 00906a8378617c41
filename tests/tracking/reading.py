"""Read `.wandb` files back: blocks of 32 KiB with records as in LevelDB logs, each a protobuf `Record`."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER, BLOCK = 7, 32768
WHOLE, LAST = 1, 4


@dataclass
class Logged:
    """What one run's file holds. artifacts: file names in the tables' artifacts, by artifact."""

    run: dict[str, Any] = field(default_factory=dict)
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, dict[str, str]] = field(default_factory=dict)
    exit_code: int | None = None


def read_run(folder: Path) -> Logged:
    """The run in a folder `offline-run-<time>-<id>`."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("run-*.wandb")
    logged = Logged()
    for data in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        _take(logged, record)
    return logged


def _take(logged: Logged, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        run = record.run
        logged.run = {"id": run.run_id, "project": run.project, "group": run.run_group, "name": run.display_name}
        logged.job_type, logged.tags = run.job_type, list(run.tags)
        logged.config |= {item.key: json.loads(item.value_json) for item in run.config.update}
    elif kind == "history":
        logged.history.append(_items(record.history.item))
    elif kind == "summary":
        logged.summary |= _items(record.summary.update)
    elif kind == "artifact":
        contents = record.artifact.manifest.contents
        logged.artifacts[record.artifact.name] = {c.path: c.local_path for c in contents}
    elif kind == "exit":
        logged.exit_code = record.exit.exit_code


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    position, parts = HEADER, b""
    while position < len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEADER])
        parts += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (WHOLE, LAST):
            yield parts
            parts = b""
