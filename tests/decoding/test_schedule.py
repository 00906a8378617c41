"""Schedules of models: every fixed hand-off is one, gaps in a cache are what they say, and each letter costs what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sdvar_exp.cell import Cell, ModelSpec, Noise, Sampling
from sdvar_exp.config.cells import check_cell as check_composed
from sdvar_exp.decoding.api import check_cell, decode, decode_images
from sdvar_exp.decoding.cost import features
from sdvar_exp.decoding.guarantees import batch_free, lossless
from sdvar_exp.decoding.records import Decoded
from sdvar_exp.decoding.schedule import brief, spell
from sdvar_exp.decoding.session import runs
from sdvar_exp.errors import UserError
from sdvar_exp.models.derived import first_blocks
from sdvar_exp.models.pair import Pair
from sdvar_exp.pyramid import SKIPPED
from sdvar_exp.registry import choose
from tests.decoding.cells import INTERVAL, UNITS, draft_only, flat, hand_off, loop, sequential
from tests.decoding.test_session import codes, gap, session
from tests.decoding.test_session import features as f_hats_of
from tests.support import golden_pair, near_pair

S = 5
RATE = choose("acceptance", "match_rate", tau=0.6)


@pytest.fixture(scope="module")
def near() -> Pair:
    return near_pair("tiny", "float64")


@pytest.fixture(scope="module")
def far() -> Pair:
    return golden_pair("tiny", "float64")


@pytest.fixture(scope="module")
def same() -> Pair:
    return golden_pair("tiny", "float64", draft="target")


def schedule(stages: str, base: Cell | None = None, **options: Any) -> Cell:
    return replace(base or sequential(), strategy=choose("strategy", "model_schedule", stages=stages, **options))


def collaborative(n: int) -> Cell:
    return replace(sequential(), strategy=choose("strategy", "collaborative", target_stages=n))


def agree(pair: Pair, cell: Cell, other: Cell) -> None:
    """The same tokens, counts, passes, sources and rounds."""
    a, b = decode(pair, cell, UNITS), decode(pair, other, UNITS)
    assert torch.equal(flat(a), flat(b))
    assert (a.counts, a.passes, a.stages, a.rounds) == (b.counts, b.passes, b.stages, b.rounds)


# --- every fixed hand-off is a schedule ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(S + 1))
def test_hand_offs_are_schedules(near: Pair, far: Pair, n: int) -> None:
    for pair in (near, far):
        agree(pair, schedule(f"T{n} D{S - n}"), collaborative(n))
        agree(pair, schedule(f"D{n} T{S - n}", target_fill="recompute"), hand_off(n))
        rule = RATE if n % 2 else "exact"
        agree(pair, schedule(f"V{n} D{S - n}", loop(rule, 3)), loop(rule, 3, until=n))


def test_one_model_alone_is_a_schedule(near: Pair) -> None:
    agree(near, schedule("T5"), sequential())
    agree(near, schedule("D5"), draft_only())


@pytest.mark.parametrize("gamma", [2, (3, 1, 2), choose("gamma", "aimd", start=1)])
@pytest.mark.parametrize("options", [{}, {"on_reject": "continue"}, {"bonus": True}, {"draft_cfg": "off"}])
def test_the_loop_is_a_schedule(near: Pair, gamma: Any, options: dict[str, Any]) -> None:
    agree(near, schedule("V5", loop(RATE, gamma), **options), loop(RATE, gamma, **options))


@pytest.mark.parametrize("entry", range(1, S))
def test_a_hand_off_that_fills_nothing_is_one_without_a_prefix(near: Pair, far: Pair, entry: int) -> None:
    """The target's cache never gets the draft's stages: what the mask `no_prefix` does to test3."""
    for pair in (near, far):
        a, b = decode(pair, schedule(f"D{entry} T{S - entry}"), UNITS), decode(pair, hand_off(entry, "no_prefix"), UNITS)
        assert torch.equal(flat(a), flat(b)) and a.counts == b.counts


def test_the_target_as_its_own_draft_guides_itself(same: Pair) -> None:
    """c + t·(c_D - u_D) is ordinary guidance, c + t·(c - c_D) none, where the draft is the target."""
    expected = flat(decode(same, sequential(), UNITS))
    assert torch.equal(flat(decode(same, schedule("T2 t3"), UNITS)), expected)
    assert torch.equal(flat(decode(same, schedule("t5"), UNITS)), expected)
    a, b = decode(same, schedule("T2 t3", guided_by="draft"), UNITS), decode(same, schedule("T2 o3"), UNITS)
    assert torch.equal(flat(a), flat(b)) and not torch.equal(flat(a), expected)


def test_unguided_stages_are_those_of_no_guidance(near: Pair) -> None:
    off = replace(sequential(), cfg_schedule=choose("cfg_schedule", "off"))
    assert torch.equal(flat(decode(near, schedule("o5"), UNITS)), flat(decode(near, off, UNITS)))
    assert torch.equal(flat(decode(near, schedule("t5", off), UNITS)), flat(decode(near, off, UNITS)))


# --- logits of a guided stage, by hand -----------------------------------------------------------------------------------


@pytest.mark.parametrize("guided_by", ["draft_difference", "draft"])
@torch.inference_mode()
def test_guidance_by_the_draft_by_hand(far: Pair, guided_by: str) -> None:
    """The logits that the last stage is sampled from, from both models' own passes over the committed codes."""
    from sdvar_exp.decoding.api import make_noise
    from sdvar_exp.decoding.decoder import Decoder

    cell = schedule("T3 D1 t1", guided_by=guided_by)
    d = Decoder(far, cell, UNITS, make_noise(far, UNITS))
    cell.strategy.entry.function(cell.strategy.params, d)
    half = len(UNITS)
    both = torch.cat((d.labels_B, torch.full_like(d.labels_B, far.num_classes)))

    def raw(role: str, lacking: tuple[int, ...]) -> torch.Tensor:
        model, p = getattr(far, role), far.pyramid
        stages = [k for k in range(1, S) if k not in lacking]
        x = model.first_rows(model.condition(both).class_NC)
        for k in stages:
            x = torch.cat((x, model.stage_rows(k, d.quantize.next_input(k, d.f_hats[k - 1]), k + 1).repeat(2, 1, 1)), dim=1)
        stage = torch.tensor([j for k in (0, *stages) for j in [k] * p.lengths[k]])
        out = model(x, model.condition(both), mask_qK=stage[:, None] >= stage[None, :])
        return out[:, -p.lengths[S - 1] :]

    c_t = raw("target", (3,))[:half]
    c_d, u_d = raw("draft", ()).split(half)
    t = d.weights[S - 1]
    assert t > 0
    expected = c_t + t * (c_d - u_d) if guided_by == "draft_difference" else c_t + t * (c_t - c_d)
    assert gap([d.sampled[S - 1]], [expected]) <= 1e-10


