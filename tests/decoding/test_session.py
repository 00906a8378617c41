"""One model's passes: merged or stage by stage, guided or not, rolled back or recomputed, the logits are the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdvar_exp.decoding.guidance import weights
from sdvar_exp.decoding.session import ModelSession
from sdvar_exp.models.pair import Pair
from sdvar_exp.registry import Choice, choose
from tests.support import golden_pair

S = 5  # stages of the tiny pair
LABELS = torch.tensor([1, 7])
SCHEDULES = {
    "linear": choose("cfg_schedule", "linear", cfg=1.5),
    "constant": choose("cfg_schedule", "constant", cfg=1.5),
    "interval": choose("cfg_schedule", "interval", cfg=2.0, first=1, last=2),
    "off": choose("cfg_schedule", "off"),
}


@torch.inference_mode()
def test_guidance_is_computed_in_float32() -> None:
    """Half precision ends with the forward: guided logits are those of both halves in float32, not rounded once more."""
    pair = golden_pair("tiny").to("cpu", "bfloat16")
    f_hats = features(pair, codes(pair, 3))
    s, seen = session(pair), []
    s.observer = lambda _, forward: seen.append(forward.logits_NqV)
    for stop, t in ((1, (0.0,)), (3, weights(SCHEDULES["linear"], S)[1:3])):
        parts = s.logits(f_hats, stop, want=s.stage)
        assert seen[-1].dtype == torch.bfloat16
        cond, null = seen[-1].float().split(2)
        at = 0
        for part, weight in zip(parts, t, strict=True):
            rows = slice(at, at := at + part.shape[1])
            assert part.dtype == torch.float32
            torch.testing.assert_close(part, torch.lerp(null, cond, 1 + weight)[:, rows], rtol=1e-6, atol=1e-6)
    rounded = torch.lerp(seen[-1].split(2)[1], seen[-1].split(2)[0], 1 + t[0]).float()[:, : parts[0].shape[1]]
    assert (rounded - parts[0]).abs().max() > 1e-4, "guidance in half precision would be told apart"


def codes(pair: Pair, seed: int) -> list[torch.Tensor]:
    """Random codes of all stages for both labels."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(pair.target.vocab_size, (2, n), generator=generator) for n in pair.pyramid.lengths]


def features(pair: Pair, tokens: list[torch.Tensor]) -> list[torch.Tensor]:
    return pair.vae.quantize.f_hats(tokens)


def session(pair: Pair, schedule: str = "linear", role: str = "target") -> ModelSession:
    t = weights(SCHEDULES[schedule], S)
    return ModelSession(getattr(pair, role), pair.vae.quantize.next_input, LABELS, t)


def step_by_step(pair: Pair, f_hats: list[torch.Tensor], stop: int = S, **options: str) -> list[torch.Tensor]:
    s = session(pair, **options)  # type: ignore[arg-type]
    return [s.logits(f_hats, k + 1, want=k)[0] for k in range(stop)]


def gap(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    assert [x.shape for x in a] == [x.shape for x in b]
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


@torch.inference_mode()
def check_merged(pair: Pair, seed: int, prefix: int, count: int, schedule: str, role: str, bound: float) -> None:
    f_hats = features(pair, codes(pair, seed))
    s = session(pair, schedule, role)
    for k in range(prefix):
        s.logits(f_hats, k + 1, want=k)
    merged = s.logits(f_hats, prefix + count, want=prefix)
    assert gap(merged, step_by_step(pair, f_hats, prefix + count, schedule=schedule, role=role)[prefix:]) <= bound
    assert (s.cache.length, s.stage) == (pair.pyramid.offsets[prefix + count], prefix + count)


passes = st.integers(0, S - 1).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, S - n)))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 99), span=passes, schedule=st.sampled_from(sorted(SCHEDULES)), role=st.sampled_from(["draft", "target"])
)
def test_a_merged_pass_equals_step_by_step(far: Pair, seed: int, span: tuple[int, int], schedule: str, role: str) -> None:
    check_merged(far, seed, *span, schedule, role, 1e-10)


@pytest.mark.parametrize("span", [(0, 5), (1, 3), (2, 3), (4, 1)])
def test_a_merged_pass_equals_step_by_step_in_float32(span: tuple[int, int]) -> None:
    check_merged(golden_pair("tiny"), 3, *span, "linear", "target", 1e-4)


