"""Looking into a run, and interfering with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from sdvar_exp.decoding import api
from sdvar_exp.plan import Plan
from sdvar_exp.runner.measuring import units
from sdvar_exp.store.ledger import LedgerReader
from tests.runner.conftest import CELLS

MakePlan = Callable[..., Plan]
Run = Callable[..., tuple[int, str]]
Decodes = list[tuple[str, tuple[int, ...], bool]]
EXACT = CELLS["parallel_v1 exact γ=2"]
SEQUENTIAL = CELLS["sequential"]
DRAFT_ONLY = CELLS["draft_only"]


class Killed(BaseException):
    """As sudden as a kill: nothing catches it."""


def records(plan: Plan, kind: str) -> list[dict[str, Any]]:
    """Ledger records of one type."""
    return [b for b in LedgerReader(plan.folder / "ledger").read() if b["type"] == kind]


def break_at(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], None], module: Any = units) -> None:
    """Do something at the start of the `number`-th decode of a module."""
    count = Counter[str]()

    def decode(pair: Any, cell: Any, of: Any, **more: Any) -> Any:
        count["calls"] += 1
        if count["calls"] == number:
            action()
        return api.decode(pair, cell, of, **more)

    monkeypatch.setattr(module, "decode", decode)


def throw(error: BaseException) -> Callable[[], None]:
    """An action that raises."""

    def action() -> None:
        raise error

    return action
