"""Transformer and quantizer: cache on and off agree, modulations once per label, f̂ counted once and never in place."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sdvar_exp.errors import UserError
from sdvar_exp.models.quant import MultiScaleQuantizer, nearest_tick
from sdvar_exp.models.var import VAR
from sdvar_exp.models.vqvae import VQVAE
from sdvar_exp.pyramid import Pyramid
from tests.support import CASES, golden_vae, golden_var


@pytest.fixture(scope="module")
def vae() -> VQVAE:
    return golden_vae("tiny").double()


@pytest.fixture(scope="module")
def var() -> VAR:
    return golden_var("tiny", "target").double()


def codes(vae: VQVAE, seed: int = 0, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(vae.quantize.vocab_size, (batch, n), generator=generator) for n in vae.pyramid.lengths]


@pytest.mark.parametrize("name", CASES[:2])
@torch.inference_mode()
def test_one_masked_pass_equals_stage_by_stage_with_a_cache(name: str) -> None:
    vae, var = golden_vae(name).double(), golden_var(name, "target").double()
    labels, rows = torch.tensor([2, 5]), vae.quantize.teacher_input(codes(vae))
    whole = var.teacher_logits(labels, rows)
    condition, cache, p = var.condition(labels), var.new_cache(2), var.pyramid
    parts = []
    for k in range(p.stages):
        own = rows[:, p.offsets[k] - p.lengths[0] : p.offsets[k + 1] - p.lengths[0]]
        x = var.stage_rows(k, own, k + 1) if k else var.first_rows(condition.class_NC)
        parts.append(var(x, condition, cache))
        assert cache.length == p.offsets[k]  # a forward advances nothing
        cache.advance(x.shape[1])
    assert (torch.cat(parts, 1) - whole).abs().max() <= 1e-10
    for stages in range(1, p.stages + 1):
        assert (var.teacher_logits(labels, rows, stages) - whole[:, : p.offsets[stages]]).abs().max() <= 1e-10


@torch.inference_mode()
def test_a_forward_changes_neither_model_nor_inputs(var: VAR) -> None:
    before = {k: v.clone() for k, v in var.state_dict().items()}
    hidden = [set(vars(m)) for m in var.modules()]
    condition = var.condition(torch.tensor([1]))
    x = var.first_rows(condition.class_NC)
    kept = x.clone(), [t.clone() for block in condition.blocks for t in block]
    var(x, condition, var.new_cache(1))
    assert torch.equal(x, kept[0])
    assert all(torch.equal(a, b) for a, b in zip((t for b in condition.blocks for t in b), kept[1], strict=True))
    assert all(torch.equal(v, before[k]) for k, v in var.state_dict().items())
    assert [set(vars(m)) for m in var.modules()] == hidden


@pytest.mark.parametrize("name", CASES[:2])
@torch.inference_mode()
def test_a_condition_of_some_rows_is_some_rows_of_the_condition(name: str) -> None:
    var = golden_var(name, "target").double()
    both, one = var.condition(torch.tensor([3, 10])), var.condition(torch.tensor([10]))
    narrow = both.narrow(slice(1, 2))
    x = torch.randn(1, 4, var.width, dtype=torch.float64)
    assert (var(x, narrow) - var(x, one)).abs().max() <= 1e-12
    assert not torch.equal(var(x, both.narrow(slice(0, 1))), var(x, one))


@torch.inference_mode()
def test_feature_maps(vae: VQVAE) -> None:
    q, tokens = vae.quantize, codes(vae)
    f_hats = q.f_hats(tokens)
    empty = q.empty(2)
    assert not empty.any()
    f_hat = empty
    for k, t in enumerate(tokens):
        before = f_hat.clone()
        after = q.accumulate(k, t, f_hat)
        assert torch.equal(f_hat, before)
        assert after.data_ptr() != f_hat.data_ptr()
        assert torch.equal(after, f_hats[k])
        assert torch.equal(after - f_hat != 0, q.contribution(k, q.code_map(k, t)) != 0)
        f_hat = after
    for k in range(1, vae.pyramid.stages):
        side = vae.pyramid.patch_nums[k]
        rows = q.next_input(k, f_hats[k - 1])
        expected = F.interpolate(f_hats[k - 1], size=(side, side), mode="area")
        assert torch.equal(rows.transpose(1, 2).reshape(2, -1, side, side), expected)
        assert torch.equal(q.teacher_input(tokens)[:, vae.pyramid.offsets[k] - 1 : vae.pyramid.offsets[k + 1] - 1], rows)


@torch.inference_mode()
def test_the_last_stage_is_not_resampled_and_codes_lie_row_by_row(vae: VQVAE) -> None:
    q, last = vae.quantize, vae.pyramid.stages - 1
    t = codes(vae)[last]
    h = q.code_map(last, t)
    for row, column in ((0, 0), (1, 3), (4, 2)):
        assert torch.equal(h[:, :, row, column], q.embedding(t[:, row * 5 + column]))
    assert torch.equal(q.contribution(last, h), q.phi(last)(h))


@pytest.mark.parametrize(
    ("count", "stages", "expected"),
    [
        (4, 10, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]),  # ties at stages 2 and 7 fall as rounding has it, in the official code too
        (4, 5, [0, 1, 2, 2, 3]),
        (5, 5, [0, 1, 2, 3, 4]),
        (2, 3, [0, 0, 1]),
    ],
)
def test_which_phi_a_stage_takes(count: int, stages: int, expected: list[int]) -> None:
    assert [nearest_tick(k / (stages - 1), count) for k in range(stages)] == expected


@pytest.mark.parametrize(
    ("share", "names"),
    [
        (0, {f"quant_resi.{i}.weight" for i in range(3)}),
        (1, {"quant_resi.qresi.weight"}),
        (4, {f"quant_resi.qresi_ls.{i}.weight" for i in range(4)}),
    ],
)
def test_sharing_of_phi(share: int, names: set[str]) -> None:
    q = MultiScaleQuantizer(8, 4, (1, 2, 3), share_quant_resi=share)
    assert {k for k in q.state_dict() if k.startswith("quant_resi") and k.endswith("weight")} == names
    tokens = [torch.zeros(1, n, dtype=torch.int64) for n in (1, 4, 9)]
    assert q.f_hats(tokens)[-1].shape == (1, 4, 3, 3)


@pytest.mark.parametrize("znorm", [False, True])
def test_the_nearest_code(znorm: bool) -> None:
    q = MultiScaleQuantizer(4, 2, (1, 2), using_znorm=znorm)
    q.embedding.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [4.0, 4.0], [-1.0, 0.0]])
    z = torch.tensor([[0.9, 0.8], [0.1, 5.0], [-9.0, 1.0]])
    assert q.nearest(z).tolist() == ([2, 1, 3] if znorm else [0, 1, 3])


@torch.inference_mode()
def test_encoding_gives_the_feature_maps_of_its_codes(vae: VQVAE) -> None:
    features = torch.randn(2, 8, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept = features.clone()
    tokens, f_hats = vae.quantize.encode(features)
    assert torch.equal(features, kept)
    for a, b in zip(f_hats, vae.quantize.f_hats(tokens), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ((), "patch_nums must be positive integers"),
        ((0, 1), "patch_nums must be positive integers"),
        ((1, 2, 2), "patch_nums must increase"),
        ((2, 1), "patch_nums must increase"),
        ((1, 2.0), "patch_nums must be positive integers"),
    ],
)
def test_bad_pyramids(sides: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Pyramid(sides)


def test_a_pyramid() -> None:
    p = Pyramid((1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    assert (p.stages, p.total, p.side) == (10, 680, 16)
    assert p.offsets == (0, 1, 5, 14, 30, 55, 91, 155, 255, 424, 680)
    assert p.rows(2, 4) == slice(5, 30)
    assert p.count(2, 4) == 25
    assert p.stage_of[4:6] == (1, 2)
    assert len(p.stage_of) == 680
