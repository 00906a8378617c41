"""Precision of each model: int8 products, half-precision image decoders, what is refused and what is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from sdvar_exp.cell import Cell, ModelSpec, Unit
from sdvar_exp.cli.plan import with_remarks
from sdvar_exp.config import compose as composed
from sdvar_exp.decoding import decode
from sdvar_exp.errors import UserError
from sdvar_exp.models import products
from sdvar_exp.models.pair import load_pair
from sdvar_exp.models.products import Int8
from sdvar_exp.plan import Plan
from sdvar_exp.registry import choose
from tests.models.test_accelerate import UNITS, loop, tokens
from tests.support import golden_pair

SEQUENTIAL = Cell(choose("strategy", "sequential"))


def compose(words: list[str]) -> Plan:
    """As `plan` and `run` read a command."""
    return with_remarks(composed(words))


SWEEP = ["strategy=sequential", "labels=[0]", "seeds=1"]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("gelu", [False, True])
def test_int8_products_are_those_of_rounded_numbers(gelu: bool) -> None:
    """Against the same rounding written out in float64; exact but for the last multiplications by the scales."""
    weight, bias, h = random(48, 32) * 0.1, random(48), random(3, 5, 32) * torch.logspace(-3, 3, 5)[:, None]
    h[0, 0] = 0  # a row without a largest value
    step = weight.abs().amax(1) / 127
    largest = h.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    whole = (h / largest * products.LEVELS).round().double() @ (weight / step[:, None]).round().double().T
    wanted = whole * step * largest / products.LEVELS + bias
    got = Int8(weight)(h, bias, gelu)
    assert torch.allclose(got.double(), F.gelu(wanted, approximate="tanh") if gelu else wanted, rtol=1e-5, atol=1e-5)
    plain = F.linear(h, weight, bias)
    assert 0 < (Int8(weight)(h, bias) - plain).abs().max() < 0.05 * plain.abs().max()


def test_an_int8_row_depends_on_no_other_row() -> None:
    packed, bias, h = Int8(random(64, 40)), random(64), random(33, 40)
    h[7] *= 1000
    whole = packed(h, bias)
    for a, b in ((0, 1), (1, 2), (5, 9), (6, 33)):
        assert torch.equal(packed(h[a:b], bias), whole[a:b])


def test_int8_sums_do_not_overflow() -> None:
    """Sums of two products in 16 bits, which AVX2 has no more than, hold the largest weights and activations."""
    weight = torch.full((16, 512), 0.5)
    assert torch.allclose(Int8(weight)(torch.ones(4, 512), torch.zeros(16)), torch.full((4, 16), 256.0), rtol=1e-6)
    assert torch.allclose(Int8(weight)(-torch.ones(4, 512), torch.zeros(16)), torch.full((4, 16), -256.0), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("role", ["draft", "target"])
def test_a_role_has_a_precision_of_its_own(role: str, dtype: str) -> None:
    plain, changed = golden_pair("tiny"), golden_pair("tiny")
    changed.round({role: dtype})
    own = SEQUENTIAL if role == "target" else Cell(choose("strategy", "draft_only"))
    other = Cell(choose("strategy", "draft_only")) if role == "target" else SEQUENTIAL
    units = [Unit(label, seed) for label in range(3) for seed in range(8)]
    assert torch.equal(tokens(changed, other, units), tokens(plain, other, units))
    assert not torch.equal(tokens(changed, own, units), tokens(plain, own, units))
    exact = loop("parallel_v1", "exact", 2)
    assert tokens(changed, exact, UNITS).shape == (2, plain.pyramid.total)


def test_exact_commits_the_tokens_of_an_int8_target() -> None:
    """In float64 around the products, merged passes and single ones round alike."""
    pair = golden_pair("tiny").to("cpu", "float64")
    pair.round({"target": "int8"})
    for gamma in (2, 3):
        assert torch.equal(tokens(pair, loop("parallel_v1", "exact", gamma), UNITS), tokens(pair, SEQUENTIAL, UNITS))
    assert all(layer.weight.numel() == 0 for layer in pair.target.products)  # the float weights are freed


def test_a_vae_in_half_precision_changes_pixels_alone() -> None:
    plain, changed = golden_pair("tiny"), golden_pair("tiny")
    changed.round({"vae": "bfloat16"})
    assert torch.equal(tokens(changed, SEQUENTIAL, UNITS), tokens(plain, SEQUENTIAL, UNITS))
    f_hat = decode(plain, SEQUENTIAL, UNITS, record=False).f_hat
    with torch.inference_mode():
        difference = (changed.vae.decode(f_hat) - plain.vae.decode(f_hat)).abs()
    assert difference.dtype == torch.float32 and 0 < difference.max() < 0.2


def test_precisions_sweep_and_have_names() -> None:
    argv = ["strategy=sequential,draft_only,parallel_v1", "model.target.dtype=float32,bfloat16,int8", "labels=[0]"]
    plan, loop = compose(["-m", *argv]), "parallel_v1 match_rate τ=0.5 γ=2"
    assert [p.name for p in plan.cells] == [
        *("sequential", "sequential target=bfloat16", "sequential target=int8", "draft_only"),
        *(loop, f"{loop} target=bfloat16", f"{loop} target=int8"),
    ]
    usual = compose(["strategy=sequential"])
    assert plan.reference == usual.reference and plan.cells[0].id == plan.reference.id == usual.cells[0].id
    assert any("2 duplicates collapsed: draft_only runs no target" in note for note in plan.notices)
    int8 = plan.cells[-1].cell
    assert [c.model.target_dtype for c in plan.compared_with(int8)] == ["", "int8"]
    draft = compose(["strategy=parallel_v1", "model.draft.dtype=int8"])
    assert [p.name for p in draft.cells] == ["parallel_v1 match_rate τ=0.5 γ=2 draft=int8"]
    assert draft.compared_with(draft.cells[0].cell) == (usual.cells[0].cell,)  # the target alone runs no draft
    both = compose([*SWEEP, "model.execution=eager,compile", "model.autocast=none,bfloat16"])
    assert [p.name for p in both.cells] == [
        f"sequential {execution} autocast={autocast}" for execution in ("eager", "compile") for autocast in ("none", "bfloat16")
    ]


def test_the_study_s_dtype_said_again_is_no_other_cell() -> None:
    plain = compose([*SWEEP, "dtype=float64"])
    assert compose([*SWEEP, "dtype=float64", "model.target.dtype=float64"]).cells[0].id == plain.cells[0].id
    assert compose([*SWEEP, "dtype=float64", "model.target.dtype=float32"]).cells[0].name == "sequential target=float32"


@pytest.mark.long
def test_a_file_and_its_precision_are_said_in_every_way(tmp_path: Path) -> None:
    def spec(*words: str) -> ModelSpec:
        return compose([*SWEEP, "--config-dir", str(tmp_path), *words]).cells[0].cell.model

    (tmp_path / "experiment").mkdir()
    (tmp_path / "model").mkdir()
    text = "# @package _global_\nmodel:\n  target:\n    file: x.pth\n    dtype: bfloat16\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    head = "defaults:\n  - /schema/model/pair@_here_\n  - _self_\nname: own\nvae: v\ndraft: d\nclasses: 3\nstages: 3\n"
    (tmp_path / "model" / "own.yaml").write_text(head + "target: {file: x.pth, dtype: bfloat16}\n")
    (tmp_path / "model" / "flat.yaml").write_text(head + "target: x.pth\ntarget_dtype: bfloat16\n")
    ways = {
        "words": spec("model.target=x.pth", "model.target.dtype=bfloat16"),
        "file": spec("model.target.file=x.pth", "model.target_dtype=bfloat16"),
        "experiment": spec("experiment=mine"),
        "own": spec("model=own"),
        "flat": spec("model=flat"),
    }
    assert {way: (s.target, s.target_dtype) for way, s in ways.items()} == dict.fromkeys(ways, ("x.pth", "bfloat16"))
    assert compose([*SWEEP, "reference.model.target.dtype=bfloat16"]).reference.model.target_dtype == "bfloat16"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "model.target.dtype=int4",
            r"model\.target\.dtype must be one of float32, float64, bfloat16, float16, int8, got 'int4'",
        ),
        ("model.target.dtype=7", r"model\.target\.dtype must be one of .*, got '7'"),
        ("model.vae.dtype=int8", r"model\.vae\.dtype must be one of float32, float64, bfloat16, float16, got 'int8'"),
        ("model.target.dtpe=int8", r"unknown key 'model\.target\.dtpe'; did you mean 'model\.target\.dtype'"),
        (
            "model.target.dtype=int8 device=cuda",
            "int8 runs on a CPU, and device=cuda is none: use bfloat16 there, or device=cpu",
        ),
        ("model.target.dtype=int8 model.execution=compile", r"dtype=int8 needs model\.execution=eager, got compile"),
        ("model.target.dtype=int8 model.autocast=bfloat16", "autocast=bfloat16 needs float32, not model.target.dtype=int8"),
        (
            "strategy=parallel_v1 proposer=target_quantised model.target.dtype=int8",
            "target_quantised rounds a target in float, this one is in int8",
        ),
        (
            "strategy=parallel_v1 proposer=target_quantised proposer.precision=int8 device=cuda:1",
            "int8 runs on a CPU, and device=cuda is none",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_runs(words: str, message: str) -> None:
    argv = words.split() if "strategy=" in words else [*SWEEP, *words.split()]
    argv = argv if "labels" in words else [*argv, "labels=[0]"]
    with pytest.raises(UserError, match=message) as caught:
        compose(argv)
    assert "\n" not in str(caught.value)


def test_a_processor_without_int8_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Backend:
        supported_engines = ("qnnpack",)

    monkeypatch.setattr(torch.backends, "quantized", Backend)
    with pytest.raises(UserError, match="int8 needs an x86 processor"):
        compose([*SWEEP, "model.target.dtype=int8", "device=cpu"])
    with pytest.raises(UserError, match="int8 needs an x86 processor"):
        golden_pair("tiny").round({"target": "int8"})


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("way", ["model.target.dtype", "model.autocast", "dtype"])
def test_slow_arithmetic_is_said_once(half: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    note = f"{half} is slow on this CPU, which has no such arithmetic: use float32 or int8"
    for has in (False, True):
        able: dict[str, bool] = {"avx2": True, "avx512_fp16": has, "avx512_bf16": has}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        plan = compose(["strategy=sequential,test3", "labels=[0]", "device=cpu", f"{way}={half}"])
        assert plan.notices.count(note) == (not has)
        assert not any("slow" in n for n in compose([*SWEEP, "device=cuda", f"{way}={half}"]).notices)


def test_compiling_on_a_cpu_is_said_to_be_slow() -> None:
    slower = [n for n in compose([*SWEEP, "model.execution=compile", "device=cpu"]).notices if "slower than eager" in n]
    assert len(slower) == 1
    assert not any("slower" in n for n in compose([*SWEEP, "model.execution=compile", "device=cuda"]).notices)


def test_identities_of_the_usual_precision_stay() -> None:
    assert set(ModelSpec().identity()) == {"name", "vae", "draft", "target"}
    cell = replace(SEQUENTIAL, model=ModelSpec(target_dtype="int8"))
    assert json.loads(json.dumps(cell.as_dict()))["model"]["target_dtype"] == "int8" and cell.id != SEQUENTIAL.id
    assert replace(SEQUENTIAL, model=ModelSpec(draft_dtype="int8")).id == SEQUENTIAL.id


def test_a_pair_is_loaded_in_its_precisions() -> None:
    pair = load_pair(ModelSpec(target_dtype="int8", draft_dtype="bfloat16", vae_dtype="bfloat16"))
    assert isinstance(pair.target.layers[0].layer().fc1, Int8) and pair.draft.dtype == torch.bfloat16
    assert pair.vae.post_quant_conv.weight.dtype == torch.bfloat16 and pair.vae.quantize.embedding.weight.dtype == torch.float32
