"""Every kind of entry decodes on a CUDA device that only pretends to be there: no mixed devices, no hidden waits or copies.

PyTorch's fake tensors know their device and shape and have no numbers, so any machine can ask what a GPU would be asked. What
Python reads of them is made up, and the place that reads it is noted: a GPU's host would wait there for all queued work.
"""

from __future__ import annotations

import copy
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

import sdvar_exp
from sdvar_exp.cell import Cell, Noise, Unit
from sdvar_exp.decoding import decode, decode_images, decoder, make_noise
from sdvar_exp.decoding.session import Seen, per_row
from sdvar_exp.models import derived, hidden
from sdvar_exp.models.pair import Pair
from sdvar_exp.models.var import VAR
from sdvar_exp.models.vqvae import VQVAE
from sdvar_exp.registry import KINDS, choose, names
from tests.decoding.cells import INTERVAL, loop, sequential

pytestmark = pytest.mark.long
PACKAGE, Tensor = Path(sdvar_exp.__file__).parent, torch.Tensor
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
READS = (Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__)
UNITS = [Unit(1, 0), Unit(2, 5)]


def like(t: Tensor, device: torch.device | str) -> Tensor:
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device)


def place() -> str:
    """The function of the package that is running, `report` for all that is computed once a decode is over."""
    frame: FrameType | None = sys._getframe(2)
    found = []
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if PACKAGE in file.parents:
            found.append("report" if file.name == "outcomes.py" else frame.f_code.co_name)
        frame = frame.f_back
    return "report" if "report" in found or found[0] == "decode" else found[0]


