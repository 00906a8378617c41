"""Fidelity metrics on known cases, against scikit-image's numbers, and as properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sdvar_exp.metrics.quantities.fidelity import (
    agreement_by_stage,
    correlation,
    cosine,
    fidelity,
    noise_floor,
    pixel_l2,
    pixel_mae,
    psnr_db,
    ssim,
    token_agreement,
)
from sdvar_exp.pyramid import Pyramid

PYRAMID = Pyramid((1, 2, 3))
IMAGES = hnp.arrays(np.float32, (3, 12, 13), elements=st.floats(0, 1, width=32))


def pattern(height: int, width: int, shift: float) -> np.ndarray:
    c, y, x = np.meshgrid(np.arange(3), np.arange(height), np.arange(width), indexing="ij")
    return (0.5 + 0.5 * np.sin(0.37 * x + 0.23 * y * (c + 1) + shift)).astype(np.float32)


# From scikit-image 0.26.0: structural_similarity(a, b, channel_axis=0, gaussian_weights=True, sigma=1.5,
# use_sample_covariance=False, data_range=1.0) and peak_signal_noise_ratio on float64 images.
@pytest.mark.parametrize(
    ("height", "width", "shift", "expected_ssim", "expected_psnr"),
    [
        (16, 16, 0.3, 0.9153302236371719, 19.552097066004823),
        (40, 40, 0.05, 0.9978669600403561, 35.05530743032615),
        (40, 24, 1.0, 0.414435721061456, 9.391862321039774),
        (11, 11, 0.7, 0.665684192620617, 12.432976315308462),
    ],
)
def test_ssim_and_psnr_equal_scikit_image(height, width, shift, expected_ssim, expected_psnr):
    a, b = pattern(height, width, 0), pattern(height, width, shift)
    assert ssim(a, b) == pytest.approx(expected_ssim, abs=1e-7)
    assert psnr_db(a, b) == pytest.approx(expected_psnr, abs=1e-6)


def test_ssim_of_constant_images_is_the_luminance_term():
    a, b = np.full((3, 20, 20), 0.2), np.full((3, 20, 20), 0.6)
    assert ssim(a, b) == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4))


def test_ssim_is_undefined_below_its_window():
    a = np.zeros((3, 10, 40))
    assert ssim(a, a) is None


def test_literal_values():
    a = np.zeros((3, 2, 2))
    b = a.copy()
    b[0, 0, 0], b[1, 1, 1] = 0.3, 0.4
    assert pixel_mae(a, b) == pytest.approx(0.7 / 12)
    assert pixel_l2(a, b) == pytest.approx(0.5)
    assert psnr_db(a, b) == pytest.approx(-10 * math.log10(0.25 / 12))


def test_pixel_metrics_equal_numpy_on_random_images():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, 9, 9))
    assert pixel_l2(a, b) == pytest.approx(np.linalg.norm(a - b))
    assert correlation(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_correlation_of_constant_images():
    flat, other = np.full((3, 4, 4), 0.5), np.full((3, 4, 4), 0.6)
    ramp = np.linspace(0, 1, 48).reshape(3, 4, 4)
    assert correlation(flat, flat) == 1
    assert correlation(flat, other) is None
    assert correlation(flat, ramp) is None
    assert correlation(ramp, 1 - ramp) == pytest.approx(-1)


def test_cosine_of_zero_and_tiny_arrays():
    zero, one = np.zeros(4), np.ones(4)
    assert cosine(zero, zero) == 1
    assert cosine(zero, one) is None
    assert cosine(one, 1e-200 * one) == pytest.approx(1)
    assert cosine(np.array([1.0, 0]), np.array([1.0, 1])) == pytest.approx(math.sqrt(0.5))


def test_token_agreement_by_stage():
    a = np.arange(14)
    b = a.copy()
    b[[1, 9, 10, 11]] += 1
    overall, by_stage = token_agreement(a, b, PYRAMID), agreement_by_stage(a, b, PYRAMID)
    assert overall == pytest.approx(10 / 14)
    assert by_stage == pytest.approx((1, 0.75, 6 / 9))
    staged = [a[:1], a[1:5], a[5:]], [b[:1], b[1:5], b[5:]]
    assert (token_agreement(*staged, PYRAMID), agreement_by_stage(*staged, PYRAMID)) == (overall, by_stage)


def unit(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 9, 14), rng.random((3, 12, 12), np.float32), rng.normal(size=(4, 3, 3))


def test_identical_images():
    tokens, image, f_hat = unit(0)
    row = fidelity(tokens, image, f_hat, tokens, image, f_hat, PYRAMID)
    assert row == {
        "pixel_mae": 0,
        "pixel_l2": 0,
        "pixel_max_abs": 0,
        "psnr_db": None,
        "ssim": pytest.approx(1),
        "correlation": 1,
        "token_agreement": 1,
        "first_divergent_stage": None,
        "fhat_cosine": 1,
        "identical": True,
        "value_min": image.min(),
        "value_max": image.max(),
        "baseline_min": image.min(),
        "baseline_max": image.max(),
    }


def test_rounding_of_pixels_does_not_undo_identity():
    tokens, image, f_hat = unit(0)
    row = fidelity(tokens, image + np.float32(1e-7), f_hat, tokens, image, f_hat, PYRAMID)
    assert row["identical"]
    assert 0 < row["pixel_mae"] < 1e-6
    assert row["psnr_db"] > 120


def test_first_divergent_stage_and_plain_types():
    tokens, image, f_hat = unit(0)
    _, other, other_f = unit(1)
    changed = tokens.copy()
    changed[4] += 1
    row = fidelity(changed, other, other_f, tokens, image, f_hat, PYRAMID)
    assert row["first_divergent_stage"] == 1
    assert row["pixel_max_abs"] == max(abs(float(a) - float(b)) for a, b in zip(other.flat, image.flat, strict=True))
    assert not row["identical"]
    assert all(v is None or type(v) in (float, int, bool) for v in row.values())


def test_bad_input_is_refused():
    tokens, image, f_hat = unit(0)
    with pytest.raises(ValueError, match="has 14 tokens, got 13"):
        fidelity(tokens[:-1], image, f_hat, tokens, image, f_hat, PYRAMID)
    with pytest.raises(ValueError, match="lengths"):
        token_agreement([tokens[:2], tokens[2:5], tokens[5:]], tokens, PYRAMID)
    with pytest.raises(ValueError, match="one shape"):
        pixel_mae(image, image[:, :5])
    with pytest.raises(ValueError, match="not finite"):
        fidelity(tokens, np.full_like(image, np.nan), f_hat, tokens, image, f_hat, PYRAMID)


@settings(max_examples=60, deadline=None)
@given(IMAGES, IMAGES)
def test_properties_of_two_images(a, b):
    assert pixel_mae(a, b) == pixel_mae(b, a)
    assert 0 <= pixel_mae(a, b) <= 1
    assert pixel_mae(a, b) <= pixel_l2(a, b) / math.sqrt(a.size) + 1e-12  # mean ≤ root of mean square
    assert (psnr_db(a, b) is None) == np.array_equal(a, b)
    assert correlation(a, b) == correlation(b, a)
    assert correlation(a, b) is None or -1 <= correlation(a, b) <= 1
    assert ssim(a, b) == pytest.approx(ssim(b, a))
    assert ssim(a, b) <= 1 + 1e-9
    assert ssim(a, a) == pytest.approx(1)


def test_noise_floor_pairs_seeds_within_a_label():
    images = {(lab, s): np.full((3, 2, 2), 0.1 * s + 0.01 * lab) for lab in (7, 3) for s in (2, 0, 1)}
    rows = noise_floor(images)
    assert [(r["label"], r["seed"], r["other_seed"]) for r in rows] == [
        (3, 0, 1), (3, 0, 2), (3, 1, 2), (7, 0, 1), (7, 0, 2), (7, 1, 2),
    ]  # fmt: skip
    assert [r["pixel_mae"] for r in rows] == pytest.approx([0.1, 0.2, 0.1] * 2)
    assert all(r["correlation"] is None for r in rows)
    assert noise_floor({(0, 0): np.zeros((3, 2, 2))}) == []
