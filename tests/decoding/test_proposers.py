"""Proposers: who proposes changes what is accepted and what it costs, never what a lossless cell commits."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdvar_exp import registry
from sdvar_exp.cell import Cell, ModelSpec
from sdvar_exp.config.cells import check_cell as check_composed
from sdvar_exp.decoding.api import check_cell, decode
from sdvar_exp.decoding.decoder import Decoder, Proposal
from sdvar_exp.decoding.guarantees import batch_free, lossless
from sdvar_exp.errors import UserError
from sdvar_exp.models.accelerate import accelerate
from sdvar_exp.models.derived import first_blocks, less_precise
from sdvar_exp.models.hidden import HiddenRows
from sdvar_exp.models.pair import Pair
from sdvar_exp.models.products import Int8
from sdvar_exp.registry import Choice, choose, register
from sdvar_exp.training.distill import Student, student_logits
from tests.decoding.cells import INTERVAL, UNITS, draft_only, flat, loop, of_sequential, run_watched, sequential
from tests.support import golden_pair

S = 5
RATE = choose("acceptance", "match_rate", tau=0.5)
DEPTH = 2  # blocks of the tiny target


@pytest.fixture(scope="module")
def far() -> Pair:
    return golden_pair("tiny", "float64")


def matrices(far: Pair, gain: float, path: Path) -> Path:
    """A file of random matrices for `hidden_rows`."""
    made = HiddenRows(far.target.width, far.draft.width)
    draw = torch.Generator().manual_seed(0)
    save_file({k: gain * torch.randn(v.shape, generator=draw) for k, v in made.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def file(far: Pair, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(matrices(far, 0.3, tmp_path_factory.mktemp("hidden") / "random.safetensors"))


def by(name: str, cell: Cell, **params: Any) -> Cell:
    return replace(cell, proposer=choose("proposer", name, **params))


OTHERS = {
    "depth 1": ("target_at_depth", {"depth": 1}),
    "bfloat16": ("target_quantised", {}),
    "int8": ("target_quantised", {"precision": "int8"}),
    "none": ("none", {}),
}


@pytest.mark.parametrize("name", [*OTHERS, "hidden"])
@pytest.mark.parametrize("gamma", [1, 3, (0, 2, 3)])
def test_exact_gives_the_targets_tokens_whoever_proposes(far: Pair, file: str, name: str, gamma: Any) -> None:
    kind, params = ("hidden_rows", {"file": file}) if name == "hidden" else OTHERS[name]
    for more in ({}, {"bonus": True}, {"draft_cfg": "off"}, {"draft_cfg": 3.0}):
        cell = by(kind, loop("exact", gamma, **more), **params)
        assert lossless(cell) == "tokens"
        assert torch.equal(flat(decode(far, cell, UNITS)), of_sequential(far, cell, UNITS))
    cell = replace(by(kind, loop("exact", gamma), **params), cfg_schedule=INTERVAL)
    assert torch.equal(flat(decode(far, cell, UNITS)), of_sequential(far, cell, UNITS))


@pytest.mark.parametrize("rule", ["exact", "rejection", "match_rate", "kl", "tv", "feature_distance", "always"])
def test_the_whole_target_as_proposer_passes_everything(far: Pair, rule: str) -> None:
    tight = {"match_rate": {"tau": 1.0}, "kl": {"tau": 1e-9}, "tv": {"tau": 1e-9}, "feature_distance": {"tau": 1e-9}}
    cell = by("target_at_depth", loop(choose("acceptance", rule, **tight.get(rule, {})), 3), depth=far.target.depth)
    out = decode(far, cell, UNITS)
    assert all(all(r.stage_passed) for r in out.rounds) and out.counts.target_calls == 2
    assert torch.equal(flat(out), of_sequential(far, cell, UNITS))
    assert out.counts.draft_rows == out.counts.target_rows == 110 and out.counts.proposer_depth == 1.0


def test_the_first_stage_of_one_f_hat_is_the_targets_own(far: Pair) -> None:
    out = decode(far, by("none", loop("exact", 3)), UNITS)
    assert all(r.stage_passed[0] for r in out.rounds)
    one = decode(far, by("none", loop("exact", 1)), UNITS)
    assert all(all(r.stage_passed) for r in one.rounds)
    whole = decode(far, by("none", loop("always", S)), UNITS)
    assert [(p.role, p.first, p.stop) for p in whole.passes] == [("target", 0, S)] * 2  # proposed, then verified
    assert (whole.counts.draft_calls, whole.counts.target_calls, whole.counts.target_rows) == (0, 2, 220)
    assert whole.counts.proposer_depth == 1.0


def test_a_shared_cache_is_the_targets_and_needs_no_refill(far: Pair) -> None:
    """Its first blocks' rows are there already: every proposal feeds its own stages alone, also after a reject or a bonus."""

    def caches(d: Decoder) -> None:
        assert d.sessions["proposer"].cache.kv.data_ptr() == d.target.cache.kv.data_ptr()
        assert d.target.cache.length == d.pyramid.offsets[d.committed]

    cell = by("target_at_depth", loop(RATE, (2, 0, 1, 3), bonus=True), depth=1)
    d = run_watched(far, cell, UNITS, caches)
    assert all(stop - first == 1 for first, stop, *_ in d.sessions["proposer"].passes)
    counts = decode(far, cell, UNITS).counts
    assert counts.proposer_depth == 1 / far.target.depth
    assert counts.kv_bytes == d.target.cache.nbytes


