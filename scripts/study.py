"""Tables of docs/STUDY.md: quality of each schedule's images, and paired differences between schedules.

    python scripts/study.py keep results/sandwich          # the features of its images, into results/study/features.npz
    python scripts/study.py times results/sandwich-time …  # speed-ups of one study or more, into times.csv
    python scripts/study.py ablation results/ablation      # ablation.csv by cell, and passes.csv by rule and stage
    python scripts/study.py search results/search          # search.csv: the cells of a search and their front
    python scripts/study.py tables                         # quality.csv, differences.csv and predicted.csv of what was kept
    python scripts/readme.py                               # then the tables and the picture of README.md and docs/STUDY.md

Units (label, seed) are those that every kept cell has. Rows are token-forwards of the target: exact, not measured.
Intervals (95 %): class accuracy, a proportion within labels; Fréchet distance, a delete-d jackknife over units, as
`sdvar-exp quality` has it; differences pair the images of one label and seed, which share their noise.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

OFFICIAL = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
PREDICTED = ("T5D5", "T6D4", "T7D3", "T8D2", "T5D4t1", "T6D3t1", "T6D3T1", "T7D2t1", "T7D2T1")
"""Schedules whose speed-up at official sizes is predicted."""
KEPT = Path(__file__).resolve().parent.parent / "results" / "study"


ALIKE = "|".join(
    (
        " candidates=0",
        " proposer=draft",
        " block_causal",
        r" linear\b(?! cfg=3)",
        r" cfg=1\.5",
        " top_k=0 top_p=0",
        " (?:embedded|emoji)$",
    )
)
"""Parts of the names of `experiment=ablation` that all cells share but those that vary them."""
SUMMARISED = ("target_calls", "target_token_forwards", "pixel_mae")


def schedule(name: str) -> str:
    """A cell's name without what all cells of the study share."""
    plain = re.sub(r" B=\d+| linear| emoji\b| auto\b", "", name).replace("cfg=off", "off")
    return re.sub(r" embedded_late(.*)", r"\1 draft=late", plain).replace(" embedded ", " ").removesuffix(" embedded")


def ablation(study: Path, out: Path) -> None:
    """Write calls, rows and pixel difference of each cell, and how often each rule passes a stage."""
    from sdvar_exp.report.summary import summarise
    from sdvar_exp.store import load_tables

    loaded = load_tables(study)
    summary = summarise(loaded)
    intervals = [f"{key}{end}" for key in SUMMARISED for end in ("", "_low", "_high")]
    wanted = ["name", "n", *intervals, "mean_acceptance_length", "identical", "compared"]
    named = summary.assign(name=summary["name"].str.replace(ALIKE, "", regex=True))
    named[wanted].round(5).to_csv(out / "ablation.csv", index=False, lineterminator="\n")
    stages = loaded.stages.dropna(subset=["passed"])
    passed = stages.assign(passed=stages["passed"].astype(float)).pivot_table("passed", "cell", "stage")
    passed.insert(0, "name", named.set_index("cell")["name"])
    passed.round(4).to_csv(out / "passes.csv", index=False, lineterminator="\n")


def times(studies: list[Path], out: Path) -> None:
    """Write the speed-up of each schedule that was timed, with its interval, number of images and processor."""
    from sdvar_exp.store.state import read_rows

    tables = [timed(one).assign(processor=read_rows(one).sessions[-1]["hardware"]["processor"]) for one in studies]
    pd.concat(tables).round(6).to_csv(out / "times.csv", index=False, lineterminator="\n")


def timed(study: Path) -> pd.DataFrame:
    """The speed-up of each schedule that was timed, with its interval and number of images."""
    from sdvar_exp.report.summary import summarise
    from sdvar_exp.store import load_tables

    summary = summarise(load_tables(study, stages=False))
    table = summary.loc[summary["timed"] > 0, ["name", "timed", "speedup", "speedup_low", "speedup_high"]]
    return table.assign(name=table["name"].map(schedule)).rename(columns={"name": "schedule"})


