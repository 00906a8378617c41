"""The drop-in names: what scripts for VAR and SDVAR call."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdvar_exp.compat import SDVAR, VAR, VQVAE
from sdvar_exp.errors import UserError
from tests.goldens.fill_weights import fill_state_dict
from tests.support import golden_arrays, golden_settings

SIDES = (1, 2, 3)


@pytest.fixture(scope="module")
def model() -> VAR:
    torch.manual_seed(0)
    vae = VQVAE(vocab_size=64, z_channels=8, ch=32, v_patch_nums=SIDES)
    return VAR(vae, num_classes=10, depth=1, embed_dim=64, num_heads=1, patch_nums=SIDES).eval()


def test_labels_as_the_official_sampler_reads_them(model: VAR) -> None:
    drawn = model.autoregressive_infer_cfg(2, None, g_seed=1)
    assert drawn.shape == (2, 3, 48, 48) and drawn.min() >= 0 and drawn.max() <= 1
    given = model.autoregressive_infer_cfg(2, torch.tensor([3, 3]), g_seed=1)
    assert torch.equal(given, model.autoregressive_infer_cfg(2, 3, g_seed=1)) and not torch.equal(given[0], given[1])
    null = model.autoregressive_infer_cfg(1, -1, g_seed=1)
    assert torch.equal(null, model.autoregressive_infer_cfg(1, torch.tensor([10]), g_seed=1))
    with pytest.raises(UserError, match="labels must lie in 0 … 9"):
        model.autoregressive_infer_cfg(1, 11, g_seed=1)


def test_a_draft_that_is_the_target_changes_nothing(model: VAR) -> None:
    both, alone = SDVAR(model, model), model.autoregressive_infer_cfg(2, -1, g_seed=4)
    torch.testing.assert_close(both.sdvar_autoregressive_infer_cfg_parallel_v1(2, -1, g_seed=4, gamma=3), alone)
    assert both.last is not None and both.last.counts.target_calls == 1
    handed = both.sdvar_autoregressive_infer_cfg_sd_test3(2, -1, g_seed=4, entry_num=1, sd_mask=3)
    torch.testing.assert_close(handed, alone)
    with pytest.raises(UserError, match="sd_mask must lie in 0 … 5, got 6"):
        both.sdvar_autoregressive_infer_cfg_sd_test3(2, 1, g_seed=4, entry_num=1, sd_mask=6)


def test_official_methods_give_the_official_numbers() -> None:
    """Codes, teacher-forcing inputs, logits and reconstruction of the golden case `tiny`, through the drop-in classes."""
    h, z = golden_settings("tiny"), golden_arrays("tiny")
    vae = VQVAE(
        h["vocab_size"],
        h["z_channels"],
        h["ch"],
        using_znorm=h["using_znorm"],
        share_quant_resi=h["share_quant_resi"],
        v_patch_nums=h["patch_nums"],
    )
    vae.load_state_dict(fill_state_dict(vae.state_dict(), "tiny/vae/"))
    t = h["target"]
    model = VAR(
        vae,
        h["num_classes"],
        t["depth"],
        t["embed_dim"],
        t["num_heads"],
        shared_aln=h["shared_aln"],
        attn_l2_norm=h["attn_l2_norm"],
        patch_nums=h["patch_nums"],
    )
    model.load_state_dict(fill_state_dict(model.state_dict(), "tiny/target/"))
    picture = torch.from_numpy(z["picture"])
    with torch.no_grad():
        codes = vae.img_to_idxBl(picture)
        np.testing.assert_array_equal(torch.cat(codes, 1).numpy(), z["picture_tokens"])
        rebuilt = vae.img_to_reconstructed_img(picture, last_one=True)
        np.testing.assert_allclose(rebuilt.numpy(), z["picture_reconstruction"], atol=1e-4)
        np.testing.assert_allclose(vae.idxBl_to_img(codes, same_shape=True, last_one=True).numpy(), rebuilt.numpy(), atol=1e-5)
        forced = torch.from_numpy(z["tokens"]).split([n * n for n in h["patch_nums"]], dim=1)
        inputs = vae.quantize.idxBl_to_var_input(forced)
        np.testing.assert_allclose(inputs.numpy(), z["var_input"], atol=1e-5)
        logits = model.eval()(torch.from_numpy(z["labels"]), inputs)
        np.testing.assert_allclose(logits.numpy(), z["target_teacher_logits"], atol=2e-4)
        image = vae.fhat_to_img(torch.from_numpy(z["fhat"]))
        np.testing.assert_allclose((image.numpy() + 1) / 2, z["image"], atol=1e-4)
