"""Metrics of the distance of a cell's image from the baseline's image of the same label and seed.

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

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from sdvar_exp.metrics.quantities import measure, metrics
from sdvar_exp.pyramid import SKIPPED, Pyramid
from sdvar_exp.registry import register

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
    **more: Any,
) -> dict[str, Any]:
    """Columns of `samples` that compare one image of a cell (a) with its baseline (b): every metric that has its evidence.

    tokens: per stage (L_k,) or flat (L,). image: (3, H, W) in [0, 1]. f_hat: (c, h, w). more: other `EVIDENCE`.
    Raises ValueError where shapes differ from each other or from the pyramid, or where values are not finite.
    """
    a, b = _pair(image_a, image_b, "image")
    flat = {"tokens_a": flat_tokens(tokens_a, pyramid), "tokens_b": flat_tokens(tokens_b, pyramid)}
    return measure({"image_a": a, "image_b": b, "f_hat_a": f_hat_a, "f_hat_b": f_hat_b, **flat, **more, "pyramid": pyramid})


def noise_floor(images: Mapping[tuple[int, int], np.ndarray]) -> list[dict[str, Any]]:
    """Distance of two baseline images of one label when only the seed differs: one row per pair of seeds.

    A lossy cell that moves images this far has kept nothing of the baseline's draw. Columns: label, seed, other_seed, and the
    metrics of tables that need nothing but two images.
    images: baseline images by (label, seed), each (3, H, W) in [0, 1]. Pairs of a label share images, so they are not
    independent: their mean is an estimate of the floor, their spread is no interval of it.
    """
    seeds = defaultdict(list)
    for label, seed in sorted(images):
        seeds[label].append(seed)
    shown = [m for m in metrics() if m.has_floor]
    rows = []
    for label, of_label in seeds.items():
        for seed, other in combinations(of_label, 2):
            a, b = images[label, seed], images[label, other]
            values = {m.name: m.function(a, b) for m in shown}
            rows.append({"label": label, "seed": seed, "other_seed": other, **values})
    return rows


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


def agreement_by_stage(tokens_a: Tokens, tokens_b: Tokens, pyramid: Pyramid) -> tuple[float, ...]:
    """Share of equal tokens of each stage (S,), in [0, 1]."""
    same = flat_tokens(tokens_a, pyramid) == flat_tokens(tokens_b, pyramid)
    return tuple(float(same[pyramid.rows(k, k + 1)].mean()) for k in range(pyramid.stages))


@register(
    "metric",
    "pixel_mae",
    heading="pixel difference",
    range=(0, 1),
    better=-1,
    headline="difference",
    formula='mean of \\|a − b\\| over all pixels and channels: the "pixel difference"',
    unit="[0, 1]",
)
def pixel_mae(image_a: np.ndarray, image_b: np.ndarray) -> float:
    """mean |a−b| to the reference's image of one label and seed, on [0, 1]"""
    a, b = _pair(image_a, image_b, "image")
    return float(np.abs(a - b).mean())


@register(
    "metric",
    "pixel_l2",
    heading="L2 distance",
    range=(0, np.inf),
    better=-1,
    shown="rows",
    formula="√Σ (a − b)²",
    unit="≥ 0, grows with the image size",
)
def pixel_l2(image_a: np.ndarray, image_b: np.ndarray) -> float:
    """Euclidean norm of a-b over all values, as `torch.norm(a - b)`."""
    a, b = _pair(image_a, image_b, "image")
    return float(np.sqrt(np.square(a - b).sum()))


@register(
    "metric",
    "pixel_max_abs",
    heading="largest difference",
    range=(0, 1),
    average="none",
    shown="rows",
    formula="max \\|a − b\\| over all pixels and channels",
    unit="[0, 1]",
)
def pixel_max_abs(image_a: np.ndarray, image_b: np.ndarray) -> float:
    """Largest |a-b| over all pixels and channels."""
    a, b = _pair(image_a, image_b, "image")
    return float(np.abs(a - b).max())


@register(
    "metric",
    "psnr_db",
    heading="PSNR",
    digits=1,
    better=1,
    shown="rows",
    formula="−10·log₁₀ mean (a − b)²",
    unit="dB; null where a = b",
)
def psnr_db(image_a: np.ndarray, image_b: np.ndarray) -> float | None:
    """Peak signal-to-noise ratio in dB for a peak of 1: -10·log10(mean (a-b)²); None where a equals b."""
    a, b = _pair(image_a, image_b, "image")
    mse = float(np.square(a - b).mean())
    return -10 * float(np.log10(mse)) if mse > 0 else None


@register(
    "metric",
    "ssim",
    heading="SSIM",
    range=(-1, 1),
    better=1,
    shown="image",
    formula="mean over windows of (2μ_aμ_b + c₁)(2σ_ab + c₂) / ((μ_a² + μ_b² + c₁)(σ_a² + σ_b² + c₂)), Gaussian 11×11, σ 1.5, "
    "c₁ = 0.01², c₂ = 0.03² (Wang et al., 2004)",
    unit="[−1, 1]; null below 11×11 pixels",
)
def ssim(image_a: np.ndarray, image_b: np.ndarray) -> float | None:
    """Structural similarity of (3, H, W) images in [0, 1], mean over channels and over all whole windows.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004:
    Gaussian window 11 x 11, σ 1.5, K1 0.01, K2 0.03, dynamic range 1. None for images smaller than the window.
    """
    a, b = _pair(image_a, image_b, "image")
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


