"""The baseline cache: what the sequential target made of a (label, seed), shared by cells, processes and later runs.

Holds tokens, image and stage summaries, never times: a time that was read from a cache would be a lie.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdvar_exp.store.files import atomic_write
from sdvar_exp.store.ledger import canonical

log = logging.getLogger(__name__)

_PLAIN = "_plain_json"


def baseline_key(**parts: Any) -> str:
    """File name for what a baseline depends on: checkpoints, label, seed, guidance, sampling, dtype, device, code."""
    return hashlib.sha256(canonical(parts).encode()).hexdigest()[:24]


def put(folder: Path, key: str, values: Mapping[str, Any]) -> None:
    """Store arrays and plain values (numbers, texts, lists, dicts) under `key`, whole or not at all."""
    for name in values:
        if name == _PLAIN or "time" in name or name.endswith("_ms"):
            raise ValueError(f"the baseline cache holds no times and no {_PLAIN!r}, got {name!r}")
    arrays = {k: v for k, v in values.items() if isinstance(v, np.ndarray)}
    plain = {k: v for k, v in values.items() if k not in arrays}
    buffer = io.BytesIO()
    everything: dict[str, Any] = {_PLAIN: np.array(canonical(plain)), **arrays}
    np.savez(buffer, **everything)
    atomic_write(folder / f"{key}.npz", buffer.getvalue())


def get(folder: Path, key: str) -> dict[str, Any] | None:
    """The result that `put` stored, or None where there is nothing or the file is damaged (then it is to be made again)."""
    path = folder / f"{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {name: file[name] for name in file.files}
            return {**json.loads(str(values.pop(_PLAIN))), **values}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("%s is damaged and will be made again: %s", path, error)
        return None
