"""Small made-up studies in the working directory, and a way to run a command on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from sdvar_exp.cli import main
from tests.store.making import make_plan, opened, unit_body


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """call("status", "demo"): exit code, standard output, standard error."""

    def run(*argv: str) -> tuple[int, str, str]:
        try:
            code = main(list(argv))
        except SystemExit as stop:  # --help of argparse
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def make_study(
    name: str = "demo",
    skip: int = 0,
    shift: float = 0.0,
    moved: Mapping[int, float] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    **changes: str,
) -> Path:
    """Three cells × two labels × three seeds in results/<name>, without the last `skip` units of the last cell.

    The pixel difference is greater by `shift` in all cells but the first, or by `moved[i]` in cell i.
    """
    plan = make_plan(Path("results"), study=name, seeds=seeds)
    with opened(plan, **changes) as study:
        cells = [p.cell.id for p in plan.cells]
        keys = [(c, label, seed) for c in cells for label in plan.labels for seed in plan.seeds]
        for key in keys[: len(keys) - skip]:
            body = unit_body(*key)
            body["sample"]["pixel_mae"] += (
                moved.get(cells.index(key[0]), 0.0) if moved else shift if key[0] != cells[0] else 0.0
            )
            study.append(body)
        for cell, label, seed in keys[len(keys) - skip :][:1]:
            study.append(
                {
                    "type": "failure",
                    "cell": cell,
                    "label": label,
                    "seed": seed,
                    "attempt": 1,
                    "error": "ValueError: too bad",
                    "traceback": "Traceback:\n  line 1\nValueError: too bad",
                }
            )
    return plan.folder
