"""Strategies from outside the project, written in the decoder's verbs, with parameters of a class of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from sdvar_exp import registry
from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding.api import decode
from sdvar_exp.decoding.decoder import Decoder
from sdvar_exp.decoding.guarantees import batch_free, lossless
from sdvar_exp.decoding.options import Policy, Stale
from sdvar_exp.errors import UserError
from sdvar_exp.models.pair import Pair
from sdvar_exp.registry import Choice, choose, register
from tests.decoding.cells import UNITS, controller, flat, loop, of_sequential
from tests.support import near_pair

READS = ("mask", "acceptance", "gamma", "noise")


@dataclass(frozen=True)
class Own:
    """count: stages of a round."""

    count: int = 3


@dataclass(frozen=True)
class OwnOptions:
    """Options with the names of the loop's, of another class."""

    on_reject: str = "correct"
    bonus: bool = False


@pytest.fixture
def add(entries: None) -> Iterator[Callable[..., Choice]]:
    """Registers a strategy for one test."""
    registry.discover()

    def made(function: Callable[..., None], params: Any = Own, **meta: Any) -> Choice:
        register("strategy", "own", params, **meta)(function)
        return choose("strategy", "own")

    yield made


@pytest.fixture(scope="module")
def near() -> Pair:
    return near_pair("tiny", "float64")


def rounds(policy: Policy | None = None) -> Callable[[Any, Decoder], None]:
    def own(s: Own, d: Decoder) -> None:
        """Rounds of s.count stages."""
        while not d.done:
            proposal = d.propose(min(getattr(s, "count", 3), d.stages - d.committed))
            verdicts = d.judge(proposal, d.verify(proposal))
            passed = d.leading_passes(verdicts)
            rest = () if policy is None else (None, policy)
            d.commit(proposal, verdicts, min(passed + 1, len(proposal)), *rest)
            d.close_round(proposal, verdicts, passed)

    return own


def cell_of(strategy: Choice, rule: str | Choice = "exact", mask: str = "block_causal") -> Cell:
    return replace(loop(rule, 3, mask=mask), strategy=strategy)


@pytest.mark.parametrize("params", [Own, registry.Empty, OwnOptions])
def test_rounds_in_the_verbs_with_parameters_of_any_class(near: Pair, add: Callable[..., Choice], params: Any) -> None:
    cell = cell_of(add(rounds(), params, reads=READS, loop=True))
    out = decode(near, cell, UNITS)
    assert torch.equal(flat(out), of_sequential(near, cell, UNITS))
    same = decode(near, loop("exact", 3), UNITS)
    alone = replace(out.counts, target_calls_alone=same.counts.target_calls_alone)
    assert alone == same.counts and out.stages == same.stages, "the loop under another name counts the same"
    assert [(r.first, r.proposed, r.gamma) for r in out.rounds] == [(r.first, r.proposed, r.gamma) for r in same.rounds]
    assert out.counts.target_calls_alone is None, "rounds of one's own are not replayed"
    assert decode(near, cell, UNITS[:1]).counts.target_calls_alone == (decode(near, cell, UNITS[:1]).counts.target_calls,)


@pytest.mark.parametrize(
    ("rule", "mask", "meta", "expected"),
    [
        ("exact", "block_causal", {"loop": True}, "tokens"),
        ("never", "block_causal", {"loop": True}, "tokens"),
        ("rejection", "block_causal", {"loop": True}, "distribution"),
        ("match_rate", "block_causal", {"loop": True}, "no"),
        ("exact", "block_diagonal", {"loop": True}, "no"),
        ("exact", "block_causal", {}, "no"),
        ("match_rate", "block_diagonal", {"lossless": "tokens"}, "tokens"),
        ("exact", "block_causal", {"lossless": "distribution"}, "distribution"),
        ("exact", "block_causal", {"loop": True, "lossless": "no"}, "no"),
    ],
)
def test_lossless_is_what_the_entries_declare(
    add: Callable[..., Choice], rule: str, mask: str, meta: dict[str, Any], expected: str
) -> None:
    assert lossless(cell_of(add(rounds(), reads=READS, **meta), rule, mask)) == expected


def test_an_option_that_says_continue_is_read_whatever_its_class(add: Callable[..., Choice]) -> None:
    correct = add(rounds(), OwnOptions, reads=READS, loop=True)
    assert lossless(cell_of(correct)) == "tokens" and batch_free(cell_of(correct))
    lossy = cell_of(replace(correct, params=OwnOptions("continue")))
    assert lossless(lossy) == "no" and not batch_free(lossy)
    bonus = cell_of(replace(correct, params=OwnOptions(bonus=True)), "match_rate")
    assert not batch_free(bonus) and lossless(replace(bonus, acceptance=choose("acceptance", "exact"))) == "tokens"


def test_a_rule_and_a_mask_of_ones_own_declare_it_too(entries: None) -> None:
    registry.discover()
    for kind, name, meta in (("acceptance", "exact", {"lossless": "tokens"}), ("mask", "block_causal", {"lossless": True})):
        register(kind, f"own_{name}", **meta)(registry.get(kind, name).function)
        register(kind, f"other_{name}")(registry.get(kind, name).function)
    for rule, mask, expected in (("own", "own", "tokens"), ("own", "other", "no"), ("other", "own", "no")):
        cell = Cell(
            choose("strategy", "parallel_v1"),
            mask=choose("mask", f"{mask}_block_causal"),
            acceptance=choose("acceptance", f"{rule}_exact"),
            gamma=controller(2),
        )
        assert lossless(cell) == expected


@pytest.mark.parametrize("stale", list(Stale))
@pytest.mark.parametrize("role", ["draft", "target"])
def test_a_policy_says_what_becomes_of_stale_rows(near: Pair, add: Callable[..., Choice], role: str, stale: Stale) -> None:
    """A repaired stage leaves rows behind it that were built from the codes before."""
    rule = choose("acceptance", "match_rate", tau=0.3)
    policy = Policy(**{"draft_stale": Stale.keep, "target_stale": Stale.keep, f"{role}_stale": stale}, repair=True)
    own = decode(near, cell_of(add(rounds(policy), reads=READS), rule), UNITS[:1])
    options = {f"{r}_stale": getattr(policy, f"{r}_stale").value for r in ("draft", "target")}
    same = loop(choose("acceptance", "match_rate", tau=0.3, repair=True), 3, **options)
    expected = decode(near, same, UNITS[:1])
    assert torch.equal(flat(own), flat(expected)) and own.counts == expected.counts


def test_mistakes_of_a_strategy_are_said_in_one_line(near: Pair, add: Callable[..., Choice]) -> None:
    def undeclared(s: Own, d: Decoder) -> None:
        proposal = d.propose(1)
        d.judge(proposal, d.verify(proposal))

    def unfinished(s: Own, d: Decoder) -> None:
        d.sample_alone("target")

    def too_many(s: Own, d: Decoder) -> None:
        d.propose(d.stages + 1)

    for function, meta, message in (
        (undeclared, {"reads": ("noise",)}, r"strategy=own reads acceptance without saying so: .* reads="),
        (unfinished, {}, r"strategy=own committed 1 of 5 stages"),
        (too_many, {}, r"own proposes 6 stages where 5 are left"),
    ):
        with pytest.raises(UserError, match=message):
            decode(near, Cell(add(function, **meta)).normalised(), [Unit(1, 0)])