@register(
    "metric",
    "correlation",
    heading="corre\u00adlation",
    range=(-1, 1),
    better=1,
    figures=False,
    formula="Pearson over all pixel values, Σ(a−ā)(b−b̄) / √(Σ(a−ā)²·Σ(b−b̄)²)",
    unit="[−1, 1]; null if an image is constant, 1 if a = b",
)
def correlation(image_a: np.ndarray, image_b: np.ndarray) -> float | None:
    """Pearson correlation with the reference's image over all pixel values."""
    a, b = _pair(image_a, image_b, "image")
    if np.array_equal(a, b):
        return 1.0
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return cosine(a - a.mean(), b - b.mean())


@register(
    "metric",
    "token_agreement",
    heading="tokens equal",
    range=(0, 1),
    better=1,
    figures=False,
    formula="equal tokens ÷ L",
    unit="[0, 1]",
)
def token_agreement(tokens_a: Tokens, tokens_b: Tokens, pyramid: Pyramid) -> float:
    """Share of tokens equal to the reference's."""
    return float((flat_tokens(tokens_a, pyramid) == flat_tokens(tokens_b, pyramid)).mean())


@register(
    "metric",
    "first_divergent_stage",
    heading="first divergent stage",
    digits=0,
    average="none",
    shown="image",
    values="int",
    formula="least k with a token that differs",
    unit="null if none",
)
def first_divergent_stage(tokens_a: Tokens, tokens_b: Tokens, pyramid: Pyramid) -> int | None:
    """First stage with a token that differs from the reference's; None if there is none."""
    return next((k for k, share in enumerate(agreement_by_stage(tokens_a, tokens_b, pyramid)) if share < 1), None)


@register(
    "metric",
    "fhat_cosine",
    heading="f̂ cosine",
    range=(-1, 1),
    better=1,
    shown="rows",
    formula="f̂_a·f̂_b / (‖f̂_a‖‖f̂_b‖) of the last feature maps",
    unit="[−1, 1]",
)
def fhat_cosine(f_hat_a: np.ndarray, f_hat_b: np.ndarray) -> float | None:
    """Cosine of the angle between the last feature maps."""
    return cosine(f_hat_a, f_hat_b)


@register(
    "metric",
    "identical",
    heading="identical",
    range=(0, 1),
    better=1,
    average="count",
    shown="rows",
    values="bool",
    against_own=True,
    formula="every token equal to the own baseline's",
)
def identical(tokens_a: Tokens, tokens_b: Tokens, pyramid: Pyramid) -> bool:
    """Images whose tokens all equal the own baseline's."""
    return bool(np.array_equal(flat_tokens(tokens_a, pyramid), flat_tokens(tokens_b, pyramid)))


@register(
    "metric",
    "near_tie",
    heading="near-tie",
    average="none",
    shown="rows",
    values="bool",
    against_own=True,
    formula="they differ, and at the first divergent stage each token that differs was within 1e-4 of another one: rounding "
    "([footguns](footguns.md))",
    unit="false in float64",
)
def near_tie(tokens_a: np.ndarray, tokens_b: np.ndarray, close_b: np.ndarray, pyramid: Pyramid) -> bool:
    """Whether rounding alone explains the difference of the tokens (L,).

    Every divergent token of the first divergent stage was close to being another one; what follows from them, in later
    stages, needs no excuse of its own. False for equal tokens, and where a has none.
    """
    different = tokens_a != tokens_b
    if not different.any():
        return False
    first = pyramid.stage_of[int(different.argmax())]
    here = pyramid.rows(first, first + 1)
    return bool((close_b & (tokens_a != SKIPPED))[here][different[here]].all())


@register("metric", "value_min", heading="least value", average="none", shown="rows", formula="least value of a", unit="[0, 1]")
def value_min(image_a: np.ndarray) -> float:
    """Least value of the image."""
    return float(image_a.min())


@register(
    "metric", "value_max", heading="greatest value", average="none", shown="rows", formula="greatest value of a", unit="[0, 1]"
)
def value_max(image_a: np.ndarray) -> float:
    """Greatest value of the image."""
    return float(image_a.max())


@register(
    "metric",
    "baseline_min",
    heading="least value of the baseline",
    average="none",
    shown="rows",
    formula="least value of b",
    unit="[0, 1]",
)
def baseline_min(image_b: np.ndarray) -> float:
    """Least value of the baseline's image."""
    return float(image_b.min())


@register(
    "metric",
    "baseline_max",
    heading="greatest value of the baseline",
    average="none",
    shown="rows",
    formula="greatest value of b",
    unit="[0, 1]",
)
def baseline_max(image_b: np.ndarray) -> float:
    """Greatest value of the baseline's image."""
    return float(image_b.max())


@register(
    "metric",
    "predicted_class",
    heading="predicted class",
    digits=0,
    average="none",
    shown="rows",
    values="int",
    formula="class that the shipped classifier sees in a",
    unit="null for models without a classifier",
)
def predicted_class(predicted_a: int) -> int:
    """Class that the shipped classifier sees."""
    return predicted_a


@register(
    "metric",
    "class_correct",
    heading="class correct",
    average="count",
    shown="rows",
    values="bool",
    formula="whether it is the label",
    unit="null for models without a classifier",
)
def class_correct(predicted_a: int, label: int) -> bool:
    """Whether the classifier sees the class that was asked for."""
    return predicted_a == label


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
