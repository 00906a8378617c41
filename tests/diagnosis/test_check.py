"""`check` holds on sound pairs, and finds faults: each is put into the core, and the first failure names stage and tensor."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sdvar_exp.cli import main
from sdvar_exp.cli.check import report
from sdvar_exp.decoding import session as session_module
from sdvar_exp.decoding.decoder import Decoder
from sdvar_exp.decoding.noise import NoiseBook
from sdvar_exp.decoding.session import ModelSession
from sdvar_exp.diagnosis.check import AREAS, affordable, run_checks, subject_of
from sdvar_exp.diagnosis.result import Result
from sdvar_exp.errors import UserError
from sdvar_exp.models.cache import KVCache
from sdvar_exp.models.pair import WEIGHTS, Pair
from sdvar_exp.models.quant import MultiScaleQuantizer
from sdvar_exp.models.var import VAR
from tests.support import golden_pair, near_pair

Patch = Callable[[type | Any, str, Callable[..., Any]], None]


@pytest.fixture
def pair() -> Pair:
    return near_pair("tiny", "float64", shift=0.08)


@pytest.fixture
def wrap(monkeypatch: pytest.MonkeyPatch) -> Patch:
    """wrap(owner, name, fault): fault(made, self, …) stands in for a method."""

    def put(owner: Any, name: str, fault: Callable[..., Any]) -> None:
        made = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: fault(made, *args, **kwargs))

    return put


def failures(pair: Pair) -> Iterator[Result]:
    return (result for result in run_checks(subject_of(pair)) if not result.passed)


def test_a_sound_pair_passes_everything(pair: Pair) -> None:
    results = list(run_checks(subject_of(pair)))
    assert [r for r in results if not r.passed] == []
    assert {r.area for r in results} == {area.name for area in AREAS} and len(results) == 22


@pytest.mark.parametrize(
    ("stages", "open_areas"), [(1, {"query_building", "kv_reset", "logit_splitting", "causality"}), (2, {"kv_reset"})]
)
def test_what_too_few_stages_cannot_show_is_not_called_ok(
    pair: Pair, stages: int, open_areas: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    results = list(run_checks(subject_of(pair, stages=stages)))
    assert {r.area for r in results if not r.checked} == open_areas and all(r.passed for r in results)
    assert report(pair, stages, 0, False) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if f", {stages} of" in line]
    assert len(lines) == 2 * len(open_areas) and all(line.startswith("  not checked:") for line in lines)
    assert f"{22 - len(lines)} checks hold on the first {stages} of {pair.pyramid.stages} stages" in out
    assert f"{len(lines)} were not made" in out
    report(pair, stages, 0, True)
    assert sum(not r["checked"] for r in json.loads(capsys.readouterr().out)["results"]) == len(lines)


@pytest.mark.parametrize("name", ["tiny-shared-aln", "ten-stage"])
def test_other_shapes_pass_too(name: str) -> None:
    """Modulations that blocks share, no cosine attention, ten stages; in float32 near-ties are allowed for."""
    pair = golden_pair(name)
    subject = subject_of(pair, stages=min(4, pair.pyramid.stages))
    assert [r.message for r in run_checks(subject) if not r.passed] == []


# --- faults --------------------------------------------------------------------------------------------------------------


def cache_write_off_by_one(wrap: Patch, pair: Pair) -> None:
    def slots(made: Any, self: KVCache, block: int, rows: slice, count: int) -> Any:
        if self.length + count >= self.capacity:
            return made(self, block, rows, count)
        both = self.kv[block, :, rows, :, self.length + 1 : self.length + count + 1]
        return both[0], both[1]

    wrap(KVCache, "slots", slots)


def cache_rows_turned(wrap: Patch, pair: Pair) -> None:
    """Keys are kept in the wrong order: turned by one row."""

    def advance(made: Any, self: KVCache, rows: int) -> None:
        new = self.kv[:, 0, :, :, self.length : self.length + rows]
        new.copy_(new.roll(1, dims=3))
        made(self, rows)

    wrap(KVCache, "advance", advance)


def one_t_for_a_merged_pass(wrap: Patch, pair: Pair) -> None:
    def guide(made: Any, self: ModelSession, logits: torch.Tensor, first: int, stop: int) -> Any:
        kept, self.weights = self.weights, (self.weights[stop - 1],) * len(self.weights)
        try:
            return made(self, logits, first, stop)
        finally:
            self.weights = kept

    wrap(ModelSession, "_guide", guide)


def rows_from_own_f_hat(wrap: Patch, pair: Pair) -> None:
    def embed(made: Any, self: ModelSession, first: int, stop: int, f_hats: Any, rows: slice) -> Any:
        return made(self, first, stop, [*f_hats[1:], f_hats[-1]], rows)

    wrap(ModelSession, "_embed", embed)


def rows_are_the_codes_themselves(wrap: Patch, pair: Pair) -> None:
    """The guide's `_build_combined_query`: codes of stage k embedded as the rows of stage k."""
    codes, embedding = subject_of(pair).tokens, pair.vae.quantize.embedding
    wrap(MultiScaleQuantizer, "next_input", lambda made, self, stage, f_hat: embedding(codes[stage]))


