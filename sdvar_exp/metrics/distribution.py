"""Distances between sets of images, in the features of a network: Fréchet, kernel (KID), precision and recall.

Fréchet distance (Heusel et al., arXiv 1706.08500) and kernel distance (Bińkowski et al., 1801.01401) are torchmetrics';
its image networks are replaced by features that were computed when the images were made. Precision and recall are those
of Kynkäänniemi et al. (1904.06991): the share of one set's points within the other's manifold, which is the union of balls
around its points that reach to their k-th neighbour.

Intervals: the metric of `REPLICATES` subsamples of the units, `SHARE` of each label drawn without replacement; their spread,
scaled, estimates the standard error (delete-d jackknife, Shao and Wu 1989), and the value keeps its place in the middle. The
percentile bootstrap will not do: repeated points move all four metrics by more than the interval is wide (docs/LOG.md). The
statement is about other draws of the samples; the set they are compared with is fixed, but where it is paired with them.
Everything is seeded; torch is imported when something is computed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

REPLICATES, SHARE = 40, 0.8
FRECHET_PER_FEATURE = 10  # samples per feature; fewer make the covariance, and so the distance, mostly bias
MANIFOLD_FROM = 100
LARGEST_SUBSET = 1000
NEIGHBOURS = 3
WEIGHTS = Path(__file__).resolve().parent.parent / "models" / "weights"


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval and the number of samples, or `refused` with the reason (then the rest is None)."""

    n: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    refused: str = ""


@lru_cache(maxsize=2)
def test_features(folder: Path = WEIGHTS) -> tuple[np.ndarray, np.ndarray, str]:
    """Features (M, d) float32 and labels of the test set that a pair of the package has, and its classifier's SHA-256.

    folder: of the pair; the embedded one has 10,000 test images.
    """
    import json

    from safetensors.numpy import load_file

    arrays = load_file(folder / "test_features.safetensors")
    about = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
    return arrays["features"].astype(np.float32), arrays["labels"].astype(np.int64), str(about["sha256"])


def test_features_of(digest: str) -> tuple[np.ndarray, np.ndarray, str] | None:
    """`test_features` of the pair whose classifier has this SHA-256, so that no set is compared with another pair's data."""
    import json

    for about in (WEIGHTS / "classifier.json", *sorted(WEIGHTS.glob("*/classifier.json"))):
        if about.is_file() and json.loads(about.read_text(encoding="utf-8"))["sha256"] == digest:
            return test_features(about.parent)
    return None


def frechet(a_Nd: np.ndarray, b_Md: np.ndarray) -> float:
    """|μ_a-μ_b|² + tr(Σ_a + Σ_b - 2(Σ_aΣ_b)^½), by torchmetrics in float64."""
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_given(a_Nd.shape[1]), normalize=True).set_dtype(torch.float64)
    metric.update(torch.from_numpy(a_Nd.astype(np.float64)), real=False)
    metric.update(torch.from_numpy(b_Md.astype(np.float64)), real=True)
    return float(metric.compute())


def kernel_distance(a_Nd: np.ndarray, b_Md: np.ndarray, subset: int, subsets: int = 10, seed: int = 0) -> float:
    """Unbiased squared MMD with the kernel (x·y/d + 1)³, mean over `subsets` random subsets, by torchmetrics."""
    rng = np.random.Generator(np.random.Philox(key=[0x1D, seed]))
    subsets = 1 if subset == len(a_Nd) == len(b_Md) else subsets
    pairs = [(rng.permutation(len(a_Nd))[:subset], rng.permutation(len(b_Md))[:subset]) for _ in range(subsets)]
    return float(np.mean([_kernel_distance(a_Nd[i], b_Md[j]) for i, j in pairs]))


def paired_kernel_distance(a_nd: np.ndarray, b_nd: np.ndarray) -> float:
    """The same for sets that belong together row by row: row i is not compared with its own twin.

    Eq. 4 of Gretton et al. (JMLR 13, 2012), the mean over i ≠ j of k(a_i,a_j) + k(b_i,b_j) - k(a_i,b_j) - k(a_j,b_i). Twins
    are alike, so with their products the estimate would be far below zero for sets of one distribution.
    """
    a, b = a_nd.astype(np.float64), b_nd.astype(np.float64)
    n, d = a.shape
    h = (a @ a.T / d + 1) ** 3 + (b @ b.T / d + 1) ** 3 - 2 * (a @ b.T / d + 1) ** 3
    return float((h.sum() - np.trace(h)) / (n * (n - 1)))


