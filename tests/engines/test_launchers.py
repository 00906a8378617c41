"""Hydra's own launchers: jobs that run at once write one ledger, and the tables are those of an ordinary run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sdvar_exp.store import load_tables, stable_csv
from sdvar_exp.store.ledger import LedgerReader
from tests.engines.conftest import keys

WORDS = [
    "strategy=sequential,draft_only,parallel_v1",
    "labels=[0,3]",
    "seeds=2",
    "timing.units=0",
    "threads=1",
    "device=cpu",
    "tracking=none",
    "images=none",
    "study=s",
]
Launch = Callable[..., Path]


@pytest.fixture
def launch(tmp_path: Path, repository: Path) -> Launch:
    """launch(name, words…): `python scripts/run.py -m` with them; the folder of the study, which lies in `name`."""

    def go(name: str, *words: str) -> Path:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
        done = subprocess.run(
            [sys.executable, str(repository / "scripts/run.py"), "-m", f"results_dir={name}", *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert not {p.name for p in tmp_path.iterdir()} & {"multirun", "outputs", "wandb"}
        return tmp_path / name / "s"

    return go


def check(mine: Path, plain: Path) -> None:
    """The same units, once each, and the same tables; cells may have come in another order."""
    units = [b for b in LedgerReader(mine / "ledger").read() if b["type"] == "unit"]
    assert set(keys(units)) == set(keys([b for b in LedgerReader(plain / "ledger").read() if b["type"] == "unit"]))
    assert load_tables(mine).notes == (), "twins, if two jobs made one baseline at once, agree"
    for table in ("samples", "stages"):
        rows = [stable_csv(folder, table).splitlines() for folder in (mine, plain)]
        assert rows[0][0] == rows[1][0] and sorted(rows[0]) == sorted(rows[1])


@pytest.mark.long
@pytest.mark.needs("weights")
def test_joblib(launch: Launch) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    plain = launch("plain", *WORDS)
    check(launch("mine", "hydra/launcher=joblib", "hydra.launcher.n_jobs=3", *WORDS), plain)


@pytest.mark.long
@pytest.mark.needs("weights", "submitit", "slurm")
def test_submitit(launch: Launch, cluster: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    plain = launch("plain", *WORDS)
    check(launch("mine", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=5", *WORDS), plain)