def positions_start_over_in_a_merged_pass(wrap: Patch, pair: Pair) -> None:
    def positions(made: Any, self: VAR, first: int, stop: int) -> Any:
        if first > 1 and stop - first > 1:
            rows = self.pyramid.count(first, stop)
            return self.lvl_embed(self.lvl_1L[:, :rows]) + self.pos_1LC[:, :rows]
        return made(self, first, stop)

    wrap(VAR, "positions", positions)


def null_half_is_class_0(wrap: Patch, pair: Pair) -> None:
    wrap(ModelSession, "_with_null", lambda made, self, labels: torch.cat((labels, torch.zeros_like(labels))))


def halves_swapped(wrap: Patch, pair: Pair) -> None:
    wrap(
        ModelSession,
        "_with_null",
        lambda made, self, labels: torch.cat((torch.full_like(labels, self.model.num_classes), labels)),
    )


def logits_cut_one_row_late(wrap: Patch, pair: Pair) -> None:
    """The guide's `_split_logits_by_stage`: an offset of `first_l`."""

    def logits(made: Any, self: ModelSession, *args: Any, **kwargs: Any) -> Any:
        parts = made(self, *args, **kwargs)
        whole = torch.cat(parts, dim=1).roll(-1, dims=1)
        return list(whole.split([p.shape[1] for p in parts], dim=1))

    wrap(ModelSession, "logits", logits)


def everything_is_open_in_a_merged_pass(wrap: Patch, pair: Pair) -> None:
    wrap(session_module.Seen, "attention", lambda made, self, device: (None, None))


def nothing_is_truncated(wrap: Patch, pair: Pair) -> None:
    wrap(KVCache, "truncate", lambda made, self, length: None)


def no_rollback_in_the_decoder(wrap: Patch, pair: Pair) -> None:
    wrap(Decoder, "_roll_back", lambda made, self, *_: None)


def f_hat_in_place(wrap: Patch, pair: Pair) -> None:
    def accumulate(made: Any, self: MultiScaleQuantizer, stage: int, tokens: torch.Tensor, f_hat: torch.Tensor) -> Any:
        f_hat += self.contribution(stage, self.code_map(stage, tokens))
        return f_hat

    wrap(MultiScaleQuantizer, "accumulate", accumulate)


def f_hat_twice(wrap: Patch, pair: Pair) -> None:
    def accumulate(made: Any, self: MultiScaleQuantizer, stage: int, tokens: torch.Tensor, f_hat: torch.Tensor) -> Any:
        return made(self, stage, tokens, made(self, stage, tokens, f_hat)) if stage == 1 else made(self, stage, tokens, f_hat)

    wrap(MultiScaleQuantizer, "accumulate", accumulate)