# --- gaps in a cache -----------------------------------------------------------------------------------------------------


@torch.inference_mode()
def held_logits(pair: Pair, held: list[int], cuts: list[int], seed: int, schedule: str = "linear") -> list[torch.Tensor]:
    """Logits of the held stages, fed in passes that end at the cuts; the other stages are left out."""
    hats = f_hats_of(pair, codes(pair, seed))
    s, out = session(pair, schedule), []
    for k in held:
        if k + 1 in cuts or k == held[-1]:
            s.leave_out([j for j in range(k) if j not in held])
            first = s.stage
            parts = s.logits(hats, k + 1, want=first) if first == k else None
            if parts is None:
                raw = s.raw(hats, k + 1, want=first)
                sizes = [pair.pyramid.lengths[j] for j in held if first <= j <= k]
                pieces = raw.split(sizes, dim=1)
                stages = [j for j in held if first <= j <= k]
                parts = [s._guide(x, j, j + 1) if len(x) > s.batch else x for x, j in zip(pieces, stages, strict=True)]
            out += parts
    assert s.cache.length == sum(pair.pyramid.lengths[k] for k in held)
    return out


@settings(max_examples=25, deadline=None, derandomize=True)
@given(held=st.sets(st.integers(0, S - 1), min_size=1), cuts=st.sets(st.integers(1, S)), seed=st.integers(0, 9))
def test_passes_over_a_cache_with_gaps_may_be_merged(far: Pair, held: set[int], cuts: set[int], seed: int) -> None:
    stages = sorted(held)
    single = held_logits(far, stages, list(range(1, S + 1)), seed)
    assert gap(single, held_logits(far, stages, sorted(cuts), seed)) <= 1e-10


