"""A made-up study with the tables, and the picture files, that a real one has."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

STAGES = 10
MATCH = (0.96, 0.87, 0.75, 0.65, 0.6, 0.55, 0.52, 0.5, 0.48, 0.5)

# name, strategy, rule, pixel difference, speed-up, target calls, token-forwards; a rule of None verifies nothing
CELLS = (
    ("sequential", "sequential", None, 0.0, 1.0, 10.0, 1.0),
    ("draft_only", "draft_only", None, 0.057, 6.1, 0.0, 0.0),
    ("test3 entry_num=5 block_causal", "test3", None, 0.031, 1.62, 5.0, 1.0),
    ("test3 entry_num=5 block_diagonal", "test3", None, 0.066, 1.63, 5.0, 1.0),
    ("parallel_v1 γ=2 exact correct", "parallel_v1", "exact", 0.0, 0.81, 8.4, 1.9),
    ("parallel_v1 γ=3 match_rate τ=0.5 correct", "parallel_v1", "match_rate", 0.049, 1.45, 3.5, 1.2),
    ("dynamic_gamma aimd match_rate τ=0.7", "dynamic_gamma", "match_rate", 0.028, 1.2, 5.2, 1.35),
    ("hybrid verify_until=5 exact γ=2", "hybrid", "exact", 0.027, 2.3, 4.0, 0.62),
)


@dataclass
class Study:
    """Same attributes as the store's tables."""

    samples: pd.DataFrame
    stages: pd.DataFrame
    runs: pd.DataFrame
    timings: pd.DataFrame
    failures: pd.DataFrame
    noise: pd.DataFrame
    ids: dict[str, str] = field(default_factory=dict)


def make_study(
    cells: tuple[tuple, ...] = CELLS,
    labels: tuple[int, ...] = (0, 3, 8),
    seeds: int = 8,
    schedule: str = "linear",
    timed: bool = True,
) -> Study:
    """Tables of `cells` × `labels` × `seeds` with noise around the given values, always the same."""
    rng, other = np.random.default_rng(7), np.random.default_rng(8)
    samples, stages, runs, timings = [], [], [], []
    ids = {cell[0]: f"{schedule[:3]}{i:03d}" for i, cell in enumerate(cells)}
    for order, (name, strategy, rule, mae, speedup, calls, forwards) in enumerate(cells):
        key = {"study": "made_up", "cell": ids[name]}
        lossless = "tokens" if mae == 0 else "no"
        run = {**key, "name": name, "strategy": strategy, "lossless": lossless, "order": order}
        config = configuration(name, strategy, rule, schedule)
        run |= {"config": json.dumps(config), "mask": config.get("mask", {}).get("name"), "code": "c0de"}
        runs.append({**run, "baseline": ids[cells[0][0]]})
        for label in labels:
            for seed in range(seeds):
                unit = {**key, "label": label, "seed": seed}
                d = mae * rng.gamma(6, 1 / 6)
                verified = calls if rule else 0.0
                trace = ",".join(["2"] * round(verified)) + ",1" if rule else None
                samples.append(
                    {**unit, "name": name, "strategy": strategy, "pixel_mae": d, "correlation": 1 - 2.4 * d}
                    | {"token_agreement": 1 - 8 * d if mae else 1.0, "identical": mae == 0, "near_tie": None}
                    | {"target_calls": round(calls + (rng.integers(-1, 2) if rule else 0)), "draft_calls": 10}
                    | {"target_rows": int(770 * forwards), "target_rows_alone": 770, "draft_rows": 600}
                    | {
                        "draft_rows_alone": 770,
                        "committed_by_verify": round(2 * verified),
                        "gamma_trace": trace,
                        "commit_trace": trace,
                    }
                    | {"speedup": speedup * other.lognormal(0, 0.03) if timed else None}
                )
                for stage in range(STAGES) if rule else ():
                    match = float(np.clip(MATCH[stage] + rng.normal(0, 0.05), 0, 1))
                    accepted = match if rule == "match_rate" else float(match > 0.8)
                    judged = strategy != "hybrid" or stage < 5
                    stages.append(
                        {**unit, "stage": stage, "source": "verified" if judged else "draft"}
                        | {"accepted_share": accepted if judged else None, "match_rate": match if judged else None}
                        | {"passed": bool(accepted >= 0.5) if judged else None}
                    )
                for repeat in range(3) if timed else ():
                    base = 40 * rng.lognormal(0, 0.03)
                    part = base / speedup
                    timings.append(
                        {**unit, "repeat": repeat, "order": "AB", "baseline_ms": base, "baseline_decode_ms": 5.0}
                        | {"cell_ms": base / speedup * rng.lognormal(0, 0.04), "cell_decode_ms": 5.0}
                        | {"draft_ms": 0.2 * part, "verify_ms": 0.6 * part, "accept_ms": 0.02 * part, "fhat_ms": 0.1 * part}
                        | {"contended": False}
                    )
    pairs = [
        {"cell": ids[cells[0][0]], "label": lab, "seed": s, "other_seed": t, "pixel_mae": 0.118, "correlation": 0.78}
        for lab in labels
        for s in range(seeds)
        for t in range(s + 1, seeds)
    ]
    failures = pd.DataFrame(columns=["cell", "label", "seed", "error"])
    frames = [pd.DataFrame(rows) for rows in (samples, stages, runs, timings)]
    return Study(*frames, failures, pd.DataFrame(pairs), ids=ids)