class Pretended(TorchFunctionMode):
    """Over fake tensors: notes what waits for the device and what is copied to it, and makes up what is read.

    A build of PyTorch without CUDA refuses some calls that only look at a device (indexing, `copy_`, `contiguous`): these are
    answered by tensors without one, provided that all of them were on CUDA.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits, self.copies = Counter[str](), Counter[str]()
        self._random = random.Random(0)

    def _read(self, t: Tensor) -> Any:
        if t.ndim:
            return [self._read(part) for part in t]
        if t.dtype == torch.bool:
            return self._random.random() < 0.6
        return self._random.random() if t.dtype.is_floating_point else self._random.randrange(2)

    def __torch_function__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if first is not None and first.device == CUDA:
            if f in READS:
                self.waits[place()] += 1
                return self._read(first)
            if f is Tensor.nonzero:
                self.waits[place()] += 1
                return torch.zeros(1, first.ndim, dtype=torch.int64, device=CUDA)
            assert not (f in (Tensor.cpu, Tensor.numpy) or (f is Tensor.to and CPU in args[1:])), f"{place()} copies to the CPU"
        elif f is Tensor.to and first is not None and CUDA in args[1:]:
            self.copies[place()] += 1
            return like(first, CUDA)
        elif f is torch.tensor and kwargs.get("device") == CUDA:
            self.copies[place()] += 1
            return like(torch.tensor(*args, **{**kwargs, "device": CPU}), CUDA)
        try:
            return f(*args, **kwargs)
        except RuntimeError as error:
            if "not linked with support for cuda" not in str(error):
                raise
        devices = {t.device for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.ndim}
        assert devices == {CUDA}, f"{place()} mixes devices in {f.__name__}"
        lists = [torch.empty(len(i), dtype=torch.int64, device="meta") if isinstance(i, list) else i for i in args[1:2]]
        args, kwargs = tree_map_only(Tensor, lambda t: like(t, "meta"), ((args[0], *lists, *args[2:]), kwargs))
        out = f(*args, **kwargs)
        return first if f is Tensor.copy_ else like(out, CUDA) if isinstance(out, Tensor) else out


@pytest.fixture(scope="module")
def fake() -> Iterator[tuple[FakeTensorMode, Pair]]:
    """A small pair on a pretended CUDA device, and the mode that its tensors belong to."""
    mode, sides, codes, width = FakeTensorMode(), (1, 2, 3), 8, 4
    with torch.device("meta"):
        vae = VQVAE(sides, codes, width, 32, ch_mult=(1, 1), num_res_blocks=1)
        draft, target = VAR(sides, codes, width, 3, 1, 8, 2), VAR(sides, codes, width, 3, 1, 8, 2, shared_aln=True)
        matrices = hidden.HiddenRows(8, 8)
    with mode:
        for module in (m for whole in (vae, draft, target, matrices) for m in whole.modules()):
            for tensors in (module._parameters, module._buffers):
                for name, t in tensors.items():
                    made = None if t is None else like(t, CUDA)
                    tensors[name] = torch.nn.Parameter(made, False) if isinstance(t, torch.nn.Parameter) else made  # type: ignore[assignment]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeTensor, "tolist", Tensor.tolist)  # its own reads number by number
        patch.setattr(hidden, "read_matrices", lambda *_: matrices)
        patch.setattr(derived, "less_precise", lambda model, _: copy.copy(model))  # pretended weights cannot be converted
        yield mode, Pair(vae, draft, target, "pretended", {})
    for kept in (per_row, Seen.attention):  # they hold pretended tensors
        kept.cache_clear()


def cells() -> dict[str, Cell]:
    """Every entry that registers itself in at least one cell, those of a kind in turn beside those of another."""
    out = {"sequential": sequential(), "top-p": sequential(top_k=5, top_p=0.9, temperature=0.5)}
    for name in ("draft_only", "test3", "collaborative"):
        options = {"test3": {"entry_num": 2}, "collaborative": {"target_stages": 1}}.get(name, {})
        out[name] = replace(sequential(), strategy=choose("strategy", name, **options), mask=choose("mask", "no_prefix"))
    masks = [name for name in names("mask") if name != "no_prefix"]
    gammas = [choose("gamma", n, **{"table": {"values": (2, 0)}}.get(n, {})) for n in names("gamma")]
    guidance = names("cfg_schedule")
    for i, rule in enumerate(names("acceptance")):
        schedule, noise = choose("cfg_schedule", guidance[i % len(guidance)]), list(Noise)[i % 2].value
        out[rule] = loop(rule, gammas[i % len(gammas)], masks[i % len(masks)], schedule, noise=noise, top_k=5 * (i % 3 == 1))
    out["repair"] = loop(choose("acceptance", "match_rate", repair=True), 3, schedule=INTERVAL, target_stale="recompute")
    for i, name in enumerate(n for n in names("proposer") if n != "draft"):
        options = {"target_at_depth": {"depth": 1}, "hidden_rows": {"file": __file__}}.get(name, {})
        out[f"proposer {name}"] = replace(loop("exact", 2 + i % 2), proposer=choose("proposer", name, **options))
    out["continue"], out["bonus"] = loop("exact", 3, on_reject="continue"), loop("tv", 2, bonus=True)
    out["skip_last"], out["redraft"] = loop("exact", 2, skip_last=True), loop("match_rate", 2, on_reject="redraft")
    out["hybrid"], out["candidates"] = loop("exact", 2, until=2, draft_cfg="off"), loop("exact", 3, candidates=2)
    out["parallel_v1"] = replace(loop("exact", 2), strategy=choose("strategy", "parallel_v1"))
    for letters in ("TtT", "DVo"):
        out[letters] = replace(loop("kl", 1), strategy=choose("strategy", "model_schedule", stages=letters))
    return out


CELLS = cells()


def waits(cell: Cell) -> dict[str, str]:
    """Where a decode reads what the device has computed, and what for."""
    rule, gamma = cell.acceptance, cell.gamma
    why = {"report": "all that is found when a decode is over", "judge_stage": "does the stage pass"}
    if getattr(cell.strategy.params, "candidates", 0):
        why["take_variant"] = "which candidate passed"
    if rule and rule.name == "stage_rejection":
        why["draw_stage"] = "which images need a residual, and which attempt is kept"
    if rule and getattr(rule.params, "repair", False):
        why["_settled"] = "is there anything to repair"
    if gamma and gamma.declares("reads_margins"):
        why["_margins"] = "how sure is the draft"
    return why


COPIES = {
    "report": "noise of a residual, once more",
    "__init__": "labels",
    "attempts": "noise of a residual",
    "per_row": "guidance weights, once per process",
    "attention": "masks, once per process",
    "move": "the images whose rows are moved",
}


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_decodes_on_cuda(name: str, fake: tuple[FakeTensorMode, Pair]) -> None:
    (mode, pair), cell = fake, CELLS[name]
    units = UNITS[: 1 if name == "redraft" else 2]
    with mode, Pretended() as seen:
        noise = make_noise(pair, units, [cell])
        seen.copies.clear()
        out = decode(pair, cell, units, noise=noise)
        assert out.f_hat.device == CUDA and all(t.device == CUDA for t in out.tokens)
        if name == "sequential":
            assert decode_images(pair, out.f_hat).shape == (2, 3, 6, 6)
    assert seen.waits.keys() <= waits(cell).keys() and seen.copies.keys() <= COPIES.keys()
    judged = sum(len(r.stage_passed) for r in out.rounds)
    assert judged <= seen.waits["judge_stage"] <= judged * (2 if name == "candidates" else 1)  # a candidate is judged again
    assert seen.waits["_margins"] <= sum(r.gamma for r in out.rounds) and seen.waits["_settled"] <= judged


def test_no_entry_is_left_out() -> None:
    chosen = [getattr(cell, kind) for cell in CELLS.values() for kind in KINDS]
    used = {(c.entry.kind, c.name) for c in chosen if c is not None}
    assert {(kind, name) for kind in KINDS for name in names(kind)} - used == {("proposer", "draft")}  # the one by default


def hidden_wait(logits: Tensor, g: Tensor) -> Tensor:
    return (logits + g).argmax(dim=-1) if logits.amax() > 0 else g.argmax(dim=-1)


def hidden_copy(logits: Tensor, g: Tensor) -> Tensor:
    return (logits + torch.zeros(logits.shape).to(logits.device) + g).argmax(dim=-1)


def way_back(logits: Tensor, g: Tensor) -> Tensor:
    return (logits + g).cpu().argmax(dim=-1)


def mixed(logits: Tensor, g: Tensor) -> Tensor:
    return (logits + torch.zeros(logits.shape[-1]) + g).argmax(dim=-1)


def mixed_index(logits: Tensor, g: Tensor) -> Tensor:
    return (logits + g)[:, torch.zeros(logits.shape[1], dtype=torch.int64)].argmax(dim=-1)


@pytest.mark.parametrize("fault", [hidden_wait, hidden_copy, way_back, mixed, mixed_index])
def test_a_fault_is_seen(fault: Any, fake: tuple[FakeTensorMode, Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "gumbel_argmax", fault)
    with pytest.raises((AssertionError, RuntimeError)):
        test_a_cell_decodes_on_cuda("sequential", fake)
