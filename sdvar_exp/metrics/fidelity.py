"""How far one image of a cell lies from the baseline's image of the same label and seed.

Knows tokens, feature maps and images as numpy arrays; knows nothing of models or how they were decoded.
Everything is computed in float64. a is the cell's, b the baseline's. Values without a meaning are None, never NaN:

- `psnr_db` is None where the images are equal bit by bit (it would be infinite); `pixel_mae` is then 0.
- `correlation` of a constant image is undefined: None, unless both images are equal, then 1.
- `fhat_cosine` with an all-zero feature map: None, unless both are zero, then 1.
- `ssim` needs images of at least 11 x 11 pixels: None below.
- `identical` means that every token is equal. Equal tokens decoded in other batch sizes may still give pixels that
  differ by rounding (about 1e-7), which `pixel_mae` shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from sdvar_exp.pyramid import Pyramid

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03

Tokens = np.ndarray | Sequence[np.ndarray]


def fidelity(
    tokens_a: Tokens,
    image_a: np.ndarray,
    f_hat_a: np.ndarray,
    tokens_b: Tokens,
    image_b: np.ndarray,
    f_hat_b: np.ndarray,
    pyramid: Pyramid,
) -> dict[str, Any]:
    """Columns of `samples` that compare one image of a cell (a) with its baseline (b).

    tokens: per stage (L_k,) or flat (L,). image: (3, H, W) in [0, 1]. f_hat: (c, h, w).
    Raises ValueError where shapes differ from each other or from the pyramid, or where values are not finite.
    """
    flat_a, flat_b = flat_tokens(tokens_a, pyramid), flat_tokens(tokens_b, pyramid)
    a, b = _pair(image_a, image_b, "image")
    overall, by_stage = token_agreement(flat_a, flat_b, pyramid)
    divergent = [k for k, share in enumerate(by_stage) if share < 1]
    return {
        "pixel_mae": pixel_mae(a, b),
        "pixel_l2": pixel_l2(a, b),
        "psnr_db": psnr_db(a, b),
        "ssim": ssim(a, b),
        "correlation": correlation(a, b),
        "token_agreement": overall,
        "first_divergent_stage": divergent[0] if divergent else None,
        "fhat_cosine": cosine(f_hat_a, f_hat_b),
        "identical": not divergent,
        "value_min": float(a.min()),
        "value_max": float(a.max()),
        "baseline_min": float(b.min()),
        "baseline_max": float(b.max()),
    }


def flat_tokens(tokens: Tokens, pyramid: Pyramid) -> np.ndarray:
    """Tokens of one image as (L,), from (L,) or from one array per stage, each (L_k,) or (1, L_k)."""
    if isinstance(tokens, np.ndarray):
        flat = tokens.reshape(-1)
    else:
        parts = [np.asarray(t).reshape(-1) for t in tokens]
        if tuple(p.size for p in parts) != pyramid.lengths:
            raise ValueError(f"tokens by stage must have lengths {pyramid.lengths}, got {[p.size for p in parts]}")
        flat = np.concatenate(parts)
    if flat.size != pyramid.total:
        raise ValueError(f"one image has {pyramid.total} tokens, got {flat.size}")
    return flat


def token_agreement(tokens_a: Tokens, tokens_b: Tokens, pyramid: Pyramid) -> tuple[float, tuple[float, ...]]:
    """Share of equal tokens in [0, 1], overall and by stage (S,)."""
    same = flat_tokens(tokens_a, pyramid) == flat_tokens(tokens_b, pyramid)
    by_stage = tuple(float(same[pyramid.rows(k, k + 1)].mean()) for k in range(pyramid.stages))
    return float(same.mean()), by_stage


def pixel_mae(a: np.ndarray, b: np.ndarray) -> float:
    """Mean |a-b| over all values of (3, H, W): the headline "pixel difference", in [0, 1]."""
    a, b = _pair(a, b, "image")
    return float(np.abs(a - b).mean())


def pixel_l2(a: np.ndarray, b: np.ndarray) -> float:
    """Euclidean norm of a-b over all values, as `torch.norm(a - b)`."""
    a, b = _pair(a, b, "image")
    return float(np.sqrt(np.square(a - b).sum()))


def psnr_db(a: np.ndarray, b: np.ndarray) -> float | None:
    """Peak signal-to-noise ratio in dB for a peak of 1: -10·log10(mean (a-b)²); None where a equals b."""
    a, b = _pair(a, b, "image")
    mse = float(np.square(a - b).mean())
    return -10 * float(np.log10(mse)) if mse > 0 else None


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson correlation over all pixel values, in [-1, 1]; None if an image is constant, but 1 if both are equal."""
    a, b = _pair(a, b, "image")
    if np.array_equal(a, b):
        return 1.0
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return cosine(a - a.mean(), b - b.mean())


def cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    """Cosine of the angle between two arrays, in [-1, 1]; None if one is zero, but 1 if both are equal."""
    a, b = _pair(a, b, "array")
    if np.array_equal(a, b):
        return 1.0
    peak_a, peak_b = np.abs(a).max(), np.abs(b).max()
    if peak_a == 0 or peak_b == 0:
        return None
    x, y = (a / peak_a).ravel(), (b / peak_b).ravel()  # squares of tiny values would underflow
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))


def ssim(a: np.ndarray, b: np.ndarray) -> float | None:
    """Structural similarity of (3, H, W) images in [0, 1], mean over channels and over all whole windows.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004:
    Gaussian window 11 x 11, σ 1.5, K1 0.01, K2 0.03, dynamic range 1. None for images smaller than the window.
    """
    a, b = _pair(a, b, "image")
    if min(a.shape[-2:]) < SSIM_WINDOW:
        return None
    mean_a, mean_b = _blur(a), _blur(b)
    var_a = _blur(a * a) - mean_a**2
    var_b = _blur(b * b) - mean_b**2
    cov = _blur(a * b) - mean_a * mean_b
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * cov + c2) / (var_a + var_b + c2)
    return float((luminance * structure).mean())


def _blur(image: np.ndarray) -> np.ndarray:
    """Gaussian-weighted mean of every whole window: (…, H, W) -> (…, H-10, W-10)."""
    x = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-(x**2) / (2 * SSIM_SIGMA**2))
    weights /= weights.sum()
    rows = sliding_window_view(image, SSIM_WINDOW, axis=-1) @ weights
    return sliding_window_view(rows, SSIM_WINDOW, axis=-2) @ weights


def _pair(a: np.ndarray, b: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"two {what}s of one shape are needed, got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"{what} has values that are not finite")
    return a, b
