"""Several candidates for a stage, verified in one pass: tokens stay the target's, fewer calls, rows counted, caches in step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding.api import check_cell, decode
from sdvar_exp.decoding.decoder import Decoder
from sdvar_exp.decoding.guarantees import lossless
from sdvar_exp.decoding.masks import materialise
from sdvar_exp.decoding.session import Seen
from sdvar_exp.errors import UserError
from sdvar_exp.models.pair import Pair
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import choose
from tests.decoding.cells import INTERVAL, UNITS, flat, loop, of_sequential, run_watched
from tests.decoding.toy import Noise as ToyNoise
from tests.decoding.toy import ToyPair

MORE = [Unit(label, seed) for label in range(4) for seed in range(4)]


def in_step(d: Decoder) -> None:
    """The target's cache holds what one block-causal pass over the committed stages writes."""
    target = d.sessions["target"]
    assert target.stage == d.committed and target.cache.length == d.pyramid.offsets[d.committed]
    fresh = d._session("target", d.weights, d.pair.target)
    fresh.logits(d.f_hats, d.committed, want=0)
    n = target.cache.length
    torch.testing.assert_close(target.cache.kv[..., :n, :], fresh.cache.kv[..., :n, :], rtol=0, atol=1e-10)


@pytest.mark.parametrize("candidates", [1, 100])
@pytest.mark.parametrize("gamma", [1, 3, 5, (0, 3, 2), choose("gamma", "margin", flips=0.5)], ids=str)
def test_tokens_are_the_sequential_targets(near: Pair, candidates: int, gamma: Any) -> None:
    for more in ({}, {"bonus": True}, {"draft_cfg": "off", "draft_stale": "keep"}):
        cell = loop("exact", gamma, candidates=candidates, **more)
        assert lossless(cell) == "tokens"
        d = run_watched(near, cell, UNITS, in_step)
        assert torch.equal(torch.cat(d.tokens, dim=1), of_sequential(near, cell, UNITS))
    cell = replace(loop("exact", gamma, candidates=candidates), cfg_schedule=INTERVAL)
    for unit in UNITS:
        assert torch.equal(flat(decode(near, cell, [unit])), of_sequential(near, cell, [unit]))


@pytest.mark.parametrize("proposer", [("target_at_depth", {"depth": 1}), ("target_quantised", {}), ("none", {})], ids=str)
def test_whoever_proposes(near: Pair, proposer: tuple[str, dict[str, Any]]) -> None:
    name, params = proposer
    cell = replace(loop("exact", 3, candidates=2), proposer=choose("proposer", name, **params))
    d = run_watched(near, cell, UNITS, in_step)
    assert torch.equal(torch.cat(d.tokens, dim=1), of_sequential(near, cell, UNITS))


@torch.inference_mode()
@pytest.mark.parametrize("gamma", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 5])
def test_tokens_of_the_toy_pair(gamma: int, batch: int) -> None:
    """A stale or misplaced cached row changes the toy's logits by much."""
    pair, taken = ToyPair(), 0
    units = [Unit(0, seed) for seed in range(60)]
    for at in range(0, len(units), batch):
        noise, found = ToyNoise(units[at : at + batch]), []
        for cell in (loop("exact", gamma, candidates=2, bonus=True), loop("exact").baseline()):
            d = Decoder(pair, cell, noise.units, noise)  # type: ignore[arg-type]
            cell.strategy.entry.function(cell.strategy.params, d)
            found.append(torch.cat(d.tokens, dim=1))
            taken += sum(int((v > 0).sum()) for v in d.variants.values())
        assert torch.equal(*found)
    assert taken > 5


def first_call(pair: Pair, cell: Cell) -> list[int]:
    return [decode(pair, cell, [unit], record=False).rounds[0].committed for unit in MORE]


@pytest.mark.parametrize("gamma", [2, 3])
def test_the_first_call_commits_no_less(near: Pair, gamma: int) -> None:
    without = first_call(near, loop("exact", gamma))
    found = [first_call(near, loop("exact", gamma, candidates=m)) for m in (1, 3)]
    assert gamma == 2 or sum(without) < sum(found[1])  # two stages are always committed
    for few, many in zip([without, *found], found, strict=False):
        assert all(a <= b for a, b in zip(few, many, strict=True))


