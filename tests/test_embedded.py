"""The shipped pair: what it is, and the exactness and equivalence of decoding with it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding import decode, decode_images, make_noise
from sdvar_exp.decoding.options import CONTINUE
from sdvar_exp.decoding.records import Decoded
from sdvar_exp.decoding.sampling import NEAR_TIE
from sdvar_exp.models.checkpoint import sha256
from sdvar_exp.models.pair import WEIGHTS, Pair, load_pair
from sdvar_exp.registry import Choice, choose

pytestmark = pytest.mark.needs("weights")

LABELS, SEEDS, GAMMAS = range(10), range(10), (2, 3, 5, 10)


@cache
def pair(dtype: str) -> Pair:
    return load_pair("embedded", dtype=dtype)


def loop(rule: str, gamma: Choice, strategy: str = "parallel_v1", params: dict | None = None, **rule_params: object) -> Cell:
    return Cell(
        choose("strategy", strategy, **(params or {})),
        mask=choose("mask", "block_causal"),
        acceptance=choose("acceptance", rule, **rule_params),
        gamma=gamma,
    )


def sequential() -> Cell:
    return Cell(choose("strategy", "sequential"))


def batches(size: int = 10) -> Iterator[list[Unit]]:
    units = [Unit(label, seed) for seed in SEEDS for label in LABELS]
    for i in range(0, len(units), size):
        yield units[i : i + size]


def flat(out: Decoded) -> torch.Tensor:
    return torch.cat(out.tokens, dim=1)


def exact_cells(units: list[Unit]) -> list[Cell]:
    """Fixed γ for all units, aimd for those of the first three seeds."""
    fixed = [loop("exact", choose("gamma", "fixed", value=g)) for g in GAMMAS]
    dynamic = [loop("exact", choose("gamma", "aimd", start=g), "dynamic_gamma") for g in GAMMAS]
    return fixed + (dynamic if min(unit.seed for unit in units) < 3 else [])


def test_it_is_the_pair_that_its_card_describes() -> None:
    card = json.loads((WEIGHTS / "card.json").read_text())
    p = pair("float32")
    assert p.pyramid.patch_nums == tuple(range(1, 11)) and p.pyramid.total == 385
    assert p.num_classes == 10 and 256 <= p.target.vocab_size <= 512
    for role in ("vae", "target", "draft"):
        assert card[role]["sha256"] == sha256(WEIGHTS / f"{role}.safetensors") == p.hashes[role]
    assert sum(f.stat().st_size for f in WEIGHTS.iterdir()) <= 16 * 2**20


def test_the_model_card_is_rendered_from_its_numbers() -> None:
    from sdvar_exp.training.card import render

    card = json.loads((WEIGHTS / "card.json").read_text())
    assert (WEIGHTS / "README.md").read_text() == render(card)
    page = Path(__file__).resolve().parent.parent / "docs" / "model_card.md"
    assert page.read_text() == render(card, figures="figures"), "python scripts/train.py part=evaluate writes both"


def test_the_draft_costs_a_fifth_of_the_target_at_most() -> None:
    """Multiplications per row: all matrices of the blocks and the head (attention itself is in proportion to depth·width)."""
    p = pair("float32")
    cost = {
        m: sum(w.numel() for n, w in m.named_parameters() if w.ndim == 2 and "ada" not in n and "emb" not in n)
        for m in (p.draft, p.target)
    }
    assert cost[p.target] >= 5 * cost[p.draft]
    assert p.target.depth * p.target.width >= 5 * p.draft.depth * p.draft.width


@pytest.mark.long
@pytest.mark.needs("dataset")
@torch.inference_mode()
def test_held_out_pictures_are_reconstructed() -> None:
    from sdvar_exp.training.data import DEFAULT_FOLDER, load_split
    from sdvar_exp.training.vqvae import reconstruction

    images, _ = load_split(DEFAULT_FOLDER, "t10k")
    found = reconstruction(pair("float32").vae, images[:500], 40)
    assert found["mse"] <= 0.02 and found["codes_used"] >= 0.95


@pytest.mark.long
def test_exact_gives_the_targets_tokens_in_float64() -> None:
    """Every token of 100 images for γ 2, 3, 5, 10 fixed, and of 30 of them for aimd; pixel difference 0."""
    p = pair("float64")
    for units in batches():
        noise = make_noise(p, units)
        base = decode(p, sequential(), units, noise=noise, record=False)
        image = decode_images(p, base.f_hat)
        for cell in exact_cells(units):
            out = decode(p, cell, units, noise=noise, record=False)
            assert torch.equal(flat(out), flat(base))
            assert (decode_images(p, out.f_hat) - image).abs().max() == 0


@pytest.mark.long
def test_exact_in_float32_differs_in_near_ties_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Batch 1, as sweeps decode: k of N identical is printed; every first difference must be a near-tie."""
    p = pair("float32")
    total = identical = 0
    for (unit,) in batches(1):
        noise = make_noise(p, [unit])
        base = decode(p, sequential(), [unit], noise=noise)
        assert base.margins is not None
        for cell in exact_cells([unit]):
            out = decode(p, cell, [unit], noise=noise, record=False)
            total += 1
            different = flat(out) != flat(base)
            if not different.any():
                identical += 1
                continue
            stage = p.pyramid.stage_of[int(different[0].nonzero()[0])]
            rows = p.pyramid.rows(stage, stage + 1)
            assert (base.margins[0, rows][different[0, rows]] < NEAR_TIE).all()
    with capsys.disabled():
        print(f"\nfloat32, exact: {identical}/{total} identical, {total - identical} near-ties")
    assert identical >= 0.99 * total


