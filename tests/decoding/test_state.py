"""The state of a decode: caches and feature maps after every round, what is left untouched, and what is counted."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from sdvar_exp import registry
from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding import Clock, decode, decode_images, make_noise
from sdvar_exp.decoding.clock import now_ms
from sdvar_exp.decoding.gamma import GammaContext
from sdvar_exp.decoding.session import ModelSession
from sdvar_exp.models.pair import Pair
from sdvar_exp.registry import Choice, choose
from tests.decoding.cells import INTERVAL, RULES, UNITS, draft_only, flat, loop, of_sequential, run_watched, sequential, trace
from tests.support import FakePair, Script

S = 5  # stages of the tiny pair
LOOPS = {
    "correct": loop("exact", 3),
    "γ = S": loop("exact", S),
    "lossy": loop(RULES["rate 0.9"], 3),
    "bonus": loop("exact", 2, bonus=True),
    "skip_last": loop("exact", 3, skip_last=True),
    "zeros": loop("exact", (2, 0, 1)),
    "continue": loop("exact", 3, on_reject="continue", target_stale="recompute"),
    "repair": loop(choose("acceptance", "match_rate", repair=True, tau=0.6), 3, target_stale="recompute"),
    "hybrid": loop("exact", 2, until=3),
    "redraft": loop("exact", 3, on_reject="redraft"),
    "interval": loop("exact", 3, schedule=INTERVAL),
    "unguided": loop("exact", 3, schedule=choose("cfg_schedule", "off")),
}


def scratch(d: Any, role: str) -> torch.Tensor:
    """The cache of a session that was fed the committed stages one by one."""
    session = getattr(d, role)
    fresh = ModelSession(session.model, d.quantize.next_input, d.labels_B, d.weights)
    for k in range(session.stage):
        fresh.logits(d.f_hats, k + 1, want=k)
    return fresh.cache.kv[..., : fresh.cache.length, :]


@pytest.mark.parametrize("name", LOOPS)
def test_after_every_round_both_caches_equal_caches_from_scratch(near: Pair, name: str) -> None:
    cell = LOOPS[name]
    rounds = []

    def watch(d: Any) -> None:
        rounds.append(d.committed)
        for role in ("draft", "target"):
            session, expected = getattr(d, role), scratch(d, role)
            assert session.cache.length == d.pyramid.offsets[session.stage] == expected.shape[-2]
            halves = slice(0, len(d.labels_B) if name == "interval" and session.stage > 3 else None)
            difference = session.cache.kv[..., : session.cache.length, :] - expected
            if difference.numel():
                assert difference[:, :, halves].abs().max() <= 1e-10
        for k, f_hat in enumerate(d.f_hats):
            assert torch.equal(f_hat, d.quantize.f_hats(d.tokens)[k])

    d = run_watched(near, cell, UNITS[:1] if name == "redraft" else UNITS, watch)
    assert d.done
    assert rounds


def test_negative_control_kept_stale_rows_are_not_those_of_the_committed_codes(near: Pair) -> None:
    worst = []

    def watch(d: Any) -> None:
        worst.append((d.target.cache.kv[..., : d.target.cache.length, :] - scratch(d, "target")).abs().max().item())

    run_watched(near, loop("exact", 4, on_reject="continue"), UNITS, watch)
    assert max(worst) > 0.01


@pytest.mark.parametrize("name", LOOPS)
def test_feature_maps_are_never_changed_and_count_each_stage_once(near: Pair, name: str) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watch(d: Any) -> None:
        seen.extend((f, f.clone()) for f in d.f_hats)

    units = UNITS[:1] if name == "redraft" else UNITS
    d = run_watched(near, LOOPS[name], units, watch)
    assert all(torch.equal(f, copy) for f, copy in seen)
    storages = {f.untyped_storage().data_ptr() for f in d.f_hats}
    assert len(storages) == S
    total = sum(d.quantize.contribution(k, d.quantize.code_map(k, t)) for k, t in enumerate(d.tokens))
    torch.testing.assert_close(d.f_hats[-1], total, rtol=0, atol=1e-10)


def test_decoding_leaves_everything_else_untouched(near: Pair) -> None:
    modules = (near.vae, near.draft, near.target)
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in modules]
    hidden = [set(vars(sub)) | set(sub._buffers) for m in modules for sub in m.modules()]
    cell = loop("rejection" if "rejection" in RULES else "exact", 3)
    noise = make_noise(near, UNITS, [cell])
    kept = {key: value.clone() for key, value in noise._kept.items()}
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    threads = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
    out = decode(near, cell, UNITS, noise=noise)
    decode_images(near, out.f_hat)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # type: ignore[index]
    assert random.getstate() == states[2]
    assert (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()) == threads
    for module, state in zip(modules, before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    assert [set(vars(sub)) | set(sub._buffers) for m in modules for sub in m.modules()] == hidden
    assert all(torch.equal(noise._kept[key], value) for key, value in kept.items())


def test_noise_and_recording_do_not_change_tokens(near: Pair) -> None:
    cell = loop(RULES["rate 0.9"], 3)
    a = decode(near, cell, UNITS, noise=make_noise(near, UNITS, [cell]), record=True)
    b = decode(near, cell, UNITS, record=False)
    assert torch.equal(flat(a), flat(b))
    assert (a.counts, a.rounds) == (b.counts, b.rounds)
    for out in (a, b):
        torch.testing.assert_close(out.f_hat, near.vae.quantize.f_hats(out.tokens)[-1])
    with pytest.raises(ValueError, match="the noise was made for"):
        decode(near, cell, UNITS[::-1], noise=make_noise(near, UNITS))


# --- counts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell",
    [
        loop("exact", 2),
        loop("exact", S),
        loop(RULES["rate 0.9"], 3),
        loop("never", 2),
        loop("exact", choose("gamma", "aimd", start=2)),
        loop("exact", 3, until=3),
        loop("exact", choose("gamma", "acceptance_ema")),
    ],
)
def test_calls_alone_are_those_of_decoding_each_alone(near: Pair, cell: Cell) -> None:
    units = [*UNITS, Unit(2, 9)]
    counted = decode(near, cell, units).counts.target_calls_alone
    assert counted == tuple(decode(near, cell, [u]).counts.target_calls for u in units)


def test_rows_and_calls_of_a_model_alone(near: Pair) -> None:
    for schedule in (choose("cfg_schedule", "linear"), choose("cfg_schedule", "off"), INTERVAL):
        a = decode(near, replace(sequential(), cfg_schedule=schedule), UNITS).counts
        b = decode(near, replace(draft_only(), cfg_schedule=schedule), UNITS).counts
        assert (a.target_rows, a.draft_rows) == (a.target_rows_alone, 0)
        assert (b.target_rows, b.draft_rows) == (0, b.draft_rows_alone)
        assert (a.target_calls, b.draft_calls, a.target_calls_alone) == (S, S, (S, S, S))


def test_memory_is_that_of_the_models_in_use(near: Pair) -> None:
    target, draft = (decode(near, c, UNITS[:1]).counts.kv_bytes for c in (sequential(), draft_only()))
    assert target == 3 * 2 * 2 * 55 * 96 * 8  # blocks, keys and values, guidance halves, rows, width, bytes
    assert draft == target  # the near draft has the target's shape
    assert decode(near, loop("exact", (0,)), UNITS[:1]).counts.kv_bytes == target
    assert decode(near, loop("exact", 2), UNITS[:1]).counts.kv_bytes == target + draft
    off = decode(near, loop("exact", 2, draft_cfg="off"), UNITS[:1]).counts.kv_bytes
    assert off == target + draft // 2  # a draft that is never guided has no unconditional rows
    assert decode(near, loop("exact", 2, until=3, draft_cfg="off"), UNITS[:1]).counts.kv_bytes == target + draft
    unguided = replace(sequential(), cfg_schedule=choose("cfg_schedule", "off"))
    assert decode(near, unguided, UNITS).counts.kv_bytes == 3 * target // 2


class Sections:
    """A clock that notes its sections and refuses to be nested."""

    def __init__(self) -> None:
        self.open: str | None = None
        self.names: list[str] = []

    @contextmanager
    def __call__(self, section: str) -> Iterator[None]:
        assert self.open is None, f"{section} inside {self.open}"
        self.open = section
        self.names.append(section)
        yield
        self.open = None


@pytest.mark.parametrize("name", LOOPS)
def test_sections_of_the_clock_exclude_each_other(near: Pair, name: str) -> None:
    clock = Sections()
    out = decode(near, LOOPS[name], UNITS[:1], clock=clock)
    assert set(clock.names) <= {"draft", "verify", "accept", "fhat"}
    assert clock.names.count("verify") == out.counts.target_calls


@dataclass(frozen=True)
class Above:
    share: float = 0.5


def test_a_controller_reads_the_shares_of_its_own_image(near: Pair, entries: None) -> None:
    """The calls that each image of a batch would need alone are those of a decode of it alone."""
    seen: list[float] = []

    @registry.register("gamma", "by_share", Above, reads_share=True)
    def by_share(params: Above, context: Any) -> tuple[int, str]:
        """Three stages where every stage of the last round had a larger share of accepted tokens, else one."""
        last = context.history[-1].accepted_share if context.history else ()
        seen.extend(last)
        return (3 if last and min(last) > params.share else 1), "share"

    cell = loop("exact", choose("gamma", "by_share"))
    together = decode(near, cell, UNITS).counts.target_calls_alone
    assert together == tuple(decode(near, cell, [unit]).counts.target_calls for unit in UNITS)
    assert any(0 < share < 1 for share in seen)


def test_the_clock_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time stamps in seconds: two sections of draft, 2 and 4 ms, and one of verify, 8 ms; what lies between counts for none."""
    stamps = iter([0.000, 0.002, 0.100, 0.108, 0.200, 0.204])
    monkeypatch.setattr("sdvar_exp.decoding.clock.time.perf_counter", lambda: next(stamps))
    clock = Clock()
    for section in ("draft", "verify", "draft"):
        with clock(section):
            pass
    monkeypatch.undo()
    assert clock.ms() == pytest.approx({"draft": 6, "verify": 8})

    class Event:
        """A mark in the queue of a device, which has a time once the queue is empty."""

        done = False

        def __init__(self, enable_timing: bool = False) -> None:
            assert enable_timing, "an event keeps no time unless it is asked to"

        def record(self) -> None:
            self.at = next(stamps)

        def elapsed_time(self, other: Event) -> float:
            assert Event.done
            return 1e3 * (other.at - self.at)

    stamps = iter([0.000, 0.002, 0.100, 0.108])
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: setattr(Event, "done", True))
    clock = Clock("cuda:1")
    for section in ("draft", "verify"):
        with clock(section):
            pass
    assert not Event.done and clock.ms() == pytest.approx({"draft": 2, "verify": 8})

    Event.done = False
    monkeypatch.setattr("sdvar_exp.decoding.clock.time.perf_counter", lambda: 1.5)
    for device in ("cpu", "cuda:1"):
        assert now_ms(device) == 1500 and Event.done == (device != "cpu"), "after the work that is queued there"


