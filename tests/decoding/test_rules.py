"""Acceptance rules on literal stages: who passes, which tokens count, what a failed stage commits; and what cells promise."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from sdvar_exp.cell import Cell, Noise, Sampling, Unit
from sdvar_exp.decoding.api import check_cell, streams_read
from sdvar_exp.decoding.evidence import StageView, Verdict, by_share
from sdvar_exp.decoding.guarantees import batch_free, lossless
from sdvar_exp.decoding.noise import NoiseBook, Stream
from sdvar_exp.errors import UserError
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import Choice, choose, names, plain
from tests.decoding.cells import draft_only, hand_off, loop, sequential

V = 4
PYRAMID = Pyramid((1, 2))


class Silent(NoiseBook):
    """Gumbel variables that choose: +50 on the given codes of stage 1, (B, 4)."""

    def __init__(self, codes: list[list[int]]) -> None:
        super().__init__(PYRAMID, V, [Unit(0, seed) for seed in range(len(codes))])
        self.codes = torch.tensor(codes)

    def gumbel(self, stream: Stream, stage: int) -> torch.Tensor:
        return 50.0 * torch.nn.functional.one_hot(self.codes, V).float()


def view(draft: list[list[int]], sampled: list[list[int]], best: int = 0, sampling: Sampling | None = None) -> StageView:
    """Stage 1 with draft tokens, the target's sample, and code `best` the target's most probable everywhere."""
    logits = torch.zeros(len(draft), 4, V, dtype=torch.float64)
    logits[..., best] = 1.0
    return StageView(
        1,
        torch.tensor(draft),
        torch.zeros_like(logits),
        logits,
        sampling or Sampling(),
        Silent(sampled),
        lambda t: t,
        torch.zeros(1),
        torch.eye(V),
    )


def verdict(name: str, stage: StageView, **params: Any) -> Verdict:
    choice = choose("acceptance", name, **params)
    return choice.entry.function(choice.params, stage)


SAMPLE = [[1, 2, 3, 1], [1, 2, 3, 1]]
TWO = view([[1, 2, 3, 1], [1, 2, 0, 0]], SAMPLE)  # the first image matches, the second by half


@pytest.mark.parametrize(
    ("name", "params", "passed", "accepted"),
    [
        ("exact", {}, [True, False], [4, 2]),
        ("match_rate", {"tau": 0.5}, [True, True], [4, 2]),
        ("match_rate", {"tau": 0.51}, [True, False], [4, 2]),
        ("match_rate", {"tau": 0.0}, [True, True], [4, 2]),
        ("match_rate", {"tau": 0.5, "mode": "argmax"}, [False, True], [0, 2]),  # code 0 is the most probable
        ("match_rate", {"tau": 0.5, "mode": "coupled"}, [True, True], [4, 2]),
        ("always", {}, [True, True], [4, 4]),
        ("always", {"until": 2}, [True, True], [4, 4]),
        ("always", {"until": 1}, [False, False], [0, 0]),
        ("always", {"until": 0}, [False, False], [0, 0]),
        ("never", {}, [False, False], [0, 0]),
    ],
)
def test_who_passes(name: str, params: dict[str, Any], passed: list[bool], accepted: list[int]) -> None:
    v = verdict(name, TWO, **params)
    assert v.passed_B.tolist() == passed
    assert v.accepted_Bl.sum(1).tolist() == accepted
    assert v.accepted_Bl.dtype == torch.bool
    assert v.corrected_Bl.tolist() == SAMPLE  # never the argmax, also where the rule compares with it


def test_a_share_is_compared_as_a_count() -> None:
    """7 of 10 is 0.7, whatever 0.7·10 is in binary; and one token less is not."""
    for size in (1, 4, 9, 10, 16, 25, 100, 256):
        for matching in range(1, size + 1):
            position = torch.arange(size)[None]
            assert by_share(TWO, position < matching, matching / size).passed_B.all()
            assert not by_share(TWO, position < matching - 1, matching / size).passed_B.any()


def test_acceptance_reads_the_guided_and_processed_logits() -> None:
    """top-k removes the code that the noise would choose, so the target's sample is another one."""
    stage = view([[1, 1, 1, 1]], [[2, 2, 2, 2]], best=1, sampling=Sampling(top_k=1))
    assert verdict("exact", stage).passed_B.tolist() == [True]
    assert verdict("exact", view([[1, 1, 1, 1]], [[2, 2, 2, 2]], best=1)).passed_B.tolist() == [False]


