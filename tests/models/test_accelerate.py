"""Compiled models and graphs give the tokens of the plain ones; no decode waits for the device but for verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sdvar_exp.cell import Cell, ModelSpec, Unit
from sdvar_exp.decoding import decode, make_noise
from sdvar_exp.errors import UserError
from sdvar_exp.models.accelerate import Autocast, Compiled, Graphs, accelerate
from sdvar_exp.models.pair import Pair
from sdvar_exp.registry import choose
from tests.support import golden_pair

UNITS = [Unit(1, 0), Unit(2, 5)]
CUDA = pytest.mark.needs("cuda")


def loop(strategy: str, rule: str, gamma: int, **params: object) -> Cell:
    return Cell(
        choose("strategy", strategy, **params),
        mask=choose("mask", "block_causal"),
        acceptance=choose("acceptance", rule),
        gamma=choose("gamma", "fixed", value=gamma),
    )


CELLS = {
    "sequential": Cell(choose("strategy", "sequential")),
    "draft_only": Cell(choose("strategy", "draft_only")),
    "test3": Cell(choose("strategy", "test3", entry_num=2), mask=choose("mask", "token_causal_blocks")),
    "collaborative": Cell(choose("strategy", "collaborative", target_stages=2)),
    "exact": loop("parallel_v1", "exact", 2),
    "continue": loop("parallel_v1", "exact", 3, on_reject="continue"),
    "hybrid": loop("hybrid", "exact", 2, verify_until=3, draft_cfg="off"),
}


def pair() -> Pair:
    out = golden_pair("tiny")
    return replace(out, draft=out.draft.double(), target=out.target.double(), vae=out.vae.double())


def tokens(p: Pair, cell: Cell, units: list[Unit]) -> torch.Tensor:
    return torch.cat(decode(p, cell, units, record=False).tokens, dim=1)


def recorded(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Stands in for a CUDA graph: the same memory in, the same memory out."""
    out = run()
    return lambda: out.copy_(run())


@pytest.mark.parametrize("name", CELLS)
def test_graphs_give_the_same_tokens_and_reuse_memory(name: str) -> None:
    plain = pair()
    graphs = {role: Graphs(getattr(plain, role), recorded) for role in ("draft", "target")}
    fast = replace(plain, **graphs)
    for units in (UNITS, [Unit(3, 1), Unit(0, 2)], UNITS[:1], UNITS):
        assert torch.equal(tokens(fast, CELLS[name], units), tokens(plain, CELLS[name], units))
    made = [g.programs.copy() for g in graphs.values()]
    tokens(fast, CELLS[name], UNITS)
    assert [g.programs.keys() for g in graphs.values()] == [m.keys() for m in made]
    assert all(len(g.pool) <= 3 for g in graphs.values())  # one per batch, one more where guidance begins late


def test_graphs_of_one_model_in_both_roles_keep_their_caches_apart() -> None:
    plain = pair()
    both = Graphs(plain.target, recorded)
    twins, fast = replace(plain, draft=plain.target), replace(plain, draft=both, target=both)
    for cell in (CELLS["exact"], CELLS["hybrid"]):
        assert torch.equal(tokens(fast, cell, UNITS), tokens(twins, cell, UNITS))


@pytest.mark.long
@pytest.mark.parametrize("name", ["sequential", "continue"])
def test_compiled_models_give_the_same_tokens(name: str) -> None:
    """Traced whole, without graph breaks that would synchronise; the backend itself is PyTorch's."""
    plain = pair()
    fast = replace(plain, draft=Compiled(plain.draft, "eager"), target=Compiled(plain.target, "eager"))
    assert torch.equal(tokens(fast, CELLS[name], UNITS), tokens(plain, CELLS[name], UNITS))