def test_unguided_proposals_feed_one_half(near: Pair) -> None:
    same = decode(near, loop("exact", 2), UNITS).counts
    off = decode(near, loop("never", 1, draft_cfg="off"), UNITS).counts
    assert off.draft_rows == near.pyramid.total
    assert off.target_rows == 2 * near.pyramid.total == off.target_rows_alone
    assert same.draft_rows >= 2 * near.pyramid.total


def test_the_strength_of_proposals_is_their_own(near: Pair) -> None:
    """draft_cfg equal to the cell's strength is `same`; another one changes the proposals, never the committed tokens."""

    def drafted(**options: Any) -> list[tuple[float, ...] | None]:
        out = decode(near, loop("exact", 1, **options), UNITS)
        assert torch.equal(flat(out), of_sequential(near, loop(), UNITS))
        return [s.match for s in out.stages]

    assert drafted(draft_cfg=1.5) == drafted()
    assert drafted(draft_cfg=6.0) != drafted()
    assert drafted(draft_cfg=0) == drafted(draft_cfg="off")


def test_calls_alone_of_an_image_that_meets_a_stage_left_to_the_target() -> None:
    """γ by stage 2, 2, 0, 2. The batch starts rounds at 0, 1 and 3; one image alone at 0, 2 (γ = 0: one stage) and 3."""
    cell = loop(gamma=(2, 2, 0, 2))
    pair = FakePair(script=Script(misses={3: {0: 1}, 4: {}}))
    out = decode(pair, cell, [Unit(3, 0), Unit(4, 0)])
    assert trace(out) == [(0, 2, 1, 0), (1, 2, 2, 2), (3, 1, 1, 1)]
    alone = decode(pair, cell, [Unit(4, 0)])
    assert trace(alone) == [(0, 2, 2, 2), (2, 0, 1, 0), (3, 1, 1, 1)]
    assert out.counts.target_calls_alone == (3, 3) and alone.counts.target_calls == 3


