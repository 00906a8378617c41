"""Do intervals of set distances cover? Subsamples against the percentile bootstrap, on the shipped test features.

    python -m benchmarks.set_intervals [DRAWS]

Half of the features, slightly changed, is a population to draw samples from, the other half the real data.
Prints, for each metric and kind of interval, the share of draws whose 95 % interval holds the mean over draws, and the
width relative to what the spread between draws asks for (about 1.04 with 30 replicates).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import numpy as np
from scipy.stats import t

from sdvar_exp.metrics.distribution import evenly, frechet, kernel_distance, precision_recall, test_features

N, REPLICATES = 500, 30
log = logging.getLogger(__name__)
Metric = Callable[[np.ndarray, np.ndarray], float]
METRICS: dict[str, Metric] = {
    "fd": frechet,
    "kid": lambda a, b: kernel_distance(a, b, min(len(a), len(b)), 2),
    "precision": lambda a, b: precision_recall(a, b)[0],
    "recall": lambda a, b: precision_recall(a, b)[1],
}


def within_labels(rng: np.random.Generator, labels: np.ndarray, each: int, replace: bool) -> np.ndarray:
    """Indices of `each` random units of every label."""
    return np.concatenate([rng.choice(np.flatnonzero(labels == y), each, replace=replace) for y in np.unique(labels)])


def intervals(metric: Metric, a: np.ndarray, labels: np.ndarray, real: np.ndarray, seed: int) -> dict[str, tuple[float, float]]:
    """95 % intervals of one draw, by kind."""
    rng, value, out = np.random.default_rng(seed), metric(a, real), {}
    for name, share in (("80 %", 0.8), ("halves", 0.5)):
        each = round(N // 10 * share)
        again = [metric(a[within_labels(rng, labels, each, False)], real) for _ in range(REPLICATES)]
        reach = t.ppf(0.975, REPLICATES - 1) * np.std(again, ddof=1) * np.sqrt(share / (1 - share))
        out[name] = (value - reach, value + reach)
    again = [metric(a[within_labels(rng, labels, N // 10, True)], real) for _ in range(REPLICATES)]
    low, high = np.quantile(again, [0.025, 0.975])
    return out | {"bootstrap": (float(low), float(high))}


def main(draws: int) -> None:
    features, labels, _ = test_features()
    order = np.random.default_rng(0).permutation(len(features))
    half = len(order) // 2
    population, labels_p = np.maximum(features[order[:half]] * 1.08 - 0.05, 0), labels[order[:half]]
    real, labels_r = features[order[half:]], labels[order[half:]]
    for name, metric in METRICS.items():
        other = real if name == "fd" else real[evenly(labels_r, N)]
        chosen = [within_labels(np.random.default_rng(1000 + r), labels_p, N // 10, False) for r in range(draws)]
        values = np.array([metric(population[c], other) for c in chosen])
        found = [intervals(metric, population[c], labels_p[c], other, r) for r, c in enumerate(chosen)]
        for kind in found[0]:
            held = np.mean([f[kind][0] <= values.mean() <= f[kind][1] for f in found])
            width = np.mean([f[kind][1] - f[kind][0] for f in found]) / (2 * 1.96 * values.std(ddof=1))
            log.info("%-9s %-9s holds %5.1f %%, width %.2f", name, kind, 100 * held, width)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
