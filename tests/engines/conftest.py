"""Small studies on the fake backend."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sdvar_exp.plan import EngineOptions, Plan, Settings, Timing
from sdvar_exp.runner.running import finish, presence
from sdvar_exp.runner.running.run import run_study
from sdvar_exp.store import stable_csv
from sdvar_exp.store.ledger import LedgerReader
from tests.engines import slurm
from tests.engines.fake import Fake
from tests.store.making import make_cells

MakePlan = Callable[..., Plan]
Run = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No figures, page or tables for a paper, and nobody else on this machine."""
    monkeypatch.setattr(finish, "write_figures", lambda *_, **__: [])
    monkeypatch.setattr(finish, "write_page", lambda folder, **_: folder / "report.html")
    monkeypatch.setattr(finish.typeset, "write_typeset", lambda *_: [])
    monkeypatch.setenv(presence.VARIABLE, str(tmp_path / "presence"))


@pytest.fixture(scope="session")
def slurm_conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Slurm of two nodes on loopback, for the length of the session."""
    if os.geteuid() != 0:
        pytest.skip("the Slurm of the tests is started by root")
    folder = tmp_path_factory.mktemp("slurm")
    for parent in (folder, *folder.parents):
        if parent.stat().st_mode & 0o005 != 0o005 and parent.is_relative_to(tmp_path_factory.getbasetemp().parent):
            parent.chmod(0o755)
    try:
        yield slurm.start(folder)
    finally:
        slurm.stop(folder)


@pytest.fixture
def cluster(slurm_conf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`SLURM_CONF` of that Slurm, set; jobs of other tests are gone."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_conf))
    return slurm_conf


@pytest.fixture
def plan(tmp_path: Path) -> MakePlan:
    """plan(engine="pool", workers=2, …): three cells, two labels, four seeds on the fake backend."""

    def make(
        engine: str = "inprocess",
        folder: str = "results",
        labels: Any = (3, 8),
        seeds: Any = (0, 1, 2, 3),
        timing: int = 0,
        cells: Any = None,
        images: str = "none",
        **options: Any,
    ) -> Plan:
        chosen = {"workers": 2, **options}
        settings = Settings(
            device="cpu",
            threads=1,
            tracking="none",
            images=images,
            timing=Timing(timing, 2),
            engine=engine,
            engine_options=EngineOptions(**chosen),
        )
        return Plan(
            "study", tmp_path / folder, cells or make_cells(), tuple(labels), tuple(seeds), settings, argv=("study=study",)
        )

    return make


@pytest.fixture
def run() -> Run:
    """run(plan, fake): exit code and what was printed."""

    def start(plan: Plan, fake: Fake | None = None) -> tuple[int, str]:
        out = io.StringIO()
        code = run_study(plan, Console(file=out, width=200), backend=fake or Fake())
        return code, out.getvalue()

    return start


def records(plan: Plan, kind: str) -> list[dict[str, Any]]:
    """Ledger records of one type."""
    return [b for b in LedgerReader(plan.folder / "ledger").read() if b["type"] == kind]


def keys(bodies: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """(cell, label, seed) of records, sorted."""
    return sorted((b["cell"], b["label"], b["seed"]) for b in bodies)


def stable(plan: Plan) -> dict[str, str]:
    """The stable tables of units and stages."""
    return {name: stable_csv(plan.folder, name) for name in ("samples", "stages")}