@torch.inference_mode()
def test_a_gap_is_seen_and_only_the_gap(far: Pair) -> None:
    """Without stage 2, the codes of stage 1 reach stage 3 through f̂ alone, and its logits are others."""
    whole, gapped = (held_logits(far, held, list(range(1, S + 1)), 0) for held in ([0, 1, 2, 3], [0, 1, 3]))
    assert gap(whole[:2], gapped[:2]) <= 1e-12 and gap(whole[3:], gapped[2:]) > 0.01


@torch.inference_mode()
def test_a_cache_with_gaps_rolls_back_and_fills_its_unconditional_half(far: Pair) -> None:
    hats = f_hats_of(far, codes(far, 0))
    s, always = session(far, "off"), session(far)
    for one in (s, always):
        one.logits(hats, 1, want=0)
        one.leave_out([1])
        for k in (2, 3):
            one.logits(hats, k + 1, want=k)
    s.use(always.weights)
    assert gap(s.logits(hats, 5, want=4), always.logits(hats, 5, want=4)) <= 1e-10
    assert s.rows == always.rows == 2 * (1 + 9 + 16 + 25)
    always.truncate(3)
    assert (always.stage, always.cache.length) == (3, 10)
    always.truncate(1)
    assert (always.stage, always.null_stage, always.cache.length) == (2, 2, 1)
    with pytest.raises(ValueError, match=r"stages \[0\] cannot be left out"):
        always.leave_out([0])


def test_runs() -> None:
    assert runs([0, 1, 3, 4, 7]) == [(0, 2), (3, 5), (7, 8)]
    assert runs([2]) == [(2, 3)]


# --- what it costs -------------------------------------------------------------------------------------------------------

L = (1, 4, 9, 16, 25)


@pytest.mark.parametrize(
    ("text", "options", "target", "draft", "calls"),
    [
        ("T5", {}, 110, 0, (5, 0)),
        ("T3 o2", {}, 2 * 14 + 41, 0, (5, 0)),
        ("o2 T3", {}, 110, 0, (5, 0)),  # the stages that follow need both halves of these in the cache
        ("T3 D2", {}, 28, 110, (3, 2)),
        ("T3 D2", {"draft_fill": "none"}, 28, 82, (3, 2)),
        ("T2 D2 T1", {}, 2 * 30, 2 * 30, (3, 2)),
        ("T2 D2 T1", {"target_fill": "recompute"}, 110, 2 * 30, (3, 2)),
        ("T2 D2 t1", {}, 2 * 5 + 25, 110, (3, 3)),
        ("T2 D2 t1", {"guided_by": "draft"}, 2 * 5 + 25, 2 * 30 + 25, (3, 3)),
        ("T2 D2 o1", {}, 2 * 5 + 25, 2 * 30, (3, 2)),
        ("t5", {}, 55, 110, (5, 4)),  # t = 0 at stage 0: the draft is not asked, and fed with stage 1
        ("t1 D4", {}, 1, 110, (1, 4)),
        ("t1 D4", {"draft_fill": "none"}, 1, 108, (1, 4)),
        ("T2 D1 T1 D1", {"draft_fill": "none"}, 2 * (5 + 16), 2 * (9 + 25), (3, 2)),
        ("D1 T1 D1 T1 D1", {"draft_fill": "none", "target_fill": "none"}, 2 * (4 + 16), 2 * (1 + 9 + 25), (2, 3)),
    ],
)
def test_rows_and_calls(
    near: Pair, text: str, options: dict[str, Any], target: int, draft: int, calls: tuple[int, int]
) -> None:
    out = decode(near, schedule(text, **options), UNITS)
    counts = out.counts
    assert (counts.target_rows, counts.draft_rows, counts.target_calls, counts.draft_calls) == (target, draft, *calls)
    for role, rows in (("target", target), ("draft", draft)):
        passes = [p for p in out.passes if p.role == role]
        assert sum(p.halves * p.rows(near.pyramid) for p in passes) == rows
        assert sum(features(near.pyramid, p, 1)[1] for p in passes) == rows
    assert (counts.target_rows_alone, counts.draft_rows_alone) == (110, 110)


