"""Small plans on the tiny golden pair, and a run of them without figures."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from sdvar_exp.cell import Cell
from sdvar_exp.decoding import api
from sdvar_exp.models.pair import Pair
from sdvar_exp.models.vqvae import VQVAE
from sdvar_exp.plan import Plan, PlannedCell, Settings, Timing
from sdvar_exp.registry import Choice, choose
from sdvar_exp.runner import run_study
from sdvar_exp.runner.measuring import baselines, timing, units
from sdvar_exp.runner.running import finish, presence
from tests.goldens.fill_weights import fill_state_dict
from tests.support import golden_pair, golden_settings


@cache
def tiny(dtype: str) -> Pair:
    """The golden transformers with the golden codebook, and a decoder to 20 × 20 pixels that takes a tenth of the time."""
    pair, h = golden_pair("tiny"), golden_settings("tiny")
    vae = VQVAE(h["patch_nums"], h["vocab_size"], h["z_channels"], h["ch"], ch_mult=(1, 1, 1), num_res_blocks=1)
    vae.load_state_dict(fill_state_dict(vae.state_dict(), "tiny/vae/"))
    return Pair(vae.eval().requires_grad_(False), pair.draft, pair.target, "tiny", {}).to("cpu", dtype)


def load_tiny(spec: object, device: object, dtype: str) -> Pair:
    """Stands in for `load_pair`."""
    return tiny(dtype)


def loop(strategy: str = "parallel_v1", rule: str = "exact", gamma: int = 2, batch: int = 1, **options: Any) -> Cell:
    """A cell of the draft-verify loop."""
    return Cell(
        choose("strategy", strategy, **options),
        mask=choose("mask", "block_causal"),
        batch=batch,
        acceptance=choose("acceptance", rule),
        gamma=choose("gamma", "fixed", value=gamma),
    )


def simple(strategy: str, schedule: Choice | None = None, **options: Any) -> Cell:
    """A cell without rule or controller."""
    more = {} if schedule is None else {"cfg_schedule": schedule}
    mask = choose("mask", "block_causal") if strategy == "test3" else None
    return Cell(choose("strategy", strategy, **options), mask=mask, **more)


CELLS = {
    "sequential": simple("sequential"),
    "draft_only": simple("draft_only"),
    "test3 K=3": simple("test3", entry_num=3),
    "parallel_v1 exact γ=2": loop(),
}


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Plan]:
    """plan(cells=…, labels=…, seeds=…, **settings): a study in an empty folder."""

    def make(
        cells: dict[str, Cell] = CELLS,
        labels: tuple[int, ...] = (0, 3),
        seeds: tuple[int, ...] = (0, 1),
        timing: Timing | None = None,
        folder: str = "results",
        **settings: Any,
    ) -> Plan:
        chosen = {"device": "cpu", "threads": 1, "tracking": "none", "images": "none", "stage_images": 0, **settings}
        planned = tuple(PlannedCell(cell, name) for name, cell in cells.items())
        return Plan(
            "study",
            tmp_path / folder,
            planned,
            labels,
            seeds,
            Settings(timing=timing or Timing(0, 1), **chosen),
            argv=("study=study", "labels=[0,3]"),
        )

    return make


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Figures, page and tables for a paper take seconds: only tests with the fixture `figures` make them."""
    if "figures" not in request.fixturenames:
        monkeypatch.setattr(finish, "write_figures", lambda *_, **__: [])
        monkeypatch.setattr(finish, "write_page", lambda folder, **_: folder / "report.html")
        monkeypatch.setattr(finish.typeset, "write_typeset", lambda *_: [])


@pytest.fixture
def figures() -> None:
    """Draw figures in this test."""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Other tests on this machine are no other workers: times are not contended by them."""
    monkeypatch.setenv(presence.VARIABLE, str(tmp_path / "presence"))


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The runner fixes PyTorch's threads; other tests get theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run() -> Callable[..., tuple[int, str]]:
    """run(plan): exit code and what was printed, without a terminal."""

    def start(plan: Plan, load: Callable[..., Pair] = load_tiny, terminal: bool = False) -> tuple[int, str]:
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=140)
        return run_study(plan, console, load=load), out.getvalue()

    return start


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...], bool]]:
    """Every decode of the runner: strategy, seeds, whether it was recorded."""
    seen: list[tuple[str, tuple[int, ...], bool]] = []

    def decode(pair: Pair, cell: Cell, of: Any, **more: Any) -> Any:
        seen.append((cell.strategy.name, tuple(u.seed for u in of), more.get("record", True)))
        return api.decode(pair, cell, of, **more)

    for module in (units, baselines, timing):
        monkeypatch.setattr(module, "decode", decode)
    return seen
