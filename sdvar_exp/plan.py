"""The plan of a command, after composition and before anything runs. Plain frozen data, no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sdvar_exp.cell import Cell, Unit

PROJECT = re.compile(r"[^/\\#?%:\x00-\x1f]{1,128}")


def tracking_faults(tracking: Mapping[str, str | None]) -> list[str]:
    """One line for each name or address that W&B would refuse, which it does only when it is sent to. None: not said."""
    project, entity, url = (tracking.get(key) for key in ("project", "entity", "base_url"))
    wrong = []
    if project is not None and not PROJECT.fullmatch(project):
        team, _, name = project.partition("/")
        hint = f"; the team is a key of its own: tracking.entity={team} tracking.project={name}" if team and name else ""
        wrong.append(f"tracking.project must be 1 to 128 characters without / \\ # ? % :, got {project[:60]!r}{hint[:200]}")
    if entity is not None and not PROJECT.fullmatch(entity):
        wrong.append(f"tracking.entity must be a user or a team of W&B, got {entity[:60]!r}")
    if url is not None and not re.fullmatch(r"https?://[^\s/]\S*", url):
        wrong.append(f"tracking.base_url must begin with https:// or http://, got {url[:60]!r}")
    return wrong


@dataclass(frozen=True)
class Timing:
    """The timing phase: how many units of each cell are timed, and how often each.

    band: least and greatest speed-up between which the interval of the reference against itself must lie for times to count.
    """

    units: int = 32
    repeats: int = 3
    band: tuple[float, float] = (0.95, 1.05)

    def batches(self, planned: int, batch: int = 1) -> int:
        """Number of lockstep batches of a cell that are timed, `repeats` times each: whole ones, of its first `units` units."""
        return -(-min(self.units, planned) // batch)


@dataclass(frozen=True)
class EngineOptions:
    """Options of an engine; conf/engine/ explains each. 0 and empty: no limit, or what fits the machine."""

    workers: int = 0
    unit_timeout_s: float = 0.0
    retries: int = 1
    fail_fast: bool = False
    max_failures: float = 0
    detach: bool = False
    partition: str = ""
    time_min: int = 60
    cpus: int = 1
    gpus: int = 0
    memory_gb: float = 0.0
    workers_per_job: int = 1
    requeues: int = 8
    setup: tuple[str, ...] = ()
    sbatch: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """All that changes how a study is run but not what its cells mean. project, entity, base_url: of W&B, from the files."""

    device: str = "auto"
    dtype: str = "float32"
    threads: int = 0
    images: str | int = "all"
    stage_images: int = 1
    timing: Timing = field(default_factory=Timing)
    tracking: str = "offline"
    tracker: str = "wandb"
    project: str | None = None
    entity: str | None = None
    base_url: str | None = None
    engine: str = "inprocess"
    engine_options: EngineOptions = field(default_factory=EngineOptions)
    plugins: tuple[str, ...] = ()
    allow_mixed: bool = False
    enforce_clean: bool = False
    quota_gb: float = 0.0
    debug: str = "none"
    objective: str | tuple[str, ...] | None = None


FIRST_LOOK = 4
"""Seeds of the first look of `seeds=until`: fewer know next to nothing of a label's spread."""


@dataclass(frozen=True)
class Until:
    """Seeds are added until each named quantity has its half-width in every cell, or there are `most` of them."""

    widths: tuple[tuple[str, float], ...]
    most: int = 64

    @property
    def looks(self) -> tuple[int, ...]:
        """Seeds at each look: half as many more each time, the last are the most."""
        out = [min(FIRST_LOOK, self.most)]
        while out[-1] < self.most:
            following = out[-1] + -(-out[-1] // 2)
            out.append(following if 5 * following <= 4 * self.most else self.most)
        return tuple(out)

    @property
    def timed(self) -> bool:
        """Whether images are to be timed before a look."""
        return any(name == "speedup" for name, _ in self.widths)

    def __str__(self) -> str:
        widths = ", ".join(f"{name} ± {width:g}" for name, width in self.widths)
        return f"{widths} in every cell; looks after {', '.join(map(str, self.looks))} seeds"


@dataclass(frozen=True)
class PlannedCell:
    """A cell, its short name in tables, and the overrides that made it."""

    cell: Cell
    name: str
    overrides: tuple[str, ...] = ()

    @cached_property
    def id(self) -> str:
        """The cell's id, hashed once: a plan asks for it at every one of its units."""
        return self.cell.id


@dataclass(frozen=True)
class Plan:
    """Cells × labels × seeds of one study. design: how the swept values were combined, in words.

    reference: the `sequential` cell that headline numbers compare with; None: each cell's own baseline. said: whether the
    command names it, else a study that has one keeps its own.
    only: (cell, label, seed) of the units to decode, where not all are asked for. shared: other processes may work on
    the same study at once, as the parallel jobs of a Hydra launcher do. until: `seeds` are the most that there may be.
    """

    study: str
    results_dir: Path
    cells: tuple[PlannedCell, ...]
    labels: tuple[int, ...]
    seeds: tuple[int, ...]
    settings: Settings = field(default_factory=Settings)
    argv: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    design: str = "product"
    only: frozenset[tuple[str, int, int]] | None = None
    shared: bool = False
    reference: Cell | None = None
    said: bool = False
    until: Until | None = None

    def compared_with(self, cell: Cell) -> tuple[Cell, ...]:
        """Cells that a cell is compared with: the reference, and behind it its own baseline, where that is another cell."""
        reference, own = cell.compared_with(self.reference), cell.baseline()
        return (reference,) if own.id == reference.id else (reference, own)

    def added(self) -> tuple[Cell, ...]:
        """References and baselines that are compared with and are no cells of the plan: the runner adds them."""
        ids = {planned.id for planned in self.cells}
        found = {cell.id: cell for planned in self.cells for cell in self.compared_with(planned.cell)}
        return tuple(cell for key, cell in found.items() if key not in ids)

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The units of each cell in plan order: every label of the first seed, then of the next.

        The first n units are thus spread over the labels, and more seeds only add units at the end.
        """
        return tuple(Unit(label, seed) for seed in self.seeds for label in self.labels)

    @property
    def rows(self) -> int:
        """Number of rows that the plan's own cells are to have."""
        return len(self.cells) * len(self.units)

    def asks(self, key: tuple[str, int, int]) -> bool:
        """Whether a unit, (cell, label, seed), is to be decoded."""
        return self.only is None or key in self.only

    @property
    def folder(self) -> Path:
        """Folder of the study."""
        return self.results_dir / self.study