def test_no_half_is_fed_that_no_later_stage_needs(near: Pair) -> None:
    """Guidance at the stages 1 and 2 alone: from stage 3 on one half, and none for a model whose turn comes later."""
    base = replace(sequential(), cfg_schedule=INTERVAL)
    assert decode(near, schedule("T5", base), UNITS).counts.target_rows == 2 * 14 + 41
    handed = decode(near, schedule("T3 D2", base), UNITS).counts
    assert (handed.target_rows, handed.draft_rows) == (28, 55)


def test_a_gap_costs_no_keys(near: Pair) -> None:
    one = decode(near, schedule("T2 D2 T1"), UNITS).passes[2]
    assert (one.role, one.stages, one.left_out, one.keys(near.pyramid, 4)) == ("target", (4,), (2, 3), 1 + 4 + 25)


@pytest.mark.parametrize(("text", "left_out"), [("t2 T1 D2", (0, 2)), ("t2 o1 t2", (0, 2)), ("t2 D3", (0,))])
def test_a_draft_that_is_not_asked_where_nothing_is_guided_lacks_that_stage(
    far: Pair, text: str, left_out: tuple[int, ...]
) -> None:
    """The first stage of linear guidance has no weight, in whatever run of `t` it stands."""
    out = decode(far, schedule(text, draft_fill="none"), UNITS)
    drafts = [p for p in out.passes if p.role == "draft"]
    assert drafts[0].stages == (1,) and drafts[-1].left_out == left_out


# --- early exits and skipped stages --------------------------------------------------------------------------------------


def early(stages: str, depth: int = 1, base: Cell | None = None, **options: Any) -> Cell:
    return schedule(stages, base, exit_depth=depth, **options)


@pytest.mark.parametrize("text", ["e5", "T3 e2", "e2 T3", "T1 e2 T1 e1", "e1 o3 T1"])
def test_an_exit_behind_the_last_block_is_the_target(far: Pair, text: str) -> None:
    out = decode(far, early(text, far.target.depth, target_fill="recompute"), UNITS)
    whole = decode(far, schedule(text.replace("e", "T")), UNITS)
    assert torch.equal(flat(out), flat(whole))
    if text == "T3 e2":
        assert out.counts == whole.counts


@pytest.mark.parametrize("schedule_name", ["linear", "interval", "off"])
@pytest.mark.parametrize("text", ["T3 e2", "T4 e1", "e5", "T1 e2 T1 e1", "o3 e2", "T2 o1 e2"])
def test_an_exit_is_a_draft_of_the_targets_first_blocks(far: Pair, text: str, schedule_name: str) -> None:
    """By hand: the first block and the head as a draft, with a cache of its own."""
    guidance = INTERVAL if schedule_name == "interval" else choose("cfg_schedule", schedule_name)
    base = replace(sequential(), cfg_schedule=guidance)
    by_hand = replace(far, draft=first_blocks(far.target, 1))
    a = decode(far, early(text, 1, base, target_fill="recompute"), UNITS)
    b = decode(by_hand, schedule(text.replace("e", "D"), base, target_fill="recompute"), UNITS)
    assert torch.equal(flat(a), flat(b)) and a.counts.draft_rows == a.counts.draft_calls == 0
    if "T" in text and schedule_name == "linear":
        assert not torch.equal(flat(a), flat(decode(far, schedule("T5", base), UNITS)))