@torch.inference_mode()
def test_negative_control_one_guidance_weight_for_a_merged_pass_is_seen(far: Pair) -> None:
    class OneWeight(ModelSession):
        def _guide(self, logits: torch.Tensor, first: int, stop: int) -> torch.Tensor:
            self.weights = (self.weights[stop - 1],) * S
            return super()._guide(logits, first, stop)

    f_hats = features(far, codes(far, 0))
    s = OneWeight(far.target, far.vae.quantize.next_input, LABELS, weights(SCHEDULES["linear"], S))
    assert gap(s.logits(f_hats, S, want=0), step_by_step(far, f_hats)) > 0.1


@torch.inference_mode()
def test_negative_control_a_mask_cut_from_the_top_left_is_seen(far: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdvar_exp.decoding import session as module
    from sdvar_exp.decoding.masks import materialise

    def top_left(mask: Choice, pyramid: object, first: int, stop: int, fed: int | None = None) -> object:
        right = materialise(mask, far.pyramid, first, stop, fed)
        return materialise(mask, far.pyramid, 0, stop)[: right.shape[0], : right.shape[1]]

    f_hats = features(far, codes(far, 0))
    expected = step_by_step(far, f_hats)
    s = session(far)
    s.logits(f_hats, 2, want=0)
    module.Seen.attention.cache_clear()
    monkeypatch.setattr(module, "materialise", top_left)
    assert gap(s.logits(f_hats, S, want=2), expected[2:]) > 0.1
    module.Seen.attention.cache_clear()


def leak(pair: Pair, k: int, first: int, shift: int = 0) -> tuple[float, float]:
    """Change all codes of stage k; how much the logits of stages ≤ k, and of later ones, change (shift: off by one)."""
    a = codes(pair, 1)
    b = [(t + 1) % pair.target.vocab_size if i == k else t for i, t in enumerate(a)]
    outs = []
    for tokens in (a, b):
        f_hats = features(pair, tokens)
        s = session(pair)
        for i in range(first):
            s.logits(f_hats, i + 1, want=i)
        outs.append(s.logits(f_hats[shift:], S - shift, want=first))
    split = k + 1 - first
    later = gap(outs[0][split:], outs[1][split:]) if split < len(outs[0]) else float("nan")
    return gap(outs[0][:split], outs[1][:split]), later


@pytest.mark.parametrize(("k", "first"), [(k, n) for k in range(S) for n in range(k + 1)])
@torch.inference_mode()
def test_codes_of_a_stage_change_no_logits_up_to_it(far: Pair, k: int, first: int) -> None:
    before, after = leak(far, k, first)
    assert before <= 1e-12
    assert k == S - 1 or after > 0.1


@torch.inference_mode()
def test_negative_control_codes_of_a_stage_as_its_own_rows_are_seen(far: Pair) -> None:
    """Rows built one stage too late: f̂_k instead of f̂_{k-1}."""
    assert leak(far, 2, 0, shift=1)[0] > 0.1


def fed(s: ModelSession) -> torch.Tensor:
    """The rows that count in a cache."""
    return s.cache.kv[..., : s.cache.length, :].clone()


@pytest.mark.parametrize("prefix", range(S))
@torch.inference_mode()
def test_a_rejected_pass_leaves_the_state_bit_identical(far: Pair, prefix: int) -> None:
    right, wrong = (features(far, codes(far, seed)) for seed in (1, 2))
    wrong[:prefix] = right[:prefix]
    s, plain = session(far), session(far)
    for k in range(prefix):
        s.logits(right, k + 1, want=k)
        plain.logits(right, k + 1, want=k)
    before, state = fed(s), (s.stage, s.null_stage, s.cache.length)
    kept = [f.clone() for f in right]
    s.logits(wrong, S, want=prefix)
    s.truncate(prefix)
    assert (s.stage, s.null_stage, s.cache.length) == state
    assert torch.equal(fed(s), before)
    assert all(torch.equal(a, b) for a, b in zip(kept, right, strict=True))
    again, never = s.logits(right, S, want=prefix), plain.logits(right, S, want=prefix)
    assert all(torch.equal(a, b) for a, b in zip(again, never, strict=True))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 99),
    stale=st.integers(1, S - 1),
    stop=st.integers(1, S),
    schedule=st.sampled_from(["linear", "interval", "off"]),
)
@torch.inference_mode()
def test_recomputed_rows_equal_a_cache_from_scratch(far: Pair, seed: int, stale: int, stop: int, schedule: str) -> None:
    """A code of stage `stale`-1 was replaced: its later rows are dropped, then fed with the next pass."""
    if stop <= stale:
        stop = stale + 1
    old, new = codes(far, seed), codes(far, seed)
    new[stale - 1] = (new[stale - 1] + 5) % far.target.vocab_size
    s = session(far, schedule)
    s.logits(features(far, old), stop - 1, want=0) if stop > 1 else None
    s.truncate(stale)
    last = s.logits(features(far, new), stop, want=stop - 1)
    scratch = session(far, schedule)
    expected = [scratch.logits(features(far, new), k + 1, want=k)[0] for k in range(stop)]
    assert gap(last, expected[-1:]) <= 1e-10
    halves = slice(0, 2 * s.halves(stop - 1))
    assert (fed(s)[:, :, halves] - fed(scratch)[:, :, halves]).abs().max() <= 1e-10


