"""The strategies: functions (parameters, Decoder) that commit every stage. All follow a text of one letter a stage."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from sdvar_exp.decoding.options import Loop, check_loop
from sdvar_exp.decoding.proposers.standard import blocks_of_file, refuse_recorded, within
from sdvar_exp.decoding.schedule import Fill, GuidedBy, brief, follow, spell
from sdvar_exp.errors import require
from sdvar_exp.registry import Choice, Empty, register

if TYPE_CHECKING:
    from sdvar_exp.cell import Cell
    from sdvar_exp.decoding.decoder import Decoder
    from sdvar_exp.models.pair import Pair

LOOP = ("mask", "acceptance", "gamma", "proposer", "noise")
"""Factors that the loop reads."""


def _within(cell: Cell, name: str, stages: int) -> None:
    n = getattr(cell.strategy.params, name)
    require(n <= stages, f"strategy.{name} must lie in 0 … {stages}, got {n}")


@register("strategy", "sequential", reads=(), models=("target",), lossless="tokens")
def sequential(_: Empty, d: Decoder) -> None:
    """The target alone, stage by stage, with a KV cache: S calls (VAR, arXiv 2404.02905). The baseline."""
    follow(d, "T" * d.stages)


@register("strategy", "draft_only", reads=("noise",), models=("draft",))
def draft_only(_: Empty, d: Decoder) -> None:
    """The draft alone, stage by stage: the floor of quality and cost."""
    follow(d, "D" * d.stages)


@dataclass(frozen=True)
class Test3:
    """entry_num: stages that the draft generates; 0 is `sequential`, S is `draft_only`."""

    __test__ = False  # not a test, whatever its name

    entry_num: int = 5

    def __post_init__(self) -> None:
        require(self.entry_num >= 0, f"strategy.entry_num must be ≥ 0, got {self.entry_num}")


@register("strategy", "test3", Test3, reads=("mask", "noise"), check=lambda cell, stages: _within(cell, "entry_num", stages))
def test3(s: Test3, d: Decoder) -> None:
    """The draft makes the stages < K, the target takes them and stage K in one masked forward (SDVAR): S - K calls."""
    follow(d, "D" * s.entry_num + "T" * (d.stages - s.entry_num), mask=d.cell.mask)


test3.__test__ = False  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Collaborative:
    """target_stages: N, stages that the large model generates before the small one takes over."""

    target_stages: int = 8

    def __post_init__(self) -> None:
        require(self.target_stages >= 0, f"strategy.target_stages must be ≥ 0, got {self.target_stages}")


@register(
    "strategy",
    "collaborative",
    Collaborative,
    reads=("noise",),
    check=lambda cell, stages: _within(cell, "target_stages", stages),
)
def collaborative(s: Collaborative, d: Decoder) -> None:
    """CoDe (Chen et al., CVPR 2025): the target does the first N stages, the draft takes the prefix and does the rest."""
    follow(d, "T" * s.target_stages + "D" * (d.stages - s.target_stages))


def check_parallel(cell: Cell, stages: int) -> None:
    name = cell.gamma.name if cell.gamma else "none"
    require(name == "fixed", f"parallel_v1 takes gamma=fixed only, got gamma={name}; use strategy=dynamic_gamma for it")
    check_loop(cell, stages)


@register("strategy", "parallel_v1", Loop, reads=LOOP, loop=True, check=check_parallel)
def parallel_v1(s: Loop, d: Decoder) -> None:
    """Draft γ stages, verify them in one target forward, commit; γ is fixed (SDVAR, after arXiv 2211.17192)."""
    follow(d, "V" * d.stages, s)


def as_parallel(cell: Cell) -> Cell:
    """`dynamic_gamma gamma=fixed` is the same cell as `parallel_v1`."""
    if cell.gamma is not None and cell.gamma.name == "fixed":
        return replace(cell, strategy=Choice("strategy", "parallel_v1", cell.strategy.params))
    return cell


@register("strategy", "dynamic_gamma", Loop, reads=LOOP, loop=True, check=check_loop, canonical=as_parallel)
def dynamic_gamma(s: Loop, d: Decoder) -> None:
    """The loop of parallel_v1; a γ controller picks γ each round."""
    follow(d, "V" * d.stages, s)


@dataclass(frozen=True)
class Hybrid(Loop):
    """The loop's options, and verify_until: stages before it are verified, the draft alone does the rest."""

    verify_until: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.verify_until >= 0, f"strategy.verify_until must be ≥ 0, got {self.verify_until}")


def check_hybrid(cell: Cell, stages: int) -> None:
    _within(cell, "verify_until", stages)
    check_loop(cell, stages)