@pytest.mark.parametrize(
    ("text", "fill", "base", "rows", "of_exit", "calls"),
    [
        ("T3 e2", "none", None, 28, 82, 5),
        ("e5", "none", None, 0, 110, 5),
        ("T2 e2 T1", "none", None, 2 * 30, 50, 5),
        ("T2 e2 T1", "recompute", None, 110, 50, 5),
        ("D2 e2 T1", "none", None, 50, 50, 3),
        ("D2 e2 T1", "recompute", None, 110, 60, 3),  # the exit feeds what the draft made, and so does the target
        ("o3 e2", "none", None, 14, 14 + 82, 6),  # the exit feeds the unconditional half, in its blocks alone
        ("T3 e2", "none", INTERVAL, 28, 41, 5),  # 41 rows through a third of the blocks, rounded up
    ],
)
def test_rows_of_an_exit_count_as_the_share_of_its_blocks(
    far: Pair, text: str, fill: str, base: Any, rows: int, of_exit: int, calls: int
) -> None:
    cell = early(text, 1, replace(sequential(), cfg_schedule=base) if base else None, target_fill=fill)
    out = decode(far, cell, UNITS)
    of = {role: [p for p in out.passes if p.role == role] for role in ("target", "exit")}
    assert [sum(p.halves * p.rows(far.pyramid) for p in of[role]) for role in ("target", "exit")] == [rows, of_exit]
    assert far.target.depth == 3 and out.counts.target_rows == rows + (of_exit + 2) // 3
    assert out.counts.target_calls == len(of["target"]) + len(of["exit"]) == calls
    assert [s.stage for s in out.stages if s.source == "target_exit"] == [k for k, x in enumerate(spell(text)) if x == "e"]


def test_an_exit_reads_and_writes_the_targets_cache(far: Pair) -> None:
    whole = decode(far, schedule("T5"), UNITS).counts.kv_bytes
    assert decode(far, early("T2 e1 T1 e1"), UNITS).counts.kv_bytes == whole
    assert decode(far, early("o3 e2"), UNITS).counts.kv_bytes == whole / 2 + whole / far.target.depth


def test_exits_are_refused_where_there_is_none(far: Pair, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"strategy\.exit_depth must be ≥ 1, got 0"):
        early("e5", 0)
    with pytest.raises(UserError, match=r"strategy\.exit_depth=4 is deeper than the target, which has 3 blocks: use 1 … 3"):
        check_cell(early("T4 e1", 4), S, pair=far)
    check_cell(early("T5", 4), S, pair=far)
    file = tmp_path / "own.safetensors"
    save_file({f"blocks.{i}.ada_gss": torch.zeros(1) for i in range(5)}, file)
    own = replace(sequential(), model=ModelSpec("own", target=str(file)))
    check_composed(early("T4 e1", 5, own), S)
    with pytest.raises(UserError, match="exit_depth=6 is deeper than the target, which has 5 blocks"):
        check_composed(early("T4 e1", 6, own), S)
    recorded = replace(sequential(), model=ModelSpec(execution="compile"))
    with pytest.raises(UserError, match=r"strategy.stages=T4 e1, an early exit, needs model.execution=eager, got compile"):
        check_cell(early("T4 e1", 1, recorded), S)
    check_cell(schedule("T5", recorded), S)


@pytest.mark.parametrize(("text", "made"), [("T3 s2", 3), ("T1 s4", 1), ("D2 T1 s2", 3), ("T2 e1 s2", 3)])
def test_skipped_stages_leave_f_hat_as_it_is(near: Pair, text: str, made: int) -> None:
    out, whole = decode(near, early(text), UNITS), decode(near, early(text.replace("s", "T")), UNITS)
    kept = near.pyramid.rows(0, made)
    assert torch.equal(flat(out)[:, kept], flat(whole)[:, kept])
    assert (flat(out)[:, near.pyramid.rows(made, S)] == SKIPPED).all()
    f_hat = near.vae.quantize.f_hats(list(whole.tokens))[made - 1]
    assert torch.equal(decode_images(near, out.f_hat), decode_images(near, f_hat))
    assert sources(out)[made:] == ["skipped"] * (S - made)
    fed = [(p.role, p.stages) for p in whole.passes if p.stop <= made]
    assert [(p.role, p.stages) for p in out.passes] == fed
    assert out.margins is not None and out.margins[:, near.pyramid.rows(made, S)].isinf().all()


