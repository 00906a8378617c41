"""Tables of docs/STUDY.md: quality of each schedule's images, and paired differences between schedules.

    python scripts/study.py keep results/sandwich     # the features of its images, into results/study/features.npz
    python scripts/study.py tables                    # quality.csv and differences.csv of what was kept

Units (label, seed) are those that every kept cell has. Rows are token-forwards of the target: exact, not measured.
Intervals (95 %): class accuracy, a proportion within labels; Fréchet distance, a delete-d jackknife over units, as
`sdvar-exp quality` has it; differences pair the images of one label and seed, which share their noise.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

KEPT = Path(__file__).resolve().parent.parent / "results" / "study"


def keep(study: Path, out: Path, first: int, seeds: int) -> None:
    """Write names, rows, labels, classes seen and features (float16, as the ledger has them) of the study's complete cells."""
    from sdvar_exp.report.summary import summarise
    from sdvar_exp.store import load_tables
    from sdvar_exp.store.features import read_features
    from sdvar_exp.store.manifest import read_cells

    chosen = range(first, first + seeds)
    loaded = load_tables(study, stages=False)
    samples = loaded.samples[loaded.samples["seed"].isin(list(chosen))]
    summary = summarise(replace(loaded, samples=samples)).set_index("cell")
    found = read_features(study, {(label, seed) for label in range(10) for seed in chosen})
    cells = sorted((c for c in found if len(found[c].labels) == 10 * seeds), key=lambda c: read_cells(study)[c]["order"])
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out,
        names=np.array([summary.loc[c, "name"].removesuffix(" B=25") for c in cells]),
        rows=np.array([summary.loc[c, "target_token_forwards"] for c in cells]),
        pixel_mae=np.array([summary.loc[c, "pixel_mae"] for c in cells]),
        labels=found[cells[0]].labels.astype(np.int8),
        predicted=np.array([found[c].predicted for c in cells], np.int8),
        features=np.stack([found[c].features for c in cells]).astype(np.float16),
        seeds=np.array([first, seeds]),
    )


def tables(kept: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Quality of each cell by rows, and differences A - B of every pair, from features that `keep` wrote."""
    from sdvar_exp.metrics import mean_interval
    from sdvar_exp.metrics.distribution import REPLICATES, _estimate, frechet, subsample, test_features
    from sdvar_exp.metrics.proportion import proportion_interval

    with np.load(kept) as file:
        data = {name: file[name] for name in file.files}
    real, labels, n = test_features()[0], data["labels"].astype(int), len(data["labels"])
    features = data["features"].astype(np.float32)
    right = (data["predicted"] == data["labels"]).astype(float)
    chosen = [subsample(labels, r) for r in range(REPLICATES)]
    fd = [frechet(f, real) for f in features]
    again = [[frechet(f[c], real) for c in chosen] for f in features]
    sizes = [c.size for c in chosen]

    quality: list[dict[str, Any]] = []
    for i in np.argsort(-data["rows"], kind="stable"):
        accuracy = proportion_interval(right[i].tolist(), labels.tolist())
        distance = _estimate(fd[i], n, list(zip(sizes, again[i], strict=True)))
        quality.append(
            {"schedule": data["names"][i], "n": n, "rows": data["rows"][i], "pixel_mae": data["pixel_mae"][i]}
            | {"class_accuracy": accuracy.mean, "class_accuracy_low": accuracy.low, "class_accuracy_high": accuracy.high}
            | {"fd_real": fd[i], "fd_real_low": distance.low, "fd_real_high": distance.high}
        )
    differences: list[dict[str, Any]] = []
    for i, j in combinations(np.argsort(-data["rows"], kind="stable"), 2):
        accuracy = mean_interval((right[i] - right[j]).tolist(), labels.tolist())
        apart = [(m, a - b) for m, a, b in zip(sizes, again[i], again[j], strict=True)]
        distance = _estimate(fd[i] - fd[j], n, apart)
        differences.append(
            {"a": data["names"][i], "b": data["names"][j], "n": n, "rows": data["rows"][i] - data["rows"][j]}
            | {"class_accuracy": accuracy.mean, "class_accuracy_low": accuracy.low, "class_accuracy_high": accuracy.high}
            | {"fd_real": fd[i] - fd[j], "fd_real_low": distance.low, "fd_real_high": distance.high}
        )
    return pd.DataFrame(quality), pd.DataFrame(differences)


def main(argv: list[str]) -> int:
    """Run one of the two actions; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("keep", "tables"))
    parser.add_argument("study", nargs="?", type=Path, default=Path("results/sandwich"))
    parser.add_argument("--first", type=int, default=10_000, help="first seed (default: 10000)")
    parser.add_argument("--seeds", type=int, default=75, help="seeds a label (default: 75)")
    parser.add_argument("--out", type=Path, default=KEPT, help="folder of the kept tables")
    asked = parser.parse_args(argv)
    if asked.action == "keep":
        keep(asked.study, asked.out / "features.npz", asked.first, asked.seeds)
    for name, table in zip(("quality", "differences"), tables(asked.out / "features.npz"), strict=True):
        table.round(6).to_csv(asked.out / f"{name}.csv", index=False, lineterminator="\n")
        print(table.round(3).to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