def test_first_blocks_make_no_more_than_they_need(far: Pair) -> None:
    labels = torch.tensor([0, 3])
    for model in (far.target, accelerate(copy.deepcopy(far.target).float(), "eager", "bfloat16")):
        early, whole = first_blocks(model, 1), model.condition(labels)
        made, cache = early.condition(labels), early.new_cache(2).kv
        assert len(made.blocks) == len(made.layers) == 1
        assert all(torch.equal(a, b) for a, b in zip(made.blocks[0], whole.blocks[0], strict=True))
        assert cache.shape == model.new_cache(2).kv[:1].shape and cache.untyped_storage().nbytes() == cache.nbytes


def test_costs_of_a_copy(far: Pair) -> None:
    counts = decode(far, by("target_quantised", loop("always", 2)), UNITS).counts
    assert (counts.draft_rows, counts.target_rows, counts.proposer_depth) == (110, 110, 1.0)
    assert decode(far, loop("always", 2), UNITS).counts.proposer_depth is None


def test_int8_weights_have_255_values_a_row(far: Pair) -> None:
    made = less_precise(far.target, "int8")
    for mine, its in zip(made.layers, far.target.layers, strict=True):
        packed, whole = mine.layer().fc1, its.ffn.fc1.weight
        assert isinstance(packed, Int8)
        weight = torch.ops.quantized.linear_unpack(packed.weight)[0].dequantize()
        step = whole.abs().amax(dim=1, keepdim=True) / 127
        assert ((weight - whole).abs() <= step / 2 + 1e-7).all() and not torch.equal(weight, whole)
        assert torch.allclose(weight / step, (weight / step).round(), atol=1e-4)


def test_matrices_of_zeros_leave_the_draft_as_it_is(far: Pair, file: str, tmp_path: Path) -> None:
    none = str(matrices(far, 0.0, tmp_path / "none.safetensors"))
    cells = [loop(RATE, 2), loop(RATE, (2, 0, 1, 3), bonus=True, until=4), loop("tv", 3, on_reject="continue")]
    cells.append(replace(loop(RATE, 2), strategy=choose("strategy", "model_schedule", stages="DTVVt")))
    for cell in cells:
        plain, fed = decode(far, cell, UNITS), decode(far, by("hidden_rows", cell, file=none), UNITS)
        assert torch.equal(flat(plain), flat(fed)) and plain.passes == fed.passes
        assert replace(plain.counts, target_calls_alone=None) == replace(fed.counts, target_calls_alone=None)
        other = decode(far, by("hidden_rows", cell, file=file), UNITS)
        both = [(a, b) for a, b in zip(other.proposed, plain.proposed, strict=True) if a is not None and b is not None]
        assert not all(torch.equal(a, b) for a, b in both)


def test_fed_proposals_are_those_of_the_training(far: Pair, file: str) -> None:
    """Stage by stage from the caches, the rows of each stage read what the teacher-forced pass gives them."""
    cell = by("hidden_rows", replace(loop("always", 1), cfg_schedule=choose("cfg_schedule", "off")), file=file)
    d = run_watched(far, cell, UNITS, lambda d: None)
    student = Student(far.draft, far.target)
    student.matrices.load_state_dict(load_file(file))
    student.matrices.double()
    wanted = student_logits(student, far.vae, torch.cat(d.tokens, dim=1), d.labels_B, S)[: len(UNITS)]
    got = torch.cat([d.judged[k].view.draft_logits_BlV for k in range(S)], dim=1)
    assert torch.allclose(got, wanted, atol=1e-10)
    assert not torch.allclose(student_logits(student, far.vae, torch.cat(d.tokens, dim=1), d.labels_B, S, lag=2)[:3], wanted)


def test_fed_proposals_depend_on_the_rounds(file: str) -> None:
    assert batch_free(loop(RATE, 2)) and not batch_free(by("hidden_rows", loop(RATE, 2), file=file))
    assert batch_free(by("hidden_rows", loop("exact", 2), file=file))