@pytest.fixture
def by_share_so_far(entries: None) -> Choice:
    """A controller that reads `accepted_share`: two stages while all tokens of the last judged stage were accepted, else one."""
    registry.discover()

    @registry.register("gamma", "by_share_so_far", reads_share=True)
    def by_share_so_far(_: Any, context: GammaContext) -> tuple[int, str]:
        shares = [x for past in context.history for x in past.accepted_share]
        return (2 if not shares or shares[-1] == 1 else 1), f"shares {shares}"

    return choose("gamma", "by_share_so_far")


def test_calls_alone_replay_the_shares_of_each_image(by_share_so_far: Choice) -> None:
    """A batch's share is the mean over its images; alone, an image's controller sees its own."""
    pair = FakePair(script=Script(misses={3: {0: 1, 1: 2}, 4: {1: 1}}))
    units = [Unit(3, 0), Unit(4, 0), Unit(5, 0)]
    out = decode(pair, loop(gamma=by_share_so_far), units)
    calls = tuple(decode(pair, loop(gamma=by_share_so_far), [unit]).counts.target_calls for unit in units)
    assert out.counts.target_calls_alone == calls == (4, 3, 2)
    assert [r.accepted_share for r in out.rounds][:2] == [(pytest.approx(2 / 3),), (pytest.approx(0.75),)]
