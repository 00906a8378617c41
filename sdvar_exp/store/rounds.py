"""Counts of draft-verify rounds, derived from what a ledger record holds: γ of each round and the verdict on each stage.

A study of any age has them. They are no part of the stable table, as they follow from columns that are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PASSED, FAILED, UNJUDGED = "1", "0", "-"


def round_columns(sample: Mapping[str, Any], stages: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `columns.ROUNDS` of one image; empty where it has no rounds, or its record does not say enough.

    sample: counts of the decode. stages: its rows of `stages`. config: the cell's configuration.
    """
    trace = sample.get("gamma_trace")
    gammas = [int(g) for g in str(trace).split(",")] if isinstance(trace, str) else []
    if not gammas or not stages:
        return {}
    by_stage = {int(row["stage"]): row for row in stages}
    rows = [by_stage.get(k, {}) for k in range(max(by_stage) + 1)]
    letters = "".join(_letter(row) for row in rows)
    strategy = config.get("strategy", {})
    skipped = bool(strategy.get("skip_last", False))
    out: dict[str, Any] = {
        "rounds": sum(g > 0 for g in gammas),
        "proposed_stages": sum(g - skipped for g in gammas if g),
        "accepted_stages": letters.count(PASSED),
        "stage_verdicts": letters,
    }
    committed = sample.get("committed_by_verify")
    if isinstance(committed, int):
        out["round_commits"] = committed - gammas.count(0)
        if config.get("batch", 1) == 1 and strategy.get("on_reject", "correct") != "redraft":
            steps = _commits(gammas, rows, strategy)
            if sum(steps) == committed:
                out["commit_trace"] = ",".join(map(str, steps))
    return out


def _letter(row: Mapping[str, Any]) -> str:
    verdict = row.get("passed") if row.get("source") == "verified" else None
    return PASSED if verdict is True else FAILED if verdict is False else UNJUDGED


def _commits(gammas: Sequence[int], rows: Sequence[Mapping[str, Any]], strategy: Mapping[str, Any]) -> list[int]:
    """Stages that each round committed: up to the first that failed, all of them under `continue`, one more by a bonus."""
    whole = strategy.get("on_reject", "correct") == "continue"
    stage, out = 0, []
    for gamma in gammas:
        while gamma and not strategy.get("skip_last") and stage < len(rows) and rows[stage].get("source") != "verified":
            stage += 1  # made by one model alone, before the rounds or between them
        window = rows[stage : stage + gamma]
        failed = next((i for i, row in enumerate(window) if row.get("passed") is False), None)
        count = len(window) if failed is None or whole else failed + 1
        behind = rows[stage + count : stage + count + 1]
        if gamma == 0 or (failed is None and strategy.get("bonus") and behind and behind[0].get("source") == "target"):
            count += 1
        stage += count
        out.append(count)
    return out


def commits_per_round(traces: Iterable[Any]) -> dict[int, int]:
    """Number of rounds by how many stages they committed, from `commit_trace` of images; nulls are skipped."""
    found = Counter(int(step) for trace in traces if isinstance(trace, str) for step in trace.split(","))
    return dict(sorted(found.items()))


def rate_by_stage(verdicts: Iterable[Any]) -> dict[int, tuple[float, int]]:
    """By stage, the share of images whose committing round passed it, and how many judged it, from `stage_verdicts`."""
    passed, judged = Counter[int](), Counter[int]()
    for text in verdicts:
        for stage, letter in enumerate(text if isinstance(text, str) else ""):
            if letter != UNJUDGED:
                judged[stage] += 1
                passed[stage] += letter == PASSED
    return {stage: (passed[stage] / n, n) for stage, n in sorted(judged.items())}