def configuration(name: str, strategy: str, rule: str | None, schedule: str) -> dict:
    """The configuration that such a cell would have, with the choices that its strategy reads."""
    config = {"strategy": {"name": strategy}, "cfg_schedule": {"name": schedule, "cfg": 1.5}}
    if strategy == "test3":
        config |= {"mask": {"name": name.split()[-1]}}
    if rule:
        tau = {"tau": 0.7 if "0.7" in name else 0.5} if rule == "match_rate" else {}
        gamma = {"name": "aimd"} if "aimd" in name else {"name": "fixed", "value": int(name.split("γ=")[1][0])}
        config |= {"mask": {"name": "block_causal"}, "acceptance": {"name": rule, **tau}, "gamma": gamma}
    return config


def write_images(study: Study, folder: Path, side: int = 40) -> None:
    """Coloured waves as PNG files, sample and difference, where the runner writes them."""
    y, x = np.mgrid[:side, :side] / side
    baseline = study.runs["cell"].iloc[0]
    names = dict(zip(study.runs["cell"], study.runs["name"], strict=True))
    for row in study.samples.itertuples():
        phase = row.label + 0.7 * row.seed
        channels = [0.5 + 0.5 * np.sin(6 * x + (c + 3) * y + phase) for c in range(3)]
        base = np.stack(channels, -1)
        offset = 2 * row.pixel_mae * np.sin(20 * x * y + len(names[row.cell]))[..., None]
        sample = np.clip(base + offset, 0, 1)
        place = folder / "images" / row.cell
        place.mkdir(parents=True, exist_ok=True)
        to_file(sample, place / f"{row.label}_{row.seed}.png")
        if row.cell != baseline:
            to_file(np.clip(4 * np.abs(sample - base), 0, 1), place / f"{row.label}_{row.seed}_diff.png")
    judged = study.stages[study.stages["source"] == "verified"] if len(study.stages) else study.runs.iloc[:0]
    for cell in judged["cell"].unique()[:2]:
        unit = judged[judged["cell"] == cell].iloc[0]
        to_file(
            np.linspace(0, 1, 3 * side * STAGES * side).reshape(3 * side, STAGES * side)[..., None].repeat(3, -1),
            folder / "images" / cell / f"{unit['label']}_{unit['seed']}_stages.png",
        )


def to_file(image: np.ndarray, path: Path) -> None:
    Image.fromarray(np.round(image * 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="session")
def study() -> Study:
    return make_study()


@pytest.fixture(scope="session")
def new_study() -> Callable[..., Study]:
    return make_study


@pytest.fixture(scope="session")
def add_images() -> Callable[..., None]:
    return write_images