def halved(plain: Pair, dtype: str, execution: str = "eager") -> Pair:
    """The pair under autocast; rounds the weights of `plain` in place."""
    return replace(plain, **{role: accelerate(getattr(plain, role), execution, dtype) for role in ("draft", "target")})


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_autocast_is_that_of_torch(dtype: str) -> None:
    """Weights rounded once give the very logits of `torch.autocast` over the float32 model, which rounds them in every call."""
    low, plain, fast = getattr(torch, dtype), golden_pair("tiny").target, halved(golden_pair("tiny"), dtype).target
    x = torch.randn(2, 5, plain.width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        condition = plain.condition(torch.tensor([0, plain.num_classes]))
        with torch.autocast("cpu", low):
            wanted = plain.forward(x, condition)
        float32 = plain.forward(x, condition)
        own = fast.condition(torch.tensor([0, plain.num_classes]))
        cache = fast.new_cache(2)
        assert torch.equal(fast(x, own), wanted) and torch.equal(fast(x, own, cache), wanted)
    assert wanted.dtype == cache.kv.dtype == low
    assert 0 < (wanted.float() - float32).abs().max() < 0.05 * float32.abs().max()


@pytest.mark.parametrize("name", CELLS)
def test_autocast_goes_with_graphs_and_large_batches(name: str) -> None:
    units, plain = [Unit(i % 3, i) for i in range(3)], halved(golden_pair("tiny"), "bfloat16")
    graphs = replace(plain, draft=Graphs(plain.draft, recorded), target=Graphs(plain.target, recorded))
    assert torch.equal(tokens(graphs, CELLS[name], units), tokens(plain, CELLS[name], units))


def test_groups_of_rows_give_the_same_logits_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = halved(golden_pair("tiny"), "bfloat16").target
    x = torch.randn(4, 5, fast.width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        condition = fast.condition(torch.tensor([0, 1, 2, fast.num_classes]))
        whole = fast(x, condition, fast.new_cache(4))
        monkeypatch.setattr("sdvar_exp.models.var.ROWS_AT_ONCE", 5)
        parts = fast(x, condition, fast.new_cache(4))
    assert torch.allclose(whole.float(), parts.float(), atol=0.02 * whole.float().abs().max().item())


def test_autocast_is_checked_and_is_another_cell() -> None:
    with pytest.raises(UserError, match="autocast must be one of none, bfloat16, float16, got 'half'"):
        ModelSpec(autocast="half")
    with pytest.raises(UserError, match=r"model\.autocast=bfloat16 needs dtype=float32, this is float64; set one"):
        accelerate(pair().target, "eager", "bfloat16")
    base = CELLS["sequential"]
    assert replace(base, model=ModelSpec(autocast="bfloat16")).id != base.id == replace(base, model=ModelSpec()).id
    assert isinstance(accelerate(golden_pair("tiny").target, "eager", "float16"), Autocast)


def test_an_execution_is_checked_and_is_another_cell() -> None:
    with pytest.raises(UserError, match="execution must be one of eager, auto, compile, graphs, got 'fast'"):
        ModelSpec(execution="fast")
    with pytest.raises(UserError, match="needs device=cuda"):
        accelerate(pair().target, "graphs")
    base = CELLS["sequential"]
    assert replace(base, model=ModelSpec(execution="compile")).id != base.id == replace(base, model=ModelSpec()).id


class Waits(TorchDispatchMode):
    """Counts what would wait for a device: a tensor's value wanted by Python, or a copy between devices."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func._schema.name in ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero"):
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CELLS)
def test_a_decode_waits_for_verdicts_alone(name: str) -> None:
    from sdvar_exp.decoding.decoder import Decoder

    p, cell = pair(), CELLS[name]
    noise = make_noise(p, UNITS, [cell])
    with torch.inference_mode():
        d = Decoder(p, cell, UNITS, noise)
        with Waits() as waits:
            cell.strategy.entry.function(cell.strategy.params, d)
    assert d.done and waits.count == sum(len(r.stage_passed) for r in d.rounds)
    if name == "exact":
        assert waits.count > 0


@CUDA
@pytest.mark.parametrize("execution", ["eager", "graphs"])
@pytest.mark.parametrize("name", CELLS)
def test_cuda_gives_the_tokens_of_the_cpu(name: str, execution: str) -> None:
    here, there = pair(), pair().to("cuda", "float64")
    fast = replace(there, draft=accelerate(there.draft, execution), target=accelerate(there.target, execution))
    for units in (UNITS, UNITS[:1], UNITS):
        assert torch.equal(tokens(fast, CELLS[name], units).cpu(), tokens(here, CELLS[name], units))


@CUDA
@pytest.mark.parametrize("execution", ["eager", "graphs"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_cuda_decodes_under_autocast(dtype: str, execution: str) -> None:
    p = halved(golden_pair("tiny").to("cuda"), dtype, execution)
    for cell in CELLS.values():
        assert tokens(p, cell, UNITS).shape == (2, p.pyramid.total)


@CUDA
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_cuda_decodes_in_half_precision(dtype: str) -> None:
    p = golden_pair("tiny").to("cuda", dtype)
    for cell in CELLS.values():
        assert tokens(p, cell, UNITS).shape == (2, p.pyramid.total)
