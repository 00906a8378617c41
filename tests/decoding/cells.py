"""Short ways to write cells and to watch a decode, and what whole decodes share, for the tests of the decoding core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from sdvar_exp.cell import Cell, Noise, Sampling, Unit
from sdvar_exp.decoding.api import decode, make_noise
from sdvar_exp.decoding.decoder import Decoder
from sdvar_exp.decoding.records import Decoded
from sdvar_exp.models.pair import Pair
from sdvar_exp.registry import Choice, choose, names

MASKS = (
    "no_prefix",
    "token_causal_blocks",
    "token_causal_blocks_entry_full",
    "block_causal",
    "block_diagonal",
    "block_diagonal_entry_full",
)


def sequential(cfg: float = 1.5, **sampling: Any) -> Cell:
    return Cell(choose("strategy", "sequential"), choose("cfg_schedule", "linear", cfg=cfg), sampling=Sampling(**sampling))


def draft_only(cfg: float = 1.5, **sampling: Any) -> Cell:
    return replace(sequential(cfg, **sampling), strategy=choose("strategy", "draft_only"))


def hand_off(entry: int, mask: str = "block_causal", **sampling: Any) -> Cell:
    return replace(sequential(**sampling), strategy=choose("strategy", "test3", entry_num=entry), mask=choose("mask", mask))


def controller(gamma: int | Sequence[int] | Choice) -> Choice:
    """An integer is `fixed`, a sequence is `table`."""
    if isinstance(gamma, Choice):
        return gamma
    return choose("gamma", "fixed", value=gamma) if isinstance(gamma, int) else choose("gamma", "table", values=gamma)


def loop(
    rule: str | Choice = "exact",
    gamma: int | Sequence[int] | Choice = 2,
    mask: str = "block_causal",
    schedule: Choice | None = None,
    noise: str = "shared",
    top_k: int = 0,
    until: int | None = None,
    **options: Any,
) -> Cell:
    """A cell of the loop: `dynamic_gamma`, or `hybrid` where `until` is given."""
    strategy = (
        choose("strategy", "dynamic_gamma", **options)
        if until is None
        else choose("strategy", "hybrid", verify_until=until, **options)
    )
    return Cell(
        strategy,
        schedule or choose("cfg_schedule", "linear"),
        choose("mask", mask),
        choose("acceptance", rule) if isinstance(rule, str) else rule,
        controller(gamma),
        Sampling(top_k=top_k, noise=Noise(noise)),
    )


def flat(out: Decoded) -> torch.Tensor:
    """All tokens, (B, L)."""
    return torch.cat(out.tokens, dim=1)


def trace(out: Decoded) -> list[tuple[int, int, int, int]]:
    """(first, proposed, committed, passed) of each round."""
    return [(r.first, r.proposed, r.committed, r.passed) for r in out.rounds]


class Watched(Decoder):
    """A decoder that calls `watch(decoder)` after every round."""

    watch: Callable[[Decoder], None]

    def close_round(self, *args: Any) -> None:
        super().close_round(*args)
        self.watch(self)


@torch.inference_mode()
def run_watched(pair: Any, cell: Cell, units: Sequence[Unit], watch: Callable[[Decoder], None]) -> Decoder:
    """Decode with `watch` called after every round; the finished decoder."""
    d = Watched(pair, cell, units, make_noise(pair, units))
    d.watch = watch
    cell.strategy.entry.function(cell.strategy.params, d)
    return d


# --- what whole decodes of the tiny pair share ----------------------------------------------------------------------------

UNITS = [Unit(1, 0), Unit(7, 3), Unit(4, 1)]
GAMMAS: dict[str, Choice] = {
    **{f"γ = {n}": controller(n) for n in range(1, 6)},
    "aimd": choose("gamma", "aimd", start=1),
    "halving": choose("gamma", "aimd", start=4, decrease="halve"),
    "table": controller((3, 1, 2)),
    "acceptance_ema": choose("gamma", "acceptance_ema", prior=0.9),
    "token_budget": choose("gamma", "token_budget", tokens=30),
    "cost_model": choose("gamma", "cost_model"),
    "margin": choose("gamma", "margin", flips=0.5),
}
INTERVAL = choose("cfg_schedule", "interval", cfg=2.0, first=1, last=2)
RULES = {name: choose("acceptance", name) for name in names("acceptance")} | {
    "argmax": choose("acceptance", "match_rate", mode="argmax", tau=0.2),
    "until 3": choose("acceptance", "always", until=3),
    "rate 0.9": choose("acceptance", "match_rate", tau=0.9),
    "kl": choose("acceptance", "kl", tau=0.025),
    "tv": choose("acceptance", "tv", tau=0.09),
}
ALONE: dict[tuple[int, Cell, Unit], torch.Tensor] = {}  # by identity of the pair: fixtures live as long as the session


def alone(pair: Pair, cell: Cell, unit: Unit) -> torch.Tensor:
    """Tokens of one unit decoded by itself, (L,)."""
    key = (id(pair), cell, unit)
    if key not in ALONE:
        ALONE[key] = flat(decode(pair, cell, [unit], record=False))[0]
    return ALONE[key]


def of_sequential(pair: Pair, cell: Cell, units: list[Unit]) -> torch.Tensor:
    return torch.stack([alone(pair, cell.baseline(), unit) for unit in units])