@register("strategy", "hybrid", Hybrid, reads=LOOP, partly_loop=True, check=check_hybrid)
def hybrid(s: Hybrid, d: Decoder) -> None:
    """The loop for the stages < verify_until, then the draft alone on its own KV cache."""
    follow(d, "V" * s.verify_until + "D" * (d.stages - s.verify_until), s)


@dataclass(frozen=True)
class ModelSchedule(Loop):
    """One letter a stage, and the loop's options for stages V.

    stages: T target, t target guided by the draft, o target unguided, D draft, V draft and verify, e target's first blocks,
    s nobody (last stages alone); run lengths as in T5 D4 t1. target_fill, draft_fill: rows of stages that the other model
    made, recompute | none. guided_by: what guides stages t, draft_difference | draft. exit_depth: blocks of stages e.
    """

    stages: str = "T5 D4 t1"
    target_fill: Fill = Fill.none
    draft_fill: Fill = Fill.recompute
    guided_by: GuidedBy = GuidedBy.draft_difference
    exit_depth: int = field(default=4, metadata={"said_if_read": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.exit_depth >= 1, f"strategy.exit_depth must be ≥ 1, got {self.exit_depth}")
        object.__setattr__(self, "stages", brief(spell(str(self.stages))))

    @property
    def letters(self) -> str:
        """One letter a stage."""
        return spell(self.stages)

    def reads(self) -> tuple[str, ...]:
        """Factors that the letters need."""
        return LOOP if "V" in self.letters else ("noise",) if "D" in self.letters else ()

    @property
    def unread(self) -> frozenset[str]:
        """Options that no letter needs."""
        out: set[str] = set() if "V" in self.letters else {f.name for f in fields(Loop)}
        out |= {name for name, letter in (("guided_by", "t"), ("exit_depth", "e")) if letter not in self.letters}
        return frozenset(out | {name for name, pairs in FILLS.items() if not any(_behind(self.letters, *p) for p in pairs)})

    def lossless(self) -> str | None:
        """The promise of the letters by themselves; None where the loop's rule says it."""
        if set(self.letters) <= {"T"}:
            return "tokens"
        return None if set(self.letters) <= {"T", "V"} else "no"


def check_schedule(cell: Cell, stages: int) -> None:
    s, spec = cell.strategy.params, cell.model
    n = len(s.letters)
    require(n == stages, f"strategy.stages={s.stages} is for {n} stages, this model has {stages}: give one letter for each")
    drafted = "".join(letter for letter in "tDV" if letter in s.letters)
    require(
        not drafted or bool(spec.draft) or not spec.target,
        f"strategy.stages={s.stages} needs a draft for {', '.join(drafted)}, and model={spec.name} names none: set model.draft",
    )
    if "V" in s.letters:
        check_loop(cell, stages)
    if "e" in s.letters:
        refuse_recorded(cell, f"strategy.stages={s.stages}, an early exit,")


def exit_fits_file(cell: Cell) -> None:
    """Refuse an exit behind the target's last block before any model is loaded."""
    if "e" in cell.strategy.params.letters:
        within("strategy.exit_depth", cell.strategy.params.exit_depth, blocks_of_file(cell))


def exit_fits(cell: Cell, pair: Pair) -> None:
    """The same of a loaded target."""
    if "e" in cell.strategy.params.letters:
        within("strategy.exit_depth", cell.strategy.params.exit_depth, pair.target.depth)


def plain_schedule(cell: Cell) -> Cell:
    """Options that no letter needs as by default, so that they make no other cell."""
    s = cell.strategy.params
    kept = {f.name: getattr(s, f.name) for f in fields(s) if f.name not in s.unread}
    return replace(cell, strategy=replace(cell.strategy, params=ModelSchedule(**kept)))


FILLS = {"target_fill": (("De", "TtoV"), ("D", "e")), "draft_fill": (("Toet", "tDV"),)}
"""By option, whose rows it is about, and the letters behind them that would read those. A `t` without weight asks no draft."""


def _behind(letters: str, other: str, own: str) -> bool:
    """Whether some stage of `own` stands behind one of `other`."""
    first = next((i for i, letter in enumerate(letters) if letter in other), len(letters))
    return any(letter in own for letter in letters[first + 1 :])


@register(
    "strategy",
    "model_schedule",
    ModelSchedule,
    reads=ModelSchedule.reads,
    lossless=ModelSchedule.lossless,
    loop=lambda s: set(s.letters) <= {"T", "V"},
    partly_loop=True,
    check=check_schedule,
    check_files=exit_fits_file,
    check_pair=exit_fits,
    canonical=plain_schedule,
)
def model_schedule(s: ModelSchedule, d: Decoder) -> None:
    """A letter a stage says who makes it (OMS-DPM, arXiv 2306.08860): T, t, o, e the target, D the draft, V both, s nobody."""
    follow(d, s.letters, s, s.target_fill, s.draft_fill, s.guided_by, exit_depth=s.exit_depth)
