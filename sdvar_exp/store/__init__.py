"""Files of a study: ledger, manifest, images, baseline cache, tables. No torch; pandas on first use only.

The ledger is the truth, tables are derived from it and can be written again at any time. `study.py` is the door.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Study": "study",
    "StorageError": "files",
    "Tables": "tables",
    "load_tables": "tables",
    "write_tables": "tables",
    "stable_csv": "stable",
    "load_results": "results",
    "VOLATILE": "columns",
    "fingerprint": "provenance",
    "session_record": "provenance",
    "redact": "provenance",
    "keep_diff": "provenance",
    "code_version": "provenance",
    "baseline_key": "baseline",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"sdvar_exp.store.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
