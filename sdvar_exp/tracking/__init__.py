"""Weights & Biases as a sink that reads the ledger: one run per cell, grouped by study.

The runner starts a child process, `start_follower(folder, mode)`, and ends it with `handle.finish(timeout_s)`; only the
child imports wandb, so a server that refuses or hangs costs the sweep nothing. `push` sends what is not yet sent, at any
later time. See `sink.py` for what is sent and what happens when a study grows.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "start_follower": "follower",
    "push_in_child": "follower",
    "Follower": "follower",
    "Outcome": "follower",
    "push": "sink",
    "PushError": "sink",
    "Report": "sink",
    "Options": "options",
    "resolve": "options",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"sdvar_exp.tracking.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
