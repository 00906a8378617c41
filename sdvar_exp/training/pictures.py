"""Figures of the model card: samples, nearest training images, learning curves. Small PNG files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdvar_exp.models.classifier import SIDE
from sdvar_exp.report.classes import FASHION_MNIST, Classes
from sdvar_exp.report.style import INK, MUTED, PALETTE, styled
from sdvar_exp.training.classifier import images_of

GAP = 2  # pixels between tiles
TILE, BREAK = SIDE + GAP, 4 * GAP  # pixels of a tile with its gap, and of the gap between groups
SAMPLES, TRIPLES = 8, 3  # tiles of a class and model; samples of a class with their neighbours


def mosaic(tiles: list[list[np.ndarray | None]]) -> np.ndarray:
    """Rows of grey uint8 tiles as one white-grounded picture; None leaves a narrow gap."""
    rows = []
    for row in tiles:
        parts = [
            np.full((TILE, BREAK), 255, np.uint8) if t is None else np.pad(t, ((0, GAP), (0, GAP)), constant_values=255)
            for t in row
        ]
        rows.append(np.concatenate(parts, 1))
    return np.concatenate(rows)


def draw_samples(images: Mapping[str, np.ndarray], labels: np.ndarray, folder: Path) -> Path:
    """One row per class, `SAMPLES` images of each model side by side: the first seeds, not chosen."""
    tiles = [
        [t for i, x in enumerate(images.values()) for t in ([None] if i else []) + list(x[labels == y][:SAMPLES])]
        for y in np.unique(labels)
    ]
    shown = min(SAMPLES, int((labels == labels[0]).sum()))
    heads = [((i + 0.5) * shown * TILE + i * BREAK, name) for i, name in enumerate(images)]
    return _draw_mosaic(tiles, heads, np.unique(labels), folder / "samples.png")


def draw_nearest(
    samples: np.ndarray, labels: np.ndarray, train_images: torch.Tensor, index: Mapping[str, np.ndarray], folder: Path
) -> Path:
    """Triples for the first seeds of each class: sample, nearest training image in pixels, nearest in features."""

    def train(i: int) -> np.ndarray:
        return (images_of(train_images[i : i + 1], SIDE)[0, 0] * 255).round().to(torch.uint8).numpy()

    tiles: list[list[np.ndarray | None]] = []
    for y in np.unique(labels):
        row: list[np.ndarray | None] = []
        for n, i in enumerate(np.flatnonzero(labels == y)[:TRIPLES]):
            row += ([None] if n else []) + [samples[i], train(int(index["pixels"][i])), train(int(index["features"][i]))]
        tiles.append(row)
    names = ("sample", "pixels", "features")
    heads = [
        ((3 * n + i + 0.5) * TILE + n * BREAK, name)
        for n in range(min(TRIPLES, int((labels == labels[0]).sum())))
        for i, name in enumerate(names)
    ]
    return _draw_mosaic(tiles, heads, np.unique(labels), folder / "nearest.png")


def _draw_mosaic(tiles: list[list[np.ndarray | None]], heads: list[tuple[float, str]], classes: np.ndarray, path: Path) -> Path:
    """Tiles with the classes' names at the left; heads: what to write above, at which pixel."""
    picture = mosaic(tiles)
    scale, left, top = 100.0, 0.75, 0.22  # pixels and inches
    width, height = left + picture.shape[1] / scale, top + picture.shape[0] / scale
    with styled():
        fig = Figure((width, height))
        axis = fig.add_axes((left / width, 0, 1 - left / width, 1 - top / height))
        axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
        axis.set_axis_off()
        step = TILE / picture.shape[0]
        for row, y in enumerate(classes):
            axis.text(
                -0.01,
                1 - (row + 0.5) * step,
                Classes(FASHION_MNIST).of(int(y)),
                fontsize=7,
                transform=axis.transAxes,
                ha="right",
                va="center",
                color=INK,
            )
        for x, head in heads:
            axis.text(
                x / picture.shape[1], 1.01, head, fontsize=7, transform=axis.transAxes, ha="center", va="bottom", color=INK
            )
        return _save(fig, path)


def read_log(path: Path) -> list[dict[str, float]]:
    """Entries of a training's log, none where it was not kept."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def draw_losses(card: Mapping[str, Any], folder: Path, figures: Path) -> Path | None:
    """Learning curves of the logs in `folder`, the shipped weights' values beside them; None without any log."""
    logs = {name: read_log(folder / f"{name}.log.jsonl") for name in ("vqvae", "target", "draft", "distilled", "classifier")}
    logs = {name: entries for name, entries in logs.items() if entries}
    if not logs:
        return None
    with styled():
        fig = Figure((2.6 * len(logs) + 0.4, 2.2), layout="constrained")
        axes = fig.subplots(1, len(logs), squeeze=False)[0]
        for axis, (name, entries) in zip(axes, logs.items(), strict=True):
            _curve(axis, name, entries, card)
        return _save(fig, figures / "losses.png")


CURVES = {
    "vqvae": ("eval_mse", "test MSE", "vae", "mse"),
    "target": ("eval_ce", "test nats per token", "target", "ce"),
    "draft": ("eval_ce", "test nats per token", "draft_plain", "ce"),
    "distilled": ("eval_overlap", "1-TV on held-out samples", "draft", "overlap"),
    "classifier": ("eval_accuracy", "test accuracy", "classifier", "accuracy"),
}


def _curve(axis: Axes, name: str, entries: list[dict[str, float]], card: Mapping[str, Any]) -> None:
    key, text, role, own = CURVES[name]
    shipped = card.get(role, {})
    before = shipped.get("steps_before", 0)
    points = [(before + e["step"], e[key]) for e in entries if key in e]
    axis.plot(*zip(*points, strict=True), color=PALETTE[0], marker=".", linewidth=1, label="logged training")
    if name == "vqvae":  # measured on test images three times only; on the training batches every 25 steps
        axis.plot(
            *zip(*[(e["step"], e["mse"]) for e in entries], strict=True),
            color=MUTED,
            linewidth=0.7,
            zorder=1,
            label="training batches",
        )
        axis.set_yscale("log")
    if own in shipped:
        axis.plot(before + shipped["steps"], shipped[own], color=PALETTE[1], marker="*", linestyle="none", label="shipped")
    axis.set_xlabel("steps")
    axis.set_title(f"{name}: {text}", color=INK)
    axis.tick_params(colors=MUTED)
    axis.grid(True)
    axis.legend()


def _save(fig: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, format="png", metadata={"Software": None}, dpi=200)
    return path