def predicted() -> pd.DataFrame:
    """Speed-up over the target alone at official sizes by the roofline, one image, bfloat16: derived, not measured."""
    from sdvar_exp.cell import Cell, Unit
    from sdvar_exp.decoding import decode
    from sdvar_exp.decoding.cost import HARDWARE, roofline_decode_ms
    from sdvar_exp.models.pair import load_pair
    from sdvar_exp.pyramid import Pyramid
    from sdvar_exp.registry import choose

    pair, pyramid = load_pair(), Pyramid(OFFICIAL)

    def passes(stages: str) -> Any:
        cell = Cell(choose("strategy", "model_schedule", stages=stages), choose("cfg_schedule", "linear", cfg=1.5))
        return decode(pair, cell.normalised(), [Unit(0, 0)]).passes

    made = {stages: passes(stages) for stages in ("T10", *PREDICTED)}
    rows = []
    for draft in (16, 20):
        for device in HARDWARE.values():
            ms = {s: roofline_decode_ms(device, {"target": 30, "draft": draft}, pyramid, p) for s, p in made.items()}
            speed = {s: ms["T10"] / ms[s] for s in PREDICTED}
            rows.append({"device": device.name, "pair": f"d{draft}/d30", "target_ms": ms["T10"]} | speed)
    return pd.DataFrame(rows)


def keep(study: Path, out: Path, first: int, seeds: int) -> None:
    """Write names, rows, labels, classes seen and features (float16, as the ledger has them) of the study's complete cells.

    Complete: with every label of the study. Also the SHA-256 of the classifier, which says whose test set they belong to.
    """
    from sdvar_exp.report.summary import summarise
    from sdvar_exp.store import load_tables
    from sdvar_exp.store.features import read_features
    from sdvar_exp.store.manifest import read_cells

    chosen = range(first, first + seeds)
    loaded = load_tables(study, stages=False)
    samples = loaded.samples[loaded.samples["seed"].isin(list(chosen))]
    summary = summarise(replace(loaded, samples=samples)).set_index("cell")
    found = read_features(study, set(product(samples["label"].unique().tolist(), chosen)))
    units = samples["label"].nunique() * seeds
    whole = sorted((c for c in found if len(found[c].labels) == units), key=lambda c: read_cells(study)[c]["order"])
    if len({found[c].digest for c in whole}) != 1:
        raise SystemExit(f"error: {study} needs cells with {units} images each, all seen by the classifier of one pair")
    cells = list({schedule(summary.loc[c, "name"]): c for c in reversed(whole)}.values())[::-1]  # B = 1 beside lockstep: one
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out,
        names=np.array([schedule(summary.loc[c, "name"]) for c in cells]),
        rows=np.array([summary.loc[c, "target_token_forwards"] for c in cells]),
        pixel_mae=np.array([summary.loc[c, "pixel_mae"] for c in cells]),
        labels=found[cells[0]].labels.astype(np.int8),
        predicted=np.array([found[c].predicted for c in cells], np.int8),
        features=np.stack([found[c].features for c in cells]).astype(np.float16),
        seeds=np.array([first, seeds]),
        classifier=np.array(found[cells[0]].digest),
    )