def test_evidence_of_a_stage() -> None:
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25, 1e-30]]], dtype=torch.float64)).expand(1, 4, V)
    draft = torch.log(torch.tensor([[[0.25, 0.5, 0.25, 1e-30]]], dtype=torch.float64)).expand(1, 4, V)
    stage = StageView(
        1,
        torch.zeros(1, 4, dtype=torch.int64),
        draft,
        logits,
        Sampling(top_k=2),
        Silent([[0] * 4]),
        lambda t: t,
        torch.zeros(1),
        torch.eye(V),
    )
    # top_k = 2 keeps three codes: two of them tie
    torch.testing.assert_close(stage.p[0, 0], torch.tensor([0.5, 0.25, 0.25, 0.0], dtype=torch.float64))
    assert stage.tv_Bl[0, 0].item() == pytest.approx(0.25 if stage.q[0, 0, 2] > 0 else 1 / 3)
    assert stage.kl_Bl[0, 0].item() == pytest.approx(0.5 * torch.tensor(2.0).log().item() * 0.5)
    assert stage.entropy_Bl[0, 0].item() == pytest.approx(1.5 * torch.tensor(2.0).log().item())
    assert stage.target_argmax_Bl.tolist() == [[0, 0, 0, 0]]


def test_the_residual_where_both_agree_is_the_target() -> None:
    stage = view([[1, 2, 3, 1]], [[3, 3, 3, 3]], best=0)
    stage.draft_logits_BlV = stage.target_logits_BlV
    assert stage.residual_sample().tolist() == [[3, 3, 3, 3]]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"tau": 1.5}, r"acceptance.tau must lie in \[0, 1\], got 1.5"),
        ({"tau": float("nan")}, r"acceptance.tau must lie in \[0, 1\], got nan"),
        ({"mode": "greedy"}, "acceptance.mode must be one of coupled, argmax, got 'greedy'"),
    ],
)
def test_bad_match_rates(params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose("acceptance", "match_rate", **params)


def test_bad_until() -> None:
    with pytest.raises(UserError, match=r"acceptance.until must be ≥ -1, got -2"):
        choose("acceptance", "always", until=-2)


# --- what a cell may be, and what it promises ---------------------------------------------------------------------------

RATE = choose("acceptance", "match_rate")
REPAIR = choose("acceptance", "match_rate", repair=True)


def parallel(cell: Cell) -> Cell:
    return replace(cell, strategy=choose("strategy", "parallel_v1"))


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (sequential(), "tokens"),
        (draft_only(), "no"),
        (hand_off(0), "no"),
        (loop(), "tokens"),
        (loop("never"), "tokens"),
        (parallel(loop()), "tokens"),
        (loop("rejection"), "distribution"),
        (loop(RATE), "no"),
        (loop("always"), "no"),
        (loop(on_reject="continue"), "no"),
        (loop(on_reject="redraft"), "no"),
        (loop(mask="block_diagonal"), "no"),
        (loop(until=5), "no"),
        (loop(bonus=True, noise="independent"), "tokens"),
    ],
)
def test_lossless_is_a_property_of_the_cell(cell: Cell, expected: str) -> None:
    assert lossless(cell) == expected


PROMISES = {
    "exact": "tokens",
    "never": "tokens",
    "rejection": "distribution",
    "stage_rejection": "distribution",
}  # the rest promise nothing


def alone_or_looped(strategy: str, on_reject: str) -> Choice:
    loops = {"on_reject": on_reject} if strategy in ("parallel_v1", "dynamic_gamma", "hybrid") else {}
    return choose("strategy", strategy, **loops)