def test_skipped_stages_cost_nothing(near: Pair) -> None:
    counts = decode(near, schedule("T3 s2"), UNITS).counts
    assert (counts.target_calls, counts.target_rows, counts.draft_rows, counts.target_rows_alone) == (3, 28, 0, 110)
    assert decode(near, schedule("T1 s4"), UNITS).counts.target_rows == 1  # its t is 0
    late = replace(sequential(), cfg_schedule=choose("cfg_schedule", "interval", cfg=2.0, first=3, last=4))
    assert decode(near, schedule("T3 s2", late), UNITS).counts.target_rows == 14  # no half for guidance that never comes


# --- records, names, promises --------------------------------------------------------------------------------------------


def sources(out: Decoded) -> list[str]:
    return [stage.source for stage in out.stages]


def test_a_stage_says_who_made_it(near: Pair) -> None:
    out = decode(near, schedule("T1 t1 o1 D1 V1", loop(RATE, 1)), UNITS)
    assert sources(out) == ["target", "target_draft", "target_unguided", "draft", "verified"]
    assert out.margins is not None
    here = [bool(out.margins[:, near.pyramid.rows(k, k + 1)].isfinite().all()) for k in range(S)]
    assert here == [True, True, True, False, False]


@pytest.mark.parametrize("draft_stale", ["keep", "recompute"])
@pytest.mark.parametrize("fill", ["none", "recompute"])
@pytest.mark.parametrize(
    "text",
    ["T1 V2 D1 V1", "D1 V2 T1 D1", "V2 T1 V2", "V1 D1 t1 V1 T1", "o1 V2 D2", "e1 V2 D1 e1", "T1 e1 V1 e1 T1", "V2 e1 V1 s1"],
)
def test_mixed_schedules_end_and_keep_their_caches(near: Pair, far: Pair, text: str, fill: str, draft_stale: str) -> None:
    base = loop(choose("acceptance", "match_rate", tau=0.4, repair=True), 2)
    cell = early(text, 1, base, target_fill=fill, draft_fill=fill, on_reject="continue", draft_stale=draft_stale)
    for pair in (near, far):
        out = decode(pair, cell, UNITS)
        assert all(t.shape == (len(UNITS), n) for t, n in zip(out.tokens, L, strict=True))
        rows = {r: sum(p.halves * p.rows(pair.pyramid) for p in out.passes if p.role == r) for r in ("target", "draft", "exit")}
        assert out.counts.draft_rows == rows["draft"] and out.counts.target_rows == rows["target"] + (rows["exit"] + 2) // 3
        if fill == "recompute":  # nothing is lacking anywhere
            assert all(p.left_out == () for p in out.passes)


def test_a_verified_part_gives_the_targets_tokens(near: Pair) -> None:
    for text in ("T2 V3", "V2 T2 V1", "T1 V4"):
        cell = schedule(text, loop("exact", 3))
        assert lossless(cell) == "tokens"
        assert torch.equal(flat(decode(near, cell, UNITS)), flat(decode(near, sequential(), UNITS)))


@pytest.mark.parametrize(
    ("text", "rule", "expected"),
    [
        ("T5", "match_rate", "tokens"),
        ("V5", "exact", "tokens"),
        ("T2 V3", "rejection", "distribution"),
        ("V5", "match_rate", "no"),
        ("V4 D1", "exact", "no"),
        ("T4 t1", "exact", "no"),
        ("T4 o1", "exact", "no"),
        ("D5", "exact", "no"),
        ("T4 e1", "exact", "no"),
        ("V4 s1", "exact", "no"),
    ],
)
def test_lossless(text: str, rule: str, expected: str) -> None:
    assert lossless(schedule(text, loop(rule))) == lossless(schedule(text, loop(rule)).normalised()) == expected
    assert lossless(schedule("V5", loop(rule), on_reject="continue")) == "no"
    assert batch_free(schedule("T2 D3"))