def tables(kept: Path, pairs: bool = True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Quality of each cell by rows, and differences A - B of every two (unless without `pairs`), from what `keep` wrote.

    Distances are to the test set of the pair that the features are of; a file that names no classifier is of the embedded one.
    """
    from sdvar_exp.metrics import mean_interval
    from sdvar_exp.metrics.distribution import (
        REPLICATES,
        _estimate,
        frechet,
        in_the_mix_of,
        subsample,
        test_features,
        test_features_of,
    )
    from sdvar_exp.metrics.proportion import proportion_interval

    with np.load(kept) as file:
        data = {name: file[name] for name in file.files}
    data_set = test_features_of(str(data["classifier"])) if "classifier" in data else test_features()
    if data_set is None:
        raise SystemExit(f"error: {kept} is of another classifier than a shipped pair's: decode its study again")
    labels, n = data["labels"].astype(int), len(data["labels"])
    known = np.isin(data_set[1], labels)
    real = data_set[0][known][in_the_mix_of(labels, data_set[1][known])]
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
    for i, j in combinations(np.argsort(-data["rows"], kind="stable"), 2) if pairs else ():
        accuracy = mean_interval((right[i] - right[j]).tolist(), labels.tolist())
        apart = [(m, a - b) for m, a, b in zip(sizes, again[i], again[j], strict=True)]
        distance = _estimate(fd[i] - fd[j], n, apart)
        differences.append(
            {"a": data["names"][i], "b": data["names"][j], "n": n, "rows": data["rows"][i] - data["rows"][j]}
            | {"class_accuracy": accuracy.mean, "class_accuracy_low": accuracy.low, "class_accuracy_high": accuracy.high}
            | {"fd_real": fd[i] - fd[j], "fd_real_low": distance.low, "fd_real_high": distance.high}
        )
    return pd.DataFrame(quality), pd.DataFrame(differences)


def search(study: Path, out: Path, first: int, seeds: int) -> None:
    """Write cost, distance and class accuracy of each cell of a search, and whether it is on the front of the three.

    Cost: the speed-up where the search measured any, else rows. A cell that was not timed is then on no front.
    """
    with TemporaryDirectory() as folder:
        keep(study, Path(folder) / "features.npz", first, seeds)
        found = tables(Path(folder) / "features.npz", pairs=False)[0]
    found = found.merge(timed(study).drop(columns="timed").drop_duplicates("schedule"), how="left", on="schedule")
    found["cfg"] = found["schedule"].str.extract(r" cfg=([\d.]+)")[0].fillna("1.5").astype(float)
    found["schedule"] = found["schedule"].str.replace(r" cfg=[\d.]+", "", regex=True)
    for role in ("target", "draft"):
        precision = rf" {role}=((?:b?float|int)\d+)"
        found[role] = found["schedule"].str.extract(precision)[0].fillna("float32")
        found["schedule"] = found["schedule"].str.replace(precision, "", regex=True)
    alone = found["schedule"].str.startswith("sequential")  # the same target with every draft
    found["schedule"] = found["schedule"].mask(alone, "sequential")
    found["draft"] = found["draft"].mask(alone)
    found = found.drop_duplicates(["schedule", "cfg", "target", "draft"])
    cost = found["rows"] if found["speedup"].isna().all() else -found["speedup"]
    scores = np.column_stack((cost, found["fd_real"], -found["class_accuracy"]))
    beaten = [((scores <= one).all(1) & (scores < one).any(1)).any() for one in scores]
    found["front"] = cost.notna() & ~np.array(beaten)
    measured = [f"{key}{end}" for key in ("speedup", "class_accuracy", "fd_real") for end in ("", "_low", "_high")]
    columns = ["schedule", "cfg", "target", "draft", "n", "rows", *measured, "front"]
    found.sort_values(["rows", "schedule", "cfg", "target", "draft"])[columns].round(5).to_csv(
        out / "search.csv", index=False, lineterminator="\n"
    )


def main(argv: list[str]) -> int:
    """Run one of the actions; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("keep", "times", "ablation", "search", "tables"))
    parser.add_argument("studies", nargs="*", type=Path, default=[Path("results/sandwich")], metavar="study")
    parser.add_argument("--first", type=int, default=20_000, help="first seed (default: 20000)")
    parser.add_argument("--seeds", type=int, default=100, help="seeds a label (default: 100)")
    parser.add_argument("--out", type=Path, default=KEPT, help="folder of the kept tables")
    asked = parser.parse_args(argv)
    if asked.action == "times":
        times(asked.studies, asked.out)
        return 0
    if len(asked.studies) != 1:
        parser.error(f"{asked.action} takes one study")
    study = asked.studies[0]
    if asked.action == "ablation":
        ablation(study, asked.out)
        return 0
    if asked.action == "search":
        search(study, asked.out, asked.first, asked.seeds)
        return 0
    if asked.action == "keep":
        keep(study, asked.out / "features.npz", asked.first, asked.seeds)
    with np.load(asked.out / "features.npz") as file:
        n, least = len(file["labels"]), 10 * file["features"].shape[2]
    if n < least:
        raise SystemExit(f"error: {asked.out} has {n} images a cell, and Fréchet distances need {least}: decode more seeds")
    made = (*tables(asked.out / "features.npz"), predicted())
    for name, table in zip(("quality", "differences", "predicted"), made, strict=True):
        table.round(6).to_csv(asked.out / f"{name}.csv", index=False, lineterminator="\n")
        print(table.round(3).to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
