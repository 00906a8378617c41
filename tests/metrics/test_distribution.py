"""Distances between sets of images against closed forms, and their intervals against repeated draws."""

from __future__ import annotations

import numpy as np
import pytest

from sdvar_exp.metrics.distribution import (
    compare,
    evenly,
    frechet,
    in_the_mix_of,
    kernel_distance,
    nearest,
    paired_kernel_distance,
    precision_recall,
    subsample,
)


def gaussian(n: int, d: int = 8, mean: float = 0.0, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(key=seed))
    return (mean + scale * rng.standard_normal((n, d))).astype(np.float32)


def test_frechet_is_its_formula() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.Generator(np.random.Philox(key=3))
    a = rng.standard_normal((400, 5)) @ rng.standard_normal((5, 5))
    b = rng.standard_normal((300, 5)) @ rng.standard_normal((5, 5)) + 0.5
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    want = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert frechet(a, b) == pytest.approx(want, rel=1e-6)
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_is_its_formula_and_unbiased() -> None:
    a, b = gaussian(60, 4, seed=1), gaussian(60, 4, mean=0.3, seed=2)
    k = lambda x, y: (x @ y.T / 4 + 1) ** 3  # noqa: E731
    off = ~np.eye(60, dtype=bool)
    want = k(a, a)[off].mean() + k(b, b)[off].mean() - 2 * k(a, b).mean()
    assert kernel_distance(a, b, subset=60, subsets=1) == pytest.approx(want, rel=1e-4)
    same = [kernel_distance(gaussian(100, seed=s), gaussian(100, seed=s + 500), 100, 1) for s in range(60)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(60), "of one distribution it is zero on average"


def test_precision_and_recall_of_literal_sets() -> None:
    """Points on a line, k = 1: balls of radius 1 around 0 … 9."""
    real = np.arange(10, dtype=np.float32)[:, None]
    inside = np.array([[0.4], [3.2], [8.9]], np.float32)  # neighbours among these: 2.8, 2.8, 5.7
    outside = np.array([[20.0], [21.0], [22.0]], np.float32)
    precision, recall = precision_recall(inside, real, k=1)
    assert precision == 1.0 and recall == 1.0
    assert precision_recall(outside, real, k=1) == (0.0, 0.0)
    mixed = np.concatenate([inside, outside])
    precision, recall = precision_recall(mixed, real, k=1)
    assert precision == 0.5 and recall == 1.0
    collapsed = np.array([[4.0], [4.01], [4.02]], np.float32)  # precise, one mode: balls of 0.01 around 4
    assert precision_recall(collapsed, real, k=1) == (1.0, 0.1)


def test_subsamples_are_a_share_of_every_label_and_fixed() -> None:
    labels = np.repeat([0, 1, 2], [10, 5, 5])
    chosen = subsample(labels, 7)
    assert np.bincount(labels[chosen]).tolist() == [8, 4, 4] and len(set(chosen)) == 16
    assert np.array_equal(chosen, subsample(labels, 7)) and not np.array_equal(chosen, subsample(labels, 8))
    few = [subsample(np.arange(10), r).size for r in range(20)]
    assert 7 <= np.mean(few) <= 9, "labels with one unit each take turns"
    assert np.bincount(labels[evenly(labels, 12)]).tolist() == [6, 3, 3]


def test_too_few_samples_are_refused_with_the_reason() -> None:
    few = compare(gaussian(40), np.arange(40) % 10, gaussian(500, seed=1), np.arange(500) % 10)
    assert all(e.value is None and "needs at least 100 samples, there are 40" in e.refused for e in few.values())
    some = compare(gaussian(120, 64), np.arange(120) % 10, gaussian(500, 64, seed=1), np.arange(500) % 10)
    assert some["fd"].value is None and "needs at least 640 samples in 64 features, there are 120" in some["fd"].refused
    assert some["kid"].value is not None and some["precision"].value is not None


def test_the_error_of_a_mean_is_right() -> None:
    """A shift in one feature alone: the error of the Fréchet distance is that of its formula, 2·shift·σ/√n."""
    found = compare(gaussian(1000, 1, mean=3.0, seed=5), np.arange(1000) % 10, gaussian(4000, 1, seed=6), np.arange(4000) % 10)
    fd = found["fd"]
    error = (fd.high - fd.low) / 2 / 2.02  # t with 39 degrees of freedom
    assert error == pytest.approx(2 * 3 / np.sqrt(1000), rel=0.35)


def test_nearest_in_chunks_is_nearest() -> None:
    a, b = gaussian(20, seed=1), gaussian(50, seed=2)
    index, distance = nearest(a, [b[:7], b[7:30], b[30:]])
    every = np.linalg.norm(a[:, None] - b[None], axis=2)
    assert np.array_equal(index, every.argmin(1)) and distance == pytest.approx(every.min(1), rel=1e-4)


@pytest.mark.long
def test_intervals_cover_what_other_draws_give() -> None:
    """Distances of 200 samples to a fixed set: the 95 % interval holds the mean over draws in 85 % of 30 draws or more."""
    real, labels, real_labels = gaussian(600, seed=99), np.arange(200) % 10, np.arange(600) % 10
    draws = [gaussian(200, mean=0.2, seed=1000 + s) for s in range(30)]
    found = [compare(x, labels, real, real_labels) for x in draws]
    for name in ("fd", "kid", "precision", "recall"):
        estimates = [f[name] for f in found]
        truth = np.mean([e.value for e in estimates])
        assert np.mean([e.low <= truth <= e.high for e in estimates]) >= 0.85, name


def test_twins_do_not_pull_the_kernel_distance_below_zero() -> None:
    """Rows and their twins of one distribution, correlated 0.8: zero on average; with the twins' products it is not."""
    apart, together = [], []
    for seed in range(60):
        a = gaussian(100, seed=seed)
        b = (0.8 * a + 0.6 * gaussian(100, seed=seed + 500)).astype(np.float32)
        apart.append(paired_kernel_distance(a, b))
        together.append(kernel_distance(a, b, 100, 1))
    assert abs(np.mean(apart)) < 4 * np.std(apart) / np.sqrt(60)
    assert np.mean(together) < -4 * np.std(together) / np.sqrt(60), "negative control"
    other = gaussian(100, mean=0.5, seed=9)
    assert paired_kernel_distance(gaussian(100, seed=1), other) == pytest.approx(
        kernel_distance(gaussian(100, seed=1), other, 100, 1), rel=0.15
    ), "strangers: both estimate the same"


def test_a_test_set_of_another_mix_of_classes_is_weighed_like_the_samples() -> None:
    """Moments of 30 and 10 images of two classes are those of equal shares; a set of the samples' mix is taken as it is."""
    labels, features = np.repeat([0, 1], [30, 10]), np.repeat([[0.0, 1.0], [4.0, 3.0]], [30, 10], axis=0)
    even = np.tile([0, 1], 20)
    chosen = in_the_mix_of(even, labels)
    assert set(chosen) == set(range(40)) and np.bincount(labels[chosen]).tolist() == [240, 240]
    assert features[chosen].mean(0).tolist() == [2.0, 2.0]
    for samples in (np.repeat([0, 1], [3, 1]), np.zeros(5, np.int64), np.array([0, 1, 2])):
        assert in_the_mix_of(samples, labels).tolist() == list(range(40)), "the same mix, or labels that are not both known"
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(2, 400, 2)) + np.array([[[0.0, 0.0]], [[6.0, 0.0]]])
    real, real_labels = np.concatenate([kinds[0, :300], kinds[1, :60]]), np.repeat([0, 1], [300, 60])
    made, made_labels = np.concatenate([kinds[0, 300:], kinds[1, 300:]]), np.repeat([0, 1], 100)
    assert compare(made, made_labels, real, real_labels)["fd"].value < 0.3 < 3 < frechet(made, real)
