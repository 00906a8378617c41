"""The calls of the SDVAR guide as it writes them: the import changed, the embedded pair in place of the official one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdvar_exp.compat import SDVAR, VAR, SDVARParallelV1Tester, build_vae_var, build_vae_var_speculative_decoding, builders
from sdvar_exp.decoding.session import ModelSession
from sdvar_exp.errors import UserError
from sdvar_exp.models.pair import WEIGHTS, load_pair
from sdvar_exp.runner.measuring.results import to_numpy

pytestmark = pytest.mark.needs("weights")


@pytest.fixture(scope="module")
def sdvar_model() -> SDVAR:
    return SDVAR.embedded()


@pytest.fixture(scope="module")
def tester(sdvar_model: SDVAR) -> SDVARParallelV1Tester:
    return SDVARParallelV1Tester(sdvar_model)


def test_the_embedded_pair_under_the_official_names(sdvar_model: SDVAR) -> None:
    """The same weights as `load_pair`, hence the same tokens; target_model is a VAR with the official attributes."""
    pair = load_pair("embedded")
    for role, model in (("draft", sdvar_model.draft_model), ("target", sdvar_model.target_model)):
        assert isinstance(model, VAR) and (model.V, model.Cvae, model.L) == (256, pair.vae.quantize.width, 385)
        own, loaded = model.state_dict(), getattr(pair, role).state_dict()
        assert own.keys() == loaded.keys() and all(torch.equal(own[k], loaded[k]) for k in own)
    assert not any(p.requires_grad for p in sdvar_model.parameters())


def test_single_tests_of_the_guide(tester: SDVARParallelV1Tester) -> None:
    for result, name in (
        (tester.test_build_combined_query(B=2, gamma=2), "query_building"),
        (tester.test_split_logits_by_stage(B=1, gamma=2), "logit_splitting"),
    ):
        assert (result.passed, result.test_name) == (True, name)
        assert "draft: " in result.message and "target: " in result.message


@pytest.mark.long
def test_all_tests_of_the_guide(tester: SDVARParallelV1Tester) -> None:
    results = tester.run_all_tests(B=2, gamma=2)
    passed_tests = [r for r in results if r.passed]
    failed_tests = [r for r in results if not r.passed]
    assert failed_tests == [] and len(passed_tests) >= 4
    assert {"query_building", "logit_splitting", "state_update", "kv_reset"} <= {r.test_name for r in passed_tests}
    assert all(isinstance(r.message, str) and r.message for r in results)


def test_a_fault_fails_the_test_it_belongs_to(tester: SDVARParallelV1Tester, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ModelSession._embed

    def embed(self: ModelSession, first: int, stop: int, f_hats: Any, rows: slice) -> torch.Tensor:
        return made(self, first, stop, [*f_hats[1:], f_hats[-1]], rows)

    monkeypatch.setattr(ModelSession, "_embed", embed)
    result = tester.test_build_combined_query(B=1, gamma=3)
    assert not result.passed and "stage 1, input rows" in result.message and "its own codes leak" in result.message
    assert tester.test_split_logits_by_stage(B=1, gamma=3).passed


def test_gamma_and_b_are_checked(tester: SDVARParallelV1Tester) -> None:
    with pytest.raises(UserError, match="gamma must lie in 1 … 10, got 11"):
        tester.test_build_combined_query(B=2, gamma=11)
    with pytest.raises(UserError, match="B must be ≥ 1, got 0"):
        tester.test_split_logits_by_stage(B=0)


def test_end_to_end_and_test3_of_the_guide(sdvar_model: SDVAR, caplog: pytest.LogCaptureFixture) -> None:
    result_img = sdvar_model.sdvar_autoregressive_infer_cfg_parallel_v1(
        B=1, label_B=torch.tensor([8]), gamma=2, cfg=1.5, verbose=True
    )
    assert result_img.shape == (1, 3, 40, 40) and result_img.min() >= 0 and result_img.max() <= 1
    assert "round 0: stages 0-1 proposed" in caplog.text and "target calls" in caplog.text
    old_result = sdvar_model.sdvar_autoregressive_infer_cfg_sd_test3(B=1, label_B=torch.tensor([8]), entry_num=5, sd_mask=0)
    diff = torch.abs(old_result - result_img).mean()
    assert diff.isfinite()


def test_baseline_of_the_guide(sdvar_model: SDVAR) -> None:
    """`sd.target_model.autoregressive_infer_cfg` is the project's own `sequential`."""
    from sdvar_exp.cell import Cell, Unit
    from sdvar_exp.decoding.api import decode, decode_images
    from sdvar_exp.registry import choose

    var_result = sdvar_model.target_model.autoregressive_infer_cfg(B=1, label_B=torch.tensor([8]).to("cpu"), cfg=1.5, g_seed=42)
    pair = load_pair("embedded")
    own = decode_images(pair, decode(pair, Cell(choose("strategy", "sequential")), [Unit(8, 42)]).f_hat)
    torch.testing.assert_close(var_result, own)
    assert to_numpy(var_result).shape == (1, 3, 40, 40)