def _kernel_distance(a_nd: np.ndarray, b_nd: np.ndarray) -> float:
    """Of two sets of one size; torchmetrics then draws one subset, the sets themselves in another order."""
    import torch
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # that features take memory
        metric = KernelInceptionDistance(feature=_given(a_nd.shape[1]), subsets=1, subset_size=len(a_nd), normalize=True)
        metric.update(torch.from_numpy(a_nd.astype(np.float32)), real=False)
        metric.update(torch.from_numpy(b_nd.astype(np.float32)), real=True)
        return float(metric.compute()[0])


def precision_recall(a_Nd: np.ndarray, real_Md: np.ndarray, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Share of samples within the real manifold, and of real points within the samples' (equal sizes are advised)."""
    import torch

    a, real = (torch.from_numpy(x.astype(np.float32)) for x in (a_Nd, real_Md))
    return _covered(a, real, k), _covered(real, a, k)


def coverage(points_Nd: np.ndarray, manifold_Md: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Share of points within the manifold of a set: recall, if the points are real and the set is of samples."""
    import torch

    return _covered(torch.from_numpy(points_Nd.astype(np.float32)), torch.from_numpy(manifold_Md.astype(np.float32)), k)


def nearest(points_Nd: np.ndarray, chunks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Index of, and Euclidean distance to, each point's nearest row of a set that comes in chunks (M, d); (N,) each."""
    import torch

    points = torch.from_numpy(points_Nd.astype(np.float32))
    best = torch.full((len(points),), torch.inf)
    index, start = torch.zeros(len(points), dtype=torch.int64), 0
    for chunk in chunks:
        distance, where = torch.cdist(points, torch.from_numpy(chunk.astype(np.float32))).min(1)
        closer = distance < best
        best, index = torch.where(closer, distance, best), torch.where(closer, where + start, index)
        start += len(chunk)
    return index.numpy(), best.numpy()


def _covered(points: Any, manifold: Any, k: int) -> float:
    import torch

    within = torch.cat([torch.cdist(part, manifold).kthvalue(k + 1).values for part in manifold.split(2000)])
    inside = [(torch.cdist(part, manifold) <= within).any(1) for part in points.split(2000)]
    return float(torch.cat(inside).double().mean())


@lru_cache(maxsize=4)
def _given(width: int) -> Any:
    """An extractor that gives back what it is given: the features themselves."""
    from torch import nn

    module = nn.Identity()
    module.num_features = width  # type: ignore[assignment]
    return module


def subsample(labels_N: np.ndarray, replicate: int, share: float = SHARE) -> np.ndarray:
    """Sorted indices of a random `share` of each label's units, drawn without replacement; the same for one replicate."""
    rng = np.random.Generator(np.random.Philox(key=[0x5D, replicate]))
    parts = [rng.permutation(np.flatnonzero(labels_N == y)) for y in np.unique(labels_N)]
    fair = np.floor([p.size * share + (k + replicate) % len(parts) / len(parts) for k, p in enumerate(parts)]).astype(int)
    return np.sort(np.concatenate([p[:size] for p, size in zip(parts, fair, strict=True)]))


def evenly(labels_M: np.ndarray, n: int) -> np.ndarray:
    """n indices spread over the labels as the set itself is."""
    order = np.argsort(labels_M, kind="stable")
    return order[np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(np.int64)]


def in_the_mix_of(labels_N: np.ndarray, labels_M: np.ndarray) -> np.ndarray:
    """Indices into a set of images with labels (M,) after which its labels come as often as those of (N,).

    For moments: every image is taken, many times where the mixes differ, as those of a test set with classes of unequal size
    do from samples of as many a class. A set without some label of (N,) is taken as it is.
    """
    (wanted, n), (known, m) = (np.unique(labels, return_counts=True) for labels in (labels_N, labels_M))
    if not np.array_equal(wanted, known) or np.array_equal(n * len(labels_M), m * len(labels_N)):
        return np.arange(len(labels_M))
    times = 8 * np.max(m / n)  # eight rows for each image of the class that needs the fewest
    return np.concatenate([np.resize(np.flatnonzero(labels_M == y), round(times * k)) for y, k in zip(wanted, n, strict=True)])


def compare(
    features_Nd: np.ndarray, labels_N: np.ndarray, other_Md: np.ndarray, other_labels_M: np.ndarray, paired: bool = False
) -> dict[str, Estimate]:
    """`fd`, `kid`, `precision`, `recall` of a set of images against another, with intervals or the reason for refusal.

    `fd` weighs the other set's images so that its labels come as often as the first one's.

    paired: the sets belong together row by row (samples and their baselines); subsamples are then drawn together.
    """
    n, d = features_Nd.shape
    if n < MANIFOLD_FROM:
        reason = f"needs at least {MANIFOLD_FROM} samples, there are {n}"
        return {name: Estimate(n, refused=reason) for name in ("fd", "kid", "precision", "recall")}
    if len(other_Md) < MANIFOLD_FROM:
        reason = f"needs at least {MANIFOLD_FROM} images to compare with, there are {len(other_Md)}"
        return {name: Estimate(n, refused=reason) for name in ("fd", "kid", "precision", "recall")}

    same_size = other_Md[evenly(other_labels_M, n)]
    chosen = [subsample(labels_N, r) for r in range(REPLICATES)]
    out: dict[str, Estimate] = {}
    if n < FRECHET_PER_FEATURE * d:
        out["fd"] = Estimate(
            n,
            refused=f"needs at least {FRECHET_PER_FEATURE * d} samples in {d} features, there are {n}: its "
            "bias would exceed most differences",
        )
    else:
        mixed_Md = other_Md if paired else other_Md[in_the_mix_of(labels_N, other_labels_M)]
        again = [(c.size, frechet(features_Nd[c], other_Md[c] if paired else mixed_Md)) for c in chosen]
        out["fd"] = _estimate(frechet(features_Nd, mixed_Md), n, again)
    subset = min(n, len(other_Md), LARGEST_SUBSET)
    smaller = min(min(c.size for c in chosen), subset)
    if paired:
        again = [(c.size, paired_kernel_distance(features_Nd[c], other_Md[c])) for c in chosen]
        out["kid"] = _estimate(paired_kernel_distance(features_Nd, other_Md), n, again)
    else:
        again = [(c.size, kernel_distance(features_Nd[c], other_Md, smaller, 2)) for c in chosen]
        out["kid"] = _estimate(kernel_distance(features_Nd, other_Md, subset), n, again)
    both, fewer = precision_recall(features_Nd, same_size), min(SHARE, LARGEST_SUBSET / n)
    chosen = chosen if fewer == SHARE else [subsample(labels_N, r, fewer) for r in range(REPLICATES)]
    pairs = [
        (
            c.size,
            precision_recall(features_Nd[c], other_Md[c] if paired else same_size[evenly(np.arange(len(same_size)), c.size)]),
        )
        for c in chosen
    ]
    for i, name in enumerate(("precision", "recall")):
        out[name] = _estimate(both[i], n, [(m, pair[i]) for m, pair in pairs], 0.0, 1.0)
    return out


def _estimate(value: float, n: int, again: list[tuple[int, float]], least: float = -np.inf, most: float = np.inf) -> Estimate:
    """Value ± t · standard error, from the metric of subsamples: (size m, value), their own bias left out.

    The variance among subsamples of m of n, without replacement, is that of m new draws times (n-m)/n; a metric whose
    variance falls as 1/n therefore has at n the variance among subsamples times m/(n-m).
    """
    m = float(np.mean([size for size, _ in again]))
    error = np.std([x for _, x in again], ddof=1) * np.sqrt(m / (n - m))
    reach = float(special.stdtrit(len(again) - 1, 0.975) * error)
    return Estimate(n, value, max(value - reach, least), min(value + reach, most))