@torch.inference_mode()
def test_negative_control_stale_rows_that_are_kept_are_seen(far: Pair) -> None:
    old, new = codes(far, 1), codes(far, 1)
    new[1] = (new[1] + 5) % far.target.vocab_size
    s = session(far)
    s.logits(features(far, old), 4, want=0)
    kept = s.logits(features(far, new), S, want=4)
    assert gap(kept, step_by_step(far, features(far, new))[4:]) > 0.1


# --- guidance halves -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "halves"), [("linear", 2), ("constant", 2), ("off", 1)])
def test_halves_of_a_schedule(far: Pair, name: str, halves: int) -> None:
    s = session(far, name)
    assert [s.halves(k) for k in range(S)] == [halves] * S
    assert s.cache.kv.shape[2] == 2 * halves


@torch.inference_mode()
def test_an_interval_feeds_the_unconditional_half_up_to_its_last_stage(far: Pair) -> None:
    f_hats = features(far, codes(far, 0))
    s = session(far, "interval")  # guided at stages 1 and 2
    assert [s.halves(k) for k in range(S)] == [2, 2, 2, 1, 1]
    out = [s.logits(f_hats, k + 1, want=k)[0] for k in range(S)]
    assert s.rows == 2 * (1 + 4 + 9) + 16 + 25
    plain = step_by_step(far, f_hats, schedule="off")
    assert gap(out[3:], plain[3:]) <= 1e-10  # t = 0: the conditional half alone
    assert gap(out[:1], plain[:1]) <= 1e-10
    assert gap(out[1:2], plain[1:2]) > 0.1


@pytest.mark.parametrize("schedule", ["linear", "interval"])
@pytest.mark.parametrize("unguided", range(1, S))
@torch.inference_mode()
def test_unconditional_rows_are_filled_in_one_counted_pass(far: Pair, schedule: str, unguided: int) -> None:
    """Proposals without guidance, then guided stages: as if both halves had always been fed."""
    f_hats = features(far, codes(far, 0))
    s, always = session(far, "off"), session(far, schedule)
    for k in range(unguided):
        s.logits(f_hats, k + 1, want=k)
        always.logits(f_hats, k + 1, want=k)
    assert (s.calls, s.rows, s.cache.kv.shape[2]) == (unguided, far.pyramid.offsets[unguided], 2)
    s.use(weights(SCHEDULES[schedule], S))
    later = [s.logits(f_hats, k + 1, want=k)[0] for k in range(unguided, S)]
    assert gap(later, [always.logits(f_hats, k + 1, want=k)[0] for k in range(unguided, S)]) <= 1e-10
    guided = s.halves(unguided) == 2
    assert s.calls == S + int(guided)
    assert s.rows == (always.rows if guided else far.pyramid.total)
    assert s.cache.length == far.pyramid.total
    assert s.rows == sum(halves * far.pyramid.count(first, stop) for first, stop, halves, *_ in s.passes)
    if guided and schedule == "linear":
        assert (fed(s) - fed(always)).abs().max() <= 1e-10


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
@torch.inference_mode()
def test_any_history_of_passes_rollbacks_and_schedules_ends_in_the_same_logits(far: Pair, data: st.DataObject) -> None:
    right = features(far, codes(far, 11))
    s = session(far, data.draw(st.sampled_from(["linear", "off"])))
    committed = 0
    for _ in range(data.draw(st.integers(1, 5))):
        s.use(weights(SCHEDULES[data.draw(st.sampled_from(sorted(SCHEDULES)))], S))
        stop = data.draw(st.integers(committed + 1, S))
        wrong = [*right[:committed], *features(far, codes(far, data.draw(st.integers(0, 9))))[committed:]]
        s.logits(wrong, stop, want=committed)
        s.truncate(committed)
        upto = data.draw(st.integers(committed, S - 1))
        if upto > committed:
            s.logits(right, upto, want=upto - 1)
            committed = upto
    s.use(weights(SCHEDULES["linear"], S))
    assert gap(s.logits(right, S, want=committed), step_by_step(far, right)[committed:]) <= 1e-10