@pytest.mark.long
def test_hand_off_equals_always_until_for_every_entry() -> None:
    p, units = pair("float64"), [Unit(label, 3) for label in LABELS]
    noise = make_noise(p, units)
    for entry in range(p.pyramid.stages + 1):
        handed = decode(
            p,
            Cell(choose("strategy", "test3", entry_num=entry), mask=choose("mask", "block_causal")),
            units,
            noise=noise,
            record=False,
        )
        values = (max(entry, 1), *[1] * (p.pyramid.stages - 1))
        verified = decode(
            p,
            loop("always", choose("gamma", "table", values=values), "dynamic_gamma", until=entry),
            units,
            noise=noise,
            record=False,
        )
        assert torch.equal(flat(handed), flat(verified))
        assert handed.counts.target_calls == p.pyramid.stages - entry
        assert verified.counts.target_calls == p.pyramid.stages - entry + (1 if entry else 0)


@pytest.mark.long
def test_guide_two_to_five_target_calls_verify_every_stage() -> None:
    p, unit = pair("float32"), Unit(8, 0)
    for gamma in (2, 3, 4, 5):
        cell = loop("exact", choose("gamma", "fixed", value=gamma), params={"on_reject": CONTINUE})
        out = decode(p, cell, [unit])
        assert out.counts.target_calls == math.ceil(10 / gamma) and 2 <= out.counts.target_calls <= 5
        assert all(s.source == "verified" for s in out.stages)
        assert decode_images(p, out.f_hat).shape == (1, 3, 40, 40)


@pytest.mark.long
def test_tokens_do_not_depend_on_batch_order_or_mates() -> None:
    p = pair("float64")
    units = [Unit(9, 1), Unit(2, 5), Unit(4, 0), Unit(2, 6)]
    cell = loop("exact", choose("gamma", "fixed", value=3))
    together = flat(decode(p, cell, units, record=False))
    reversed_ = flat(decode(p, cell, units[::-1], record=False)).flip(0)
    alone = torch.cat([flat(decode(p, cell, [u], record=False)) for u in units])
    assert torch.equal(together, reversed_) and torch.equal(together, alone)


@pytest.mark.long
@pytest.mark.parametrize(
    ("rule", "params"),
    [
        ("exact", {}),
        ("rejection", {}),
        ("match_rate", {"tau": 1.0}),
        ("kl", {"tau": 1e-9}),
        ("tv", {"tau": 1e-9}),
        ("feature_distance", {"tau": 0.0}),
        ("always", {}),
    ],
)
def test_a_draft_that_is_the_target_passes_every_stage(rule: str, params: dict) -> None:
    p = pair("float64")
    twins = Pair(p.vae, p.target, p.target, "twins", {})
    out = decode(twins, loop(rule, choose("gamma", "fixed", value=5), **params), [Unit(3, 1), Unit(7, 2)])
    assert out.counts.target_calls == 2
    assert all(s.passed == (True, True) for s in out.stages)