def test_kv_cache_diagnosis_of_the_guide(sdvar_model: SDVAR, tester: SDVARParallelV1Tester) -> None:
    """Its loops over the blocks run: there is no cache on a module to find, to switch or to wipe."""
    blocks: list[Any] = list(sdvar_model.target_model.blocks)
    for blk in blocks:
        assert not (hasattr(blk.attn, "k_cache") and blk.attn.k_cache is not None)
        blk.attn.kv_caching(False)
        if hasattr(blk.attn, "k_cache"):
            blk.attn.k_cache = None
            blk.attn.v_cache = None
        blk.attn.kv_caching(True)
    assert tester.test_split_logits_by_stage(B=1, gamma=2).passed
    assert not any("cache" in name for name in sdvar_model.target_model.state_dict())


def test_builders_as_scripts_call_them() -> None:
    small = {"patch_nums": (1, 2, 3), "V": 64, "Cvae": 8, "ch": 32, "num_classes": 10}
    vae, var = build_vae_var(device="cpu", depth=1, **small)  # type: ignore[arg-type]
    vae2, draft, target, sd = build_vae_var_speculative_decoding(device="cpu", depth_draft=1, depth_target=2, **small)  # type: ignore[arg-type]
    draft.load_state_dict(var.state_dict())
    vae2.load_state_dict(vae.state_dict())
    assert (draft.depth, target.depth, target.C, sd.similarity_thresh) == (1, 2, 128, 0.8)
    with torch.no_grad():
        image = sd.eval().sdvar_autoregressive_infer_cfg_parallel_v1(1, torch.tensor([3]), g_seed=0, gamma=2)
    assert image.shape == (1, 3, 48, 48)


def test_files_that_do_not_fit() -> None:
    with pytest.raises(UserError, match=r"head\.weight is missing, so this is no such checkpoint"):
        builders.from_files(WEIGHTS / "vae.safetensors", WEIGHTS / "vae.safetensors", WEIGHTS / "vae.safetensors")


@pytest.mark.long
def test_what_the_formulas_of_the_guide_do() -> None:
    """docs/compat.md says it in numbers: with either formula, `exact` no longer gives the target's tokens."""
    from benchmarks.guide_formulas import measure, table
    from sdvar_exp.cell import Unit

    means = measure(load_pair("embedded"), [Unit(3, 0), Unit(7, 0)])
    again, tv, _, equal, pixels, _ = means["right"]
    assert (again, tv, equal, pixels) == (1.0, 0.0, 1.0, 0.0)
    for name in ("codes as rows", "offset first_l", "both"):
        again, tv, nats, equal, pixels, _ = means[name]
        assert again < 0.6 and tv > 0.4 and equal < 0.5 and pixels > 0.05 and nats > means["right"][2] + 1, name
    assert len(table(means)) == 6