@pytest.mark.parametrize("strategy", names("strategy"))
@pytest.mark.parametrize("on_reject", ["correct", "continue", "redraft"])
def test_lossless_over_all_combinations(strategy: str, on_reject: str) -> None:
    """Strategy × on_reject × rule × mask, against what docs/design.md says; options that cannot matter do not."""
    options: list[dict[str, Any]] = [{}] if on_reject == "redraft" else [{}, {"bonus": True}, {"draft_cfg": "off"}]
    for rule, mask in product(names("acceptance"), names("mask")):
        expected = "no"
        if strategy in ("parallel_v1", "dynamic_gamma") and on_reject == "correct" and mask == "block_causal":
            expected = PROMISES.get(rule, "no")
        if strategy == "sequential":
            expected = "tokens"
        choice = alone_or_looped(strategy, on_reject)
        for more in options if strategy in ("parallel_v1", "dynamic_gamma", "hybrid") else [{}]:
            cell = Cell(
                choose("strategy", strategy, **{**plain(choice.params), **more}),
                mask=choose("mask", mask),
                acceptance=choose("acceptance", rule),
                gamma=choose("gamma", "fixed"),
            )
            for noise in Noise:
                one = replace(cell, sampling=Sampling(noise=noise, top_k=3))
                assert lossless(one) == lossless(one.normalised()) == expected, (rule, mask, more)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (loop(until=5), "no"),
        (hand_off(0), "no"),
        (loop(choose("acceptance", "always", until=0)), "no"),
        (loop(choose("acceptance", "neighbourhood", delta=0.0)), "no"),
        (loop(gamma=(0, 2)), "tokens"),
        (loop("rejection", gamma=(0, 2)), "distribution"),
        (loop(skip_last=True), "tokens"),
        (loop(draft_cfg=4.0), "tokens"),
    ],
)
def test_the_promise_is_that_of_the_configuration_not_of_its_numbers(cell: Cell, expected: str) -> None:
    assert lossless(cell) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (sequential(), True),
        (draft_only(), True),
        (hand_off(3), True),
        (loop(), True),
        (loop(RATE), True),
        (loop(RATE, until=3), True),
        (loop(on_reject="continue"), False),
        (loop(REPAIR), False),
        (loop(RATE, mask="block_diagonal"), False),
        (loop(RATE, bonus=True), False),
        (loop(RATE, gamma=(2, 0)), False),
        (loop("exact", bonus=True), True),
        (loop("never", gamma=(2, 0)), True),
        (loop("rejection", bonus=True), False),
    ],
)
def test_batch_free(cell: Cell, expected: bool) -> None:
    assert batch_free(cell) is expected


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (loop(gamma=6), "gamma.value must lie in 1 … 5, got 6"),
        (loop(mask="no_prefix"), "mask=no_prefix is for strategy=test3 only"),
        (loop(RATE, skip_last=True), r"skip_last needs a rule that commits the target's tokens .* \(exact\), not match_rate"),
        (loop(gamma=(1, 2), on_reject="redraft"), "on_reject=redraft shrinks γ itself: use gamma=fixed, not table"),
        (loop(REPAIR, on_reject="redraft"), "on_reject=redraft takes no acceptance.repair"),
        (loop(until=6), "strategy.verify_until must lie in 0 … 5, got 6"),
        (hand_off(6), "strategy.entry_num must lie in 0 … 5, got 6"),
        (Cell(choose("strategy", "collaborative", target_stages=6)), "strategy.target_stages must lie in 0 … 5, got 6"),
        (Cell(choose("strategy", "parallel_v1")), "parallel_v1 takes gamma=fixed only, got gamma=none"),
        (parallel(loop(gamma=(1, 2))), "parallel_v1 takes gamma=fixed only, got gamma=table; use strategy=dynamic_gamma"),
        (Cell(choose("strategy", "dynamic_gamma")), "dynamic_gamma needs a mask, an acceptance rule and a γ controller"),
    ],
)
def test_cells_that_do_not_fit(cell: Cell, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_cell(cell, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draft_cfg": "none"}, "strategy.draft_cfg must be same, off or a number ≥ 0, got 'none'"),
        ({"draft_cfg": -1}, "strategy.draft_cfg must be same, off or a number ≥ 0, got -1"),
        ({"draft_cfg": True}, "strategy.draft_cfg must be same, off or a number ≥ 0, got True"),
        ({"draft_cfg": float("nan")}, "strategy.draft_cfg must be same, off or a number ≥ 0, got nan"),
        ({"draft_cfg": float("inf")}, "strategy.draft_cfg must be same, off or a number ≥ 0, got inf"),
        ({"bonus": True, "skip_last": True}, "strategy.bonus and strategy.skip_last exclude each other"),
        ({"bonus": True, "on_reject": "redraft"}, "on_reject=redraft takes neither bonus nor skip_last"),
        ({"skip_last": True, "on_reject": "redraft"}, "on_reject=redraft takes neither bonus nor skip_last"),
        ({"draft_cfg": False, "on_reject": "redraft"}, "on_reject=redraft .* use strategy.draft_cfg=same, not off"),
        ({"draft_cfg": 1.5, "on_reject": "redraft"}, "on_reject=redraft .* use strategy.draft_cfg=same, not 1.5"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose("strategy", "parallel_v1", **options)


def test_a_bare_off_of_yaml() -> None:
    assert choose("strategy", "parallel_v1", draft_cfg=False).params.draft_cfg == "off"
    assert choose("strategy", "parallel_v1", draft_cfg=2).params.draft_cfg == 2.0


def test_labels_are_checked_against_the_classes() -> None:
    for label in (-1, 10):
        with pytest.raises(UserError, match=f"label must lie in 0 … 9, got {label}"):
            check_cell(sequential(), 5, [Unit(label, 0)], 10)


def test_streams_that_a_cell_reads() -> None:
    assert streams_read(sequential()) == (Stream.target,)
    assert streams_read(loop()) == (Stream.target,)
    assert streams_read(loop(noise="independent")) == (Stream.target, Stream.draft)
    assert streams_read(loop("rejection")) == (Stream.target, Stream.accept, Stream.residual)
