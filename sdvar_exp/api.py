"""The command line for Python programs and notebooks: the same words, the same ledger, a DataFrame at the end.

from sdvar_exp import Study, load_results

frame = Study(["strategy=parallel_v1", "acceptance.tau=0.5,0.7", "labels=[0,3]"], study="taus").run()
load_results("results/taus", where="acceptance_tau == 0.7")
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from sdvar_exp.errors import UserError
from sdvar_exp.guest import guest
from sdvar_exp.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

    from sdvar_exp.report.source import Tables


class RunFailed(RuntimeError):
    """Units failed, or a check after the run did. The message ends with what the run printed."""


class Study:
    """The plan of one command line; nothing is run, and nothing written, before `run`.

    A guest in the program: default dtype and device, autocast, gradient mode, threads and random states of PyTorch are set
    aside while it runs and left as they were, as are signal handlers, streams and environment. The program's float32
    arithmetic (matmul precision, TF32, oneDNN's switches) is used as it stands and belongs to the study's fingerprint.
    Studies may be made in several threads; their runs come one after the other.

    Args:
        overrides: words of `sdvar-exp run`, sweeps and flags included.
        study, results_dir, config_dir: short for the words `study=…`, `results_dir=…`, `--config-dir …`; any path.
    Raises:
        UserError: for a mistake in the words; its message has one line per mistake.
    """

    def __init__(
        self,
        overrides: Sequence[str] = (),
        *,
        study: str | None = None,
        results_dir: Path | str | None = None,
        config_dir: Path | str | None = None,
    ) -> None:
        from sdvar_exp.config import compose, quoted

        if isinstance(overrides, str):
            raise UserError(f"overrides is a list of words, not one text; write {shlex.split(overrides)!r}")
        words = [] if config_dir is None else ["--config-dir", str(config_dir)]
        words += [str(word) for word in overrides]
        words += [f"study={quoted(study)}"] if study is not None else []
        words += [f"results_dir={quoted(results_dir)}"] if results_dir is not None else []
        self.argv = tuple(words)
        self.plan: Plan = replace(compose(words), argv=self.argv)

    @property
    def folder(self) -> Path:
        """Folder of the study."""
        return self.plan.folder

    @property
    def cells(self) -> dict[str, str]:
        """Names of the cells that the words mean, by id; baselines that are added to compare with are not among them."""
        return {planned.cell.id: planned.name for planned in self.plan.cells}

    def run(self, *, check: bool = True, quiet: bool = True) -> pd.DataFrame:
        """Decode what is left, as `sdvar-exp run` does, and return `results()`.

        check: raise `RunFailed` if a unit failed; otherwise its row is missing. quiet: print nothing.
        Raises `UserError` if the plan cannot run, `KeyboardInterrupt` if it was stopped; what was decoded is kept.
        """
        from sdvar_exp.runner import run_study
        from sdvar_exp.screen import Screen

        printed = StringIO()
        with guest():
            code = run_study(self.plan, Screen(file=printed, width=120) if quiet else Screen())
        if code in (130, 143):
            raise KeyboardInterrupt(f"stopped; run() goes on where {self.folder} stopped")
        if code and check:
            raise RunFailed(f"the run of {self.folder} failed with exit code {code}\n{printed.getvalue()}".rstrip())
        return self.results()

    def results(self, table: str = "samples") -> pd.DataFrame:
        """Rows of this study's own cells, labels and seeds as `load_results` gives them; what else lies there is left out.

        table: as of `load_results`; `runs` has one row per cell whatever the labels and seeds.
        """
        from sdvar_exp.store import load_results

        frame = load_results(self.folder, table=table)
        if table == "runs":
            return frame[frame["cell"].isin(list(self.cells))].reset_index(drop=True)
        own = frame["cell"].isin(list(self.cells)) & frame["label"].isin(self.plan.labels) & frame["seed"].isin(self.plan.seeds)
        return frame[own].reset_index(drop=True)

    def table(self) -> pd.DataFrame:
        """The table of `sdvar-exp table`, over all labels and seeds on disk: one row per cell, with the baselines that it is
        compared with; means, `_low` and `_high` of 95 % intervals, counts. Raises `UserError` where nothing was run."""
        return self._summary()[1]

    def _summary(self) -> tuple[Tables, pd.DataFrame]:
        from sdvar_exp.report import summarise
        from sdvar_exp.report.source import read_tables

        tables = read_tables(self.folder, stages=False)
        summary = summarise(tables)
        own = summary[summary["cell"].isin(list(self.cells))]
        beside = {*own["baseline"], *own["own_baseline"]}
        return tables, summary[summary["cell"].isin([*self.cells, *beside])].reset_index(drop=True)

    def _repr_html_(self) -> str:
        """The result table in a notebook; before the first run, the cells that the words mean."""
        from html import escape

        from sdvar_exp.report.typeset import html_table
        from sdvar_exp.store.files import is_study

        if not is_study(self.folder):
            items = "".join(f"<li>{escape(name)}</li>" for name in self.cells.values())
            return f"<p>{escape(str(self.folder))}: nothing run yet. Cells:</p><ul>{items}</ul>"
        return html_table(*self._summary())

    def stable_csv(self, table: str = "samples") -> str:
        """The stable table of the whole folder: what `sdvar-exp table --stable` prints."""
        from sdvar_exp.store import stable_csv

        return str(stable_csv(self.folder, table))

    def objective(self) -> float | tuple[float, ...] | None:
        """The number, or numbers, that the key `objective` names, over the results on disk; None where it names none."""
        from sdvar_exp.report.objective import objective_of

        return objective_of(self.plan)