def test_matrices_are_checked(far: Pair, file: str, tmp_path: Path) -> None:
    for cell, message in (
        (by("hidden_rows", loop("exact", 3, candidates=1), file=file), "takes no strategy.candidates, got 1"),
        (replace(by("hidden_rows", loop(), file=file), model=ModelSpec(execution="compile")), "execution=eager, got compile"),
    ):
        with pytest.raises(UserError, match=message):
            check_cell(cell, S)
    with pytest.raises(UserError, match=r"reads matrices from a file: set proposer\.file"):
        check_cell(by("hidden_rows", loop()), S, pair=far)
    with pytest.raises(UserError, match=r"proposer\.file=none\.safetensors is not a file"):
        choose("proposer", "hidden_rows", file="none.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({"lags.0.weight": torch.zeros(3, 3)}, other)
    cell = by("hidden_rows", loop(), file=str(other))
    with pytest.raises(UserError, match=r"does not fit this pair: lags\.0\.weight is \[3, 3\], its models want"):
        check_cell(cell, S, pair=far)
    digest = cell.proposer.params.digest  # type: ignore[union-attr]
    matrices(far, 1.0, other)
    with pytest.raises(UserError, match=f"has changed since its digest {digest} was noted"):
        choose("proposer", "hidden_rows", file=str(other), digest=digest)
    assert by("hidden_rows", loop(), file=str(other)).id != cell.id


def test_the_draft_is_no_other_cell() -> None:
    cell = loop("exact", 2)
    assert by("draft", cell).id == cell.id and "proposer" not in by("draft", cell).normalised().as_dict()
    assert by("none", cell).id != cell.id
    assert by("none", sequential()).id == sequential().id and by("none", draft_only()).id == draft_only().id
    assert by("target_at_depth", cell, depth=1).id != by("target_at_depth", cell, depth=2).id


def test_hybrid_ends_with_the_draft_whoever_proposes(far: Pair) -> None:
    other = decode(far, by("target_at_depth", loop("exact", 2, until=3), depth=1), UNITS)
    assert torch.equal(flat(other), flat(decode(far, loop("exact", 2, until=3), UNITS)))
    assert [s.source for s in other.stages] == ["verified"] * 3 + ["draft"] * 2


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (by("target_at_depth", loop(), depth=DEPTH + 7), r"proposer.depth=9 is deeper than the target, which has \d+ blocks"),
        (
            replace(by("none", loop()), model=ModelSpec(execution="compile")),
            "proposer=none needs model.execution=eager, got compile",
        ),
    ],
)
def test_refused_before_anything_runs(far: Pair, cell: Cell, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_cell(cell, S, UNITS, 11, far)
    with pytest.raises(UserError, match=r"proposer.depth must be ≥ 1, got 0"):
        choose("proposer", "target_at_depth", depth=0)


def test_a_file_says_how_deep_its_target_is(tmp_path: Path) -> None:
    """Said when a command is composed, before a model is loaded; not of files that loading will refuse, or does not find."""

    def checked(depth: int, spec: ModelSpec) -> None:
        check_composed(replace(by("target_at_depth", loop(), depth=depth), model=spec), S)

    checked(6, ModelSpec())
    with pytest.raises(UserError, match=r"proposer\.depth=7 is deeper than the target, which has 6 blocks: use 1 … 6"):
        checked(7, ModelSpec())
    file = tmp_path / "own.safetensors"
    checked(99, ModelSpec("own", target=str(file)))
    file.write_bytes(b"damaged")
    checked(99, ModelSpec("own", target=str(file)))
    save_file({f"blocks.{i}.ada_gss": torch.zeros(1) for i in range(3)}, file)
    checked(3, ModelSpec("own", target=str(file)))
    with pytest.raises(UserError, match="which has 3 blocks"):
        checked(4, ModelSpec("own", target=str(file)))


@pytest.fixture
def own(entries: None) -> Iterator[Choice]:
    """A proposer from outside: repeats the target's own argmax of an empty image's rows. Sees only public verbs."""
    registry.discover()

    @register("proposer", "own")
    def guess(_: Any, d: Decoder, out: Proposal, count: int, weights: Any) -> None:
        """Code 0 everywhere, with certainty."""
        for k in range(out.first + len(out), out.first + len(out) + count):
            tokens = torch.zeros(len(d.labels_B), d.pyramid.lengths[k], dtype=torch.int64)
            logits = torch.full((*tokens.shape, d.pair.target.vocab_size), -50.0, dtype=torch.float64)
            logits[..., 0] = 50.0
            out.tokens.append(tokens)
            out.logits.append(logits)

    yield choose("proposer", "own")


def test_a_proposer_of_ones_own(far: Pair, own: Choice) -> None:
    cell = replace(loop("exact", 2), proposer=own)
    out = decode(far, cell, UNITS)
    assert torch.equal(flat(out), of_sequential(far, cell, UNITS)) and out.counts.draft_calls == 0
    taken = decode(far, replace(loop("always", 2), proposer=own), UNITS)
    assert not flat(taken).any()


def test_a_proposer_that_proposes_too_few_is_named(far: Pair, own: Choice) -> None:
    register("proposer", "own")(lambda *_: None)
    with pytest.raises(UserError, match="proposer=own proposed 0 stages instead of 2"):
        decode(far, replace(loop("exact", 2), proposer=own), UNITS)