def test_rows_are_counted(near: Pair) -> None:
    """Stages of 1, 4, 9, … tokens: the first round of γ = 3 feeds stage 1 twice (stage 0 has one token) and stage 2 thrice."""
    out = decode(near, loop("exact", 3, candidates=2), UNITS)
    size = near.pyramid.lengths
    assert out.rounds[0].rows == size[0] + 2 * size[1] + 3 * size[2]
    first = next(p for p in out.passes if p.role == "target")
    assert first.branches == (1, 2, 2) and first.rows(near.pyramid) == out.rounds[0].rows
    assert sum(p.halves * p.rows(near.pyramid) for p in out.passes if p.role == "target") == out.counts.target_rows
    assert out.counts.verify_calls == len(out.rounds) and out.counts.target_calls_alone is None


def test_records_say_which_candidate_was_committed(near: Pair) -> None:
    """It differs from the draft's sample in one token, where the draft was as unsure as the candidate's number says."""
    taken = 0

    def watched(d: Decoder) -> None:
        in_step(d)
        past = d.rounds[-1]
        swapped = [k for k in range(past.first, d.committed) if k in d.variants and (d.variants[k] > 0).any()]
        if swapped:
            assert d.draft.stage == swapped[0] + 1, "rows behind it rest on the draft's own sample, those before stay"

    for unit in MORE:
        d = run_watched(near, loop("exact", 3, candidates=3), [unit], watched)
        out = decode(near, loop("exact", 3, candidates=3), [unit])
        for past in d.rounds:
            for k in range(past.first, past.first + past.committed):
                variant = out.stages[k].variant
                before = out.stages[k - 1].variant if k > past.first else None
                alone = k == past.first + past.proposed - 1 or bool(before and before[0])  # behind a taken one there is one
                assert (variant is None) == alone
                if not variant or not variant[0]:
                    continue
                taken += 1
                assert out.stages[k].passed == (True,) and out.stages[k].acceptance == (1.0,)
                view = d.judged[k].view
                scores = view.draft_processed + d.noise.gumbel(d._stream["draft"], k)
                best = scores.topk(2, dim=-1)
                place = (best.values[..., 0] - best.values[..., 1])[0].argsort()[variant[0] - 1]
                own = best.indices[..., 0].clone()
                own[0, place] = best.indices[0, place, 1]
                assert torch.equal(own, d.tokens[k])
    assert taken > 5
    assert all(s.variant is None for s in decode(near, loop("exact", 3), UNITS).stages)


def test_mask_of_a_tree() -> None:
    """Stages of 1 and 4 tokens, 2 copies of the second: a copy sees the stage before and itself, nobody sees a copy."""
    seen = Seen(choose("mask", "block_causal"), Pyramid((1, 2)), 0, 2, 0, frozenset(), (1, 1))
    mask, spans = seen.attention(torch.device("cpu"))
    assert mask is not None and spans is None
    out = np.zeros((13, 13), dtype=bool)
    out[:, 0] = True
    for copy in range(3):
        rows = slice(1 + 4 * copy, 5 + 4 * copy)
        out[rows, rows] = True
    assert np.array_equal(mask.numpy(), out)
    assert np.array_equal(out[:5, :5], materialise(seen.mask, seen.pyramid, 0, 2))


def test_cells_without_candidates_keep_their_id() -> None:
    plain, more = loop("exact", 2), loop("exact", 2, candidates=1)
    assert "candidates" not in plain.as_dict()["strategy"] and more.as_dict()["strategy"]["candidates"] == 1
    assert plain.id == loop("exact", 2, candidates=0).id != more.id


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (lambda: loop("rejection", 2, candidates=1), "needs a rule that commits the target's tokens in any case"),
        (lambda: loop("never", 2, candidates=1), "needs a rule that commits the target's tokens in any case"),
        (lambda: loop("exact", 2, mask="block_diagonal", candidates=1), "needs mask=block_causal"),
        (lambda: loop("exact", 2, candidates=-1), "must be ≥ 0, got -1"),
        (lambda: loop("exact", 2, candidates=1, on_reject="continue"), "needs on_reject=correct, not continue"),
        (lambda: loop("exact", 2, candidates=1, on_reject="redraft"), "needs on_reject=correct, not redraft"),
    ],
)
def test_refused(cell: Any, said: str) -> None:
    with pytest.raises(UserError, match=r"strategy\.candidates") as error:
        check_cell(cell(), 5)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_recorded_programs_are_refused() -> None:
    cell = loop("exact", 2, candidates=1)
    with pytest.raises(UserError, match=r"needs model\.execution=eager, got graphs"):
        check_cell(replace(cell, model=replace(cell.model, execution="graphs")), 5)
