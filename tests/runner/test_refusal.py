"""What closes a study to further runs is said beforehand, with the reason; what does not concern it closes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdvar_exp.cli.status import state_of, text
from sdvar_exp.errors import UserError
from sdvar_exp.plan import Plan
from sdvar_exp.store import provenance
from sdvar_exp.store.manifest import refusal_of
from tests.runner.conftest import CELLS

Run = Callable[..., tuple[int, str]]
RULE = {"parallel_v1 exact γ=2": CELLS["parallel_v1 exact γ=2"]}
TEST3 = {"test3 K=3": CELLS["test3 K=3"]}


def edit(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Entry `name`, `kind=name`, gets other code."""
    known = provenance.definition
    monkeypatch.setattr(provenance, "definition", lambda e: "other" if f"{e.kind}={e.name}" == name else known(e))
    monkeypatch.setattr("sdvar_exp.store.manifest.definition", provenance.definition)


def refusal(plan: Plan, run: Run) -> str:
    """What the run says that refuses; `plan` says the same beforehand."""
    with pytest.raises(UserError) as refused:
        run(plan)
    said = str(refused.value)
    assert refusal_of(plan) == said
    return said


def more(asked: Plan) -> Plan:
    """The same cells on one more seed."""
    return replace(asked, seeds=(0, 1, 2))


@pytest.mark.parametrize("name", ["acceptance=exact", "mask=block_causal", "strategy=parallel_v1", "cfg_schedule=linear"])
def test_an_edited_entry_closes_its_cells_alone(
    name: str, plan: Callable[..., Plan], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequential = {"sequential": CELLS["sequential"]}
    assert run(plan({**RULE, **TEST3, **sequential}, labels=(0,), seeds=(0,)))[0] == 0
    edit(monkeypatch, name)
    said = refusal(more(plan(RULE, labels=(0,))), run)
    assert f"entries.{name}" in said and "allow_mixed=true" in said
    for cells, uses in ((TEST3, ("mask=block_causal", "cfg_schedule=linear")), (sequential, ("cfg_schedule=linear",))):
        asked = more(plan(cells, labels=(0,)))
        if name in uses:
            assert f"entries.{name}" in refusal(asked, run)
        else:
            assert refusal_of(asked) is None and run(asked)[0] == 0


def test_edited_code_is_refused_beforehand_and_by_its_commit(
    plan: Callable[..., Plan], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = plan(RULE, labels=(0,), seeds=(0,))
    monkeypatch.setattr(provenance, "git_state", lambda *_: {"commit": "0123456789abcdef", "dirty": False})
    assert run(asked)[0] == 0 and refusal_of(asked) is None and state_of(asked.folder)["refused"] is None
    monkeypatch.setattr(provenance, "code_version", lambda *_: "edited")
    monkeypatch.setattr("sdvar_exp.store.manifest.code_version", lambda *_: "edited")
    said = refusal(more(asked), run)
    assert "begun at commit 0123456789" in said and "code " in said
    state = state_of(asked.folder)
    assert state["refused"] == said.replace("  ", " ") and any(
        "`run` will refuse to go on" in line for line in text(state, True)
    )
    assert refusal_of(plan(RULE, allow_mixed=True)) is None


def test_settings_that_are_known_beforehand_are_refused_beforehand(plan: Callable[..., Plan], run: Run) -> None:
    run(plan(RULE, labels=(0,), seeds=(0,)))
    assert "threads 1 → 2" in str(refusal_of(plan(RULE, threads=2)))
    assert "dtype float32 → float64" in str(refusal_of(plan(RULE, dtype="float64")))
    assert "device_kind cpu → cuda" in str(refusal_of(plan(RULE, device="cuda:0")))


def test_a_study_of_an_earlier_version_is_read_and_refused_in_clear_words(
    plan: Callable[..., Plan], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fingerprint names no entries and no arithmetic."""
    monkeypatch.setattr(provenance, "git_state", lambda *_: {"commit": "0123456789abcdef", "dirty": False})
    asked = plan(RULE, labels=(0,), seeds=(0,))
    run(asked)
    as_before(asked.folder)
    said = refusal(more(asked), run)
    assert "was begun at commit 0123456789 by an earlier version of sdvar_exp" in said and "study=NAME" in said
    assert "arithmetic" not in said and state_of(asked.folder)["done"] == 2
    assert run(more(plan(RULE, labels=(0,), allow_mixed=True)))[0] == 0


def as_before(folder: Path) -> None:
    """Take from a manifest what it lacked in the first version."""
    path = folder / "manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    first = {key: value for key, value in manifest["fingerprint"].items() if key not in ("entries", "arithmetic")}
    path.write_text(json.dumps({**manifest, "fingerprint": {**first, "code": "c0ffee"}}), encoding="utf-8")