def noise_of_the_call_not_of_the_stage(wrap: Patch, pair: Pair) -> None:
    calls: list[int] = []

    def gumbel(made: Any, self: NoiseBook, stream: Any, stage: int) -> Any:
        calls.append(stage)
        return made(self, stream, stage).roll(len(calls), dims=-1)

    wrap(NoiseBook, "gumbel", gumbel)


def nan_in_the_target(wrap: Patch, pair: Pair) -> None:
    pair.target.blocks[0].ffn.fc1.weight[0, 3] = torch.nan  # type: ignore[index, union-attr]


def nan_in_the_codebook(wrap: Patch, pair: Pair) -> None:
    pair.vae.quantize.embedding.weight[5] = torch.inf


def a_missing_class(wrap: Patch, pair: Pair) -> None:
    pair.draft.class_emb = torch.nn.Embedding(pair.num_classes, pair.draft.width, dtype=torch.float64)


FAULTS: list[tuple[Callable[[Patch, Pair], None], str, str]] = [
    (
        cache_write_off_by_one,
        "kv_cache: draft",
        r"draft, KV cache, stage 0 \(rows 0-0\), keys of block 0, conditional half: 192 of 192 values are NaN or infinite",
    ),
    (cache_rows_turned, "kv_cache: draft", r"stage 1 \(rows 1-4\), keys of block 0, .*; row 1 holds what belongs to row 4$"),
    (
        one_t_for_a_merged_pass,
        "guidance: draft",
        r"draft, stage 0, guided logits of the merged pass over stages 0-4: .*t=1\.5, that of stage 4, instead of t=0\.5",
    ),
    (
        rows_from_own_f_hat,
        "query_building: draft",
        r"draft, stage 1, input rows \(conditional half\) in the pass of stage 1 alone: .*from f̂ after stage 1: its own codes",
    ),
    (rows_are_the_codes_themselves, "query_building: draft", r"draft, stage 1, input rows .*embedded codes of stage 1"),
    (
        positions_start_over_in_a_merged_pass,
        "query_building: draft",
        r"stage \d, input rows \(conditional half\) in the merged pass .*level and position are those of row 0 instead of row \d",
    ),
    (null_half_is_class_0, "query_building: draft", r"stage 0, input rows \(unconditional half\).*they carry class 0$"),
    (halves_swapped, "query_building: draft", r"stage 0, input rows \(conditional half\).*those of the other guidance half"),
    (
        logits_cut_one_row_late,
        "logit_splitting: draft",
        r"draft, stage 0, logits cut out of the merged pass .*they begin at row 1 instead of row 0",
    ),
    (everything_is_open_in_a_merged_pass, "kv_cache: draft", r"draft.* stage 0.*mask"),
    (nothing_is_truncated, "kv_reset: draft", r"draft, KV cache after stage 1: 55 rows, stages 0-1 have 5"),
    (no_rollback_in_the_decoder, "rejection", r"draft, KV cache after round 0: 14 rows, the 1 committed stages have 1"),
    (f_hat_in_place, "state_update", r"f̂ after stage 0 changed in round 1, .* updated in place$"),
    (f_hat_twice, "state_update", r"f̂ after stage 1 against the sum of the committed codes: largest difference"),
    (noise_of_the_call_not_of_the_stage, "rejection", r"stage 1, tokens with every proposal failed: 7 of 8 are not"),
    (nan_in_the_target, "weights: target", r"target: 1 of \d+ values of blocks\.0\.ffn\.fc1\.weight are NaN or infinite"),
    (nan_in_the_codebook, "weights: vae", r"vae: \d+ of \d+ values of quantize\.embedding\.weight are NaN or infinite"),
    (a_missing_class, "weights: draft", r"draft: class_emb\.weight has 10 rows, 10 classes and the null class need 11"),
]