def test_what_a_schedule_does_not_read_makes_no_other_cell() -> None:
    def ids(*cells: Cell) -> int:
        return len({cell.id for cell in cells})

    full, plain = loop("exact"), sequential()
    assert ids(schedule("T5", full), schedule("TTTTT"), schedule("T 2 T3".replace(" 2", "2"), on_reject="continue")) == 1
    assert ids(schedule("T2 D3", full, target_fill="none"), schedule("T2D3", plain, target_fill="recompute")) == 1
    assert ids(schedule("T2 D3"), schedule("T2 D3", draft_fill="none")) == 2
    assert (
        ids(schedule("t1 D4"), schedule("t1 D4", draft_fill="none"))
        == 2
        == ids(schedule("t5"), schedule("t5", draft_fill="none"))
    )
    assert ids(schedule("D4 t1"), schedule("D4 t1", draft_fill="none")) == 1
    assert ids(schedule("D2 T3"), schedule("D2 T3", target_fill="recompute")) == 2
    assert ids(schedule("T2 t3"), schedule("T2 t3", guided_by="draft")) == 2
    assert ids(schedule("T2 o3"), schedule("T2 o3", guided_by="draft")) == 1
    assert ids(schedule("V5", full), schedule("V5", loop("never"))) == 2
    assert ids(schedule("V5", full), schedule("V5", full, bonus=True)) == 2
    apart = replace(plain, sampling=Sampling(noise=Noise.independent))
    assert ids(schedule("T5"), schedule("T5", apart)) == 1 and ids(schedule("T4 D1"), schedule("T4 D1", apart)) == 2
    assert ids(early("T4 e1"), early("T4 e1", 1, apart), early("T4 e1", target_fill="recompute")) == 1
    assert ids(early("T4 e1"), early("T4 e1", 2)) == 2 and ids(early("T5"), early("T5", 2), schedule("T5")) == 1
    assert (
        early("T4 e1", 4).as_dict()["strategy"]["exit_depth"] == 4 and "exit_depth" not in schedule("T5").as_dict()["strategy"]
    )
    assert ids(early("e1 T4"), early("e1 T4", target_fill="recompute")) == 2
    assert ids(early("D1 e4"), early("D1 e4", target_fill="recompute")) == 2
    assert ids(early("e1 D4"), early("e1 D4", draft_fill="none")) == 2


# --- texts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("T5 D4 t1", "TTTTTDDDDt"),
        ("TTtoDV", "TTtoDV"),
        ("T2D", "TTD"),
        (" T0 D3 ", "DDD"),
        ("T1T2", "TTT"),
        ("", ""),
        ("T2e s1s", "TTess"),
    ],
)
def test_spelling(text: str, letters: str) -> None:
    assert spell(text) == letters == spell(brief(letters))
    assert choose("strategy", "model_schedule", stages=text).params.stages == brief(letters)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("T5 X4", "strategy.stages=T5 X4: unknown X; use the letters T, t, o, D, V, e and s"),
        ("T5,d4", "unknown ,, d; use the letters"),
        ("5T", "a count of at most three digits stands behind its letter"),
        ("T99999", "a count of at most three digits"),
        ("T-1", "unknown -; use the letters"),
        ("T5 s2 D3", "strategy.stages=T5 s2 D3: s leaves the last stages out: write it last, behind another letter"),
        ("s10", "s leaves the last stages out"),
    ],
)
def test_bad_texts(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose("strategy", "model_schedule", stages=text)


FILES = ModelSpec("files", vae="a.pth", target="b.pth")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (schedule("T5 D4 t1"), r"strategy.stages=T5 D4 t1 is for 10 stages, this model has 5: give one letter for each"),
        (schedule(""), r"is for 0 stages, this model has 5"),
        (
            schedule("T4 t1", replace(sequential(), model=FILES)),
            r"needs a draft for t, and model=files names none: set model.draft",
        ),
        (schedule("D4 V1", replace(loop(), model=FILES)), r"needs a draft for D, V, and model=files"),
        (schedule("T4 V1"), r"model_schedule needs a mask, an acceptance rule and a γ controller"),
        (schedule("V5", loop(gamma=6)), r"gamma.value must lie in 1 … 5, got 6"),
        (schedule("V5", loop(mask="no_prefix")), r"mask=no_prefix is for strategy=test3 only"),
    ],
)
def test_bad_cells(cell: Cell, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_cell(cell, S)


def test_a_schedule_without_a_draft_needs_none() -> None:
    check_cell(schedule("T3 o2", replace(sequential(), model=FILES)), S)