# --- masks in passes -----------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_no_prefix_feeds_the_entry_stage_alone(far: Pair) -> None:
    f_hats = features(far, codes(far, 0))
    mask, p = choose("mask", "no_prefix"), far.pyramid
    s = session(far)
    (entry,) = s.logits(f_hats, 3, want=0, mask=mask)
    assert entry.shape == (2, 9, far.target.vocab_size)
    assert (s.cache.length, s.rows, s.calls, s.stage) == (9, 18, 1, 3)
    (later,) = s.logits(f_hats, 4, want=3)
    assert s.cache.length == 9 + 16
    # the same by hand: the model on those rows alone, no cache
    condition = far.target.condition(torch.cat((LABELS, torch.full_like(LABELS, far.num_classes))))
    rows = torch.cat([far.vae.quantize.next_input(k, f_hats[k - 1]) for k in (2, 3)], dim=1)
    x = far.target.stage_rows(2, rows, 4).repeat(2, 1, 1)
    stage = torch.tensor(p.stage_of[p.offsets[2] : p.offsets[4]])
    both = far.target(x, condition, mask_qK=stage[:, None] >= stage[None, :])
    t = torch.tensor(s.weights, dtype=torch.float64)[stage][None, :, None]
    cond, null = both.split(2)
    assert gap([torch.cat((entry, later), 1)], [(1 + t) * cond - t * null]) <= 1e-10
    s.truncate(0)  # cannot go behind its first stage
    assert (s.stage, s.cache.length) == (2, 0)
    with pytest.raises(ValueError, match="no_prefix needs an empty cache"):
        s.logits(f_hats, 4, want=3, mask=mask)


def poisoned(far: Pair, mask: str, prefix: int) -> float:
    """How much a pass of one stage changes when all cached rows do."""
    f_hats = features(far, codes(far, 0))
    outs = []
    for poison in (0.0, 3.0):
        s = session(far)
        s.logits(f_hats, prefix, want=0)
        s.cache.kv[..., : s.cache.length, :] += poison
        outs.append(s.logits(f_hats, prefix + 1, want=prefix, mask=choose("mask", mask), mask_from=prefix))
    return gap(*outs)


@pytest.mark.parametrize(
    ("mask", "sees"),
    [
        ("block_causal", True),
        ("block_diagonal", False),
        ("block_diagonal_entry_full", True),
        ("token_causal_blocks", True),
        ("token_causal_blocks_entry_full", True),
    ],
)
@torch.inference_mode()
def test_a_mask_holds_for_a_pass_of_a_single_stage(far: Pair, mask: str, sees: bool) -> None:
    assert (poisoned(far, mask, 3) > 0.01) is sees


@torch.inference_mode()
def test_recomputed_rows_are_block_causal_whatever_the_mask(far: Pair) -> None:
    f_hats = features(far, codes(far, 0))
    diagonal = choose("mask", "block_diagonal")
    s, fresh = session(far), session(far)
    s.logits(f_hats, 3, want=0)
    s.truncate(1)  # stages 1 and 2 are recomputed beside the verified ones
    out = s.logits(f_hats, 5, want=3, mask=diagonal, mask_from=3)
    fresh.logits(f_hats, 3, want=0)
    assert gap(out, fresh.logits(f_hats, 5, want=3, mask=diagonal, mask_from=3)) <= 1e-10
    assert (fed(s) - fed(fresh)).abs().max() <= 1e-10


@torch.inference_mode()
def test_rows_of_a_session_do_not_depend_on_batch_mates(far: Pair) -> None:
    f_hats = features(far, codes(far, 0))
    t = weights(SCHEDULES["linear"], S)
    both = session(far).logits(f_hats, S, want=0)
    for row in range(2):
        one = ModelSession(far.target, far.vae.quantize.next_input, LABELS[row : row + 1], t)
        alone = one.logits([f[row : row + 1] for f in f_hats], S, want=0)
        assert gap(alone, [x[row : row + 1] for x in both]) <= 1e-10


def test_the_first_draft_of_a_stage_is_not_needed_to_want_it(far: Pair) -> None:
    """`want` past the start: the merged pass feeds the stages before, and gives only the wanted ones."""
    with torch.inference_mode():
        f_hats = features(far, codes(far, 0))
        out = session(far).logits(f_hats, 4, want=2)
    assert [x.shape[1] for x in out] == [9, 16]