@pytest.mark.parametrize(("fault", "test_name", "message"), FAULTS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_fault_is_found_and_named(
    fault: Callable[[Patch, Pair], None], test_name: str, message: str, pair: Pair, wrap: Patch
) -> None:
    fault(wrap, pair)
    first = next(failures(pair))
    assert re.fullmatch(test_name, first.test_name), first
    assert re.search(message, first.message), first


def test_damaged_weights_keep_the_rest_from_running(pair: Pair) -> None:
    """What is fed NaN would fail everywhere: only the draft's own lines are left."""
    nan_in_the_target(lambda *_: None, pair)
    results = list(run_checks(subject_of(pair)))
    assert [r.test_name for r in results if not r.passed] == ["weights: target"]
    assert not any("target" in r.test_name for r in results if r.area != "weights") and len(results) > 5


def test_an_error_inside_is_a_failure_with_its_place(pair: Pair, wrap: Patch) -> None:
    wrap(VAR, "stage_rows", lambda made, *args: 1 / 0)
    first = next(failures(pair))
    assert first.message.startswith("stopped with ZeroDivisionError: division by zero (in _embed, decoding/session.py:")


# --- bounds and the command line -----------------------------------------------------------------------------------------


def test_large_models_are_checked_on_as_many_stages_as_a_cpu_affords(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    assert affordable(pair) == pair.pyramid.stages
    count = sum(p.numel() for p in pair.target.parameters())
    monkeypatch.setattr("sdvar_exp.diagnosis.check.CPU_BUDGET", count * pair.pyramid.offsets[4])
    assert affordable(pair) == 4 and subject_of(pair).stages == 4 and subject_of(pair, 5).stages == 5
    with pytest.raises(UserError, match="--stages must lie in 1 … 5, got 6"):
        subject_of(pair, 6)
    with pytest.raises(UserError, match="check takes dtype=float64 or float32"):
        subject_of(golden_pair("tiny", "bfloat16"))


@pytest.mark.needs("weights")
def test_check_of_the_embedded_pair(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "embedded", "--stages", "3"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("embedded: 3 stages (the first 3 of 10; --stages 10 for all), float64 on cpu")
    assert "FAIL" not in text and re.search(r"\n22 checks hold on the first 3 of 10 stages.*, \d+ s\n", text)


@pytest.mark.needs("weights")
def test_check_of_files_and_of_a_damaged_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Paths of one's own; the JSON of a fault; a file that cannot be loaded is exit code 2."""
    files = {role: str(WEIGHTS / f"{role}.safetensors") for role in ("vae", "draft", "target")}
    words = [f"model.{role}={path}" for role, path in files.items()]
    assert main(["check", "files", *words, "dtype=float32", "--stages", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["passed"], said["dtype"], said["stages"], said["of"]) == (True, "float32", 2, 10)
    assert {"test_name", "passed", "message", "area", "checked"} == set(said["results"][0])
    from safetensors.torch import load_file

    state = load_file(files["target"])
    state["head.weight"][0, 0] = torch.nan
    torch.save(state, tmp_path / "bad.pth")
    assert main(["check", "files", *words[:2], f"model.target={tmp_path / 'bad.pth'}"]) == 2
    assert "head.weight holds values that are not finite" in capsys.readouterr().err


@pytest.mark.needs("weights")
def test_exit_code_of_a_fault(capsys: pytest.CaptureFixture[str], wrap: Patch) -> None:
    wrap(MultiScaleQuantizer, "next_input", lambda made, self, stage, f_hat: made(self, stage, f_hat * 1.01))
    assert main(["check", "embedded", "--stages", "2"]) == 1
    text = capsys.readouterr().out
    assert "FAIL  draft, stage 1, input rows (conditional half)" in text and "begin with query_building: draft" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["embeded"], "did you mean 'embedded'"),
        (["embedded", "gamma.value=2"], "check takes model.KEY=…"),
        (["var_d16_d30"], "is not in checkpoints"),
        (["files"], "model.vae has no value here: set it"),
    ],
)
def test_what_cannot_be_checked(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *words]) == 2
    assert said in capsys.readouterr().err
