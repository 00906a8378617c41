"""Our models and decoder against the numbers of the official VAR code (tests/goldens/README.md)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sdvar_exp.cell import Cell, Sampling, Unit
from sdvar_exp.decoding import decode, decode_images
from sdvar_exp.decoding.guidance import weights
from sdvar_exp.decoding.masks import materialise
from sdvar_exp.decoding.session import ModelSession
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import choose
from tests.support import CASES, golden_arrays, golden_keys, golden_pair, golden_settings, golden_vae, golden_var

LOGITS, IMAGE = 2e-4, 1e-4
MASKS = (
    "no_prefix",
    "token_causal_blocks",
    "token_causal_blocks_entry_full",
    "block_causal",
    "block_diagonal",
    "block_diagonal_entry_full",
)


def tensors(name: str) -> tuple[dict[str, np.ndarray], torch.Tensor, list[torch.Tensor]]:
    z = golden_arrays(name)
    pyramid = Pyramid(tuple(golden_settings(name)["patch_nums"]))
    tokens = torch.from_numpy(z["tokens"]).split(pyramid.lengths, dim=1)
    return z, torch.from_numpy(z["labels"]), list(tokens)


def slim(name: str, logits: torch.Tensor) -> np.ndarray:
    """The rows that the golden keeps."""
    return (logits[:, ::7] if name == "ten-stage" else logits).numpy()


def slim_image(name: str, image: torch.Tensor) -> np.ndarray:
    return (image[:, :, ::8, ::8] if name == "ten-stage" else image).numpy()


@pytest.mark.parametrize("name", CASES)
def test_names_and_shapes_are_the_official_ones(name: str) -> None:
    keys = golden_keys(name)
    modules = {"vae": golden_vae(name), "draft": golden_var(name, "draft"), "target": golden_var(name, "target")}
    for part, module in modules.items():
        assert {k: list(v.shape) for k, v in module.state_dict().items()} == keys[part]


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_quantizer_and_decoder(name: str) -> None:
    z, _, tokens = tensors(name)
    vae = golden_vae(name)
    np.testing.assert_allclose(vae.quantize.teacher_input(tokens).numpy(), z["var_input"], atol=1e-5)
    f_hat = vae.quantize.f_hats(tokens)[-1]
    np.testing.assert_allclose(f_hat.numpy(), z["fhat"], atol=1e-5)
    np.testing.assert_allclose(slim_image(name, (vae.decode(f_hat) + 1) / 2), z["image"], atol=IMAGE)


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_encoder(name: str) -> None:
    z, _, _ = tensors(name)
    vae = golden_vae(name)
    if "picture" in z:
        picture = torch.from_numpy(z["picture"])
    else:
        small = torch.from_numpy(z["picture_small"])
        picture = F.interpolate(small, size=(256, 256), mode="bilinear", align_corners=False).clamp(-1, 1)
    tokens, f_hats = vae.quantize.encode(vae.features(picture))
    np.testing.assert_array_equal(torch.cat(tokens, 1).numpy(), z["picture_tokens"])
    if "picture_reconstruction" in z:
        np.testing.assert_allclose(vae.decode(f_hats[-1]).numpy(), z["picture_reconstruction"], atol=IMAGE)


@pytest.mark.parametrize("role", ["draft", "target"])
@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_teacher_forced_logits(name: str, role: str) -> None:
    z, labels, _ = tensors(name)
    logits = golden_var(name, role).teacher_logits(labels, torch.from_numpy(z["var_input"]))
    np.testing.assert_allclose(slim(name, logits), z[f"{role}_teacher_logits"], atol=LOGITS)


def session(name: str, role: str, labels: torch.Tensor) -> ModelSession:
    model, vae = golden_var(name, role), golden_vae(name)
    schedule = choose("cfg_schedule", "linear", cfg=float(golden_arrays(name)["cfg"]))
    return ModelSession(model, vae.quantize.next_input, labels, weights(schedule, model.pyramid.stages))


@pytest.mark.parametrize("role", ["draft", "target"])
@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_guided_logits_stage_by_stage(name: str, role: str) -> None:
    z, labels, tokens = tensors(name)
    f_hats = golden_vae(name).quantize.f_hats(tokens)
    s = session(name, role, labels)
    logits = torch.cat([s.logits(f_hats, k + 1, want=k)[0] for k in range(s.pyramid.stages)], dim=1)
    np.testing.assert_allclose(slim(name, logits), z[f"{role}_cfg_logits"], atol=LOGITS)
    assert s.cache.length == s.pyramid.total


def handoffs() -> list[tuple[str, int, int]]:
    return [(n, e, m) for n in CASES for e in golden_settings(n)["entries"] for m in range(6)]


@pytest.mark.parametrize(("name", "entry", "code"), handoffs())
@torch.inference_mode()
def test_handoff_logits_under_every_mask(name: str, entry: int, code: int) -> None:
    z, labels, tokens = tensors(name)
    f_hats = golden_vae(name).quantize.f_hats(tokens)
    s = session(name, "target", labels)
    out = s.logits(f_hats, entry + 1, want=entry, mask=choose("mask", MASKS[code]))
    for k in range(entry + 1, s.pyramid.stages):
        out += s.logits(f_hats, k + 1, want=k)
    np.testing.assert_allclose(slim(name, torch.cat(out, 1)), z[f"handoff_e{entry}_m{code}_cfg_logits"], atol=LOGITS)


@pytest.mark.parametrize(("name", "entry", "code"), [c for c in handoffs() if c[0] != "ten-stage" and c[2] != 0])
def test_masks_equal_the_official_ones(name: str, entry: int, code: int) -> None:
    ours = materialise(choose("mask", MASKS[code]), Pyramid(tuple(golden_settings(name)["patch_nums"])), 0, entry + 1)
    packed = golden_arrays(name)[f"mask_e{entry}_m{code}"]
    np.testing.assert_array_equal(np.packbits(ours, axis=-1), packed)


@pytest.mark.parametrize("role", ["draft", "target"])
@pytest.mark.parametrize("name", CASES)
def test_greedy_image_of_the_whole_loop(name: str, role: str) -> None:
    z, labels, _ = tensors(name)
    strategy = "sequential" if role == "target" else "draft_only"
    cell = Cell(choose("strategy", strategy), choose("cfg_schedule", "linear", cfg=float(z["cfg"])), sampling=Sampling(top_k=1))
    pair = golden_pair(name)
    out = decode(pair, cell, [Unit(int(label), seed) for seed, label in enumerate(labels)])
    np.testing.assert_allclose(slim_image(name, decode_images(pair, out.f_hat)), z[f"{role}_greedy_image"], atol=IMAGE)
