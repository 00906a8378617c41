"""The part of the model card that `part=evaluate` adds: tables of quality, diversity and nearest training images."""

from __future__ import annotations

from typing import Any


def quality_lines(q: dict[str, Any], figures: str) -> list[str]:
    """Markdown lines; figures: their folder, "" leaves them out."""
    rows, best = {row["name"]: row for row in q["rows"]}, q["best"]
    target, draft, real = rows[best["target"]], rows[best["draft"]], rows["test images"]
    classes = len(q["recall_within_class"]["test images"])
    lines = [
        "",
        "## Quality of samples",
        "",
        f"Measured by `python scripts/train.py part=evaluate`. {q['n']} images per row, the same labels and noise in every row "
        "of a model, linear guidance; a dash is no truncation. Distances are in the features of the shipped classifier, to the "
        "shipped features of the test set; in brackets 95 % intervals over other draws of the images. The first two rows are "
        "test images and their reconstructions by the VQVAE, measured against the other test images: what a perfect model, and "
        "a perfect transformer, would give.",
        "",
        "| images | cfg | top-k | top-p | class accuracy | Fréchet | KID | precision | recall |",
        "|---" * 9 + "|",
        *map(_row, q["rows"]),
        "",
        f"Best, by the least Fréchet distance where class accuracy is at least 90 %: target {_setting(target)} "
        f"(accuracy {target['class_accuracy']:.1%}), draft {_setting(draft)} ({draft['class_accuracy']:.1%}). The classifier "
        f"itself is right for {real['class_accuracy']:.1%} of as many real images. Fréchet distances of other numbers of "
        "images or in other features mean something else: compare within this table only.",
        "",
        "**Diversity within a class**: recall, the share of the real images of a class that lie within the manifold of its "
        f"{q['n'] // classes} samples.",
        "",
        "| images | " + " | ".join(map(str, range(classes))) + " |",
        "|---" * (1 + classes) + "|",
    ]
    lines += [
        f"| {name} | " + " | ".join(_number(v, ".2f") for v in values) + " |"
        for name, values in q["recall_within_class"].items()
    ]
    lines += [
        "",
        *_nearest(q["nearest"]),
        "",
        f"Loading the pair takes {q['loading_seconds']:.2f} s (median of 5); all weights and features together are "
        f"{q['shipped_bytes'] / 2**20:.1f} MiB.",
    ]
    return lines + (_figures(figures) if figures else [])


def _nearest(nearest: dict[str, Any]) -> list[str]:
    lines = [
        "**Nearest training image** of each sample of the target's best setting, by grey values (RMSE on [0, 1]) and by "
        "features. Reconstructions of test images have the same look and were not trained on; were samples copies, far "
        "more than 1 % of them would be nearer than the nearest 1 % of the reconstructions.",
        "",
        "| space | samples, median | reconstructions | test images | samples nearer than that 1 % |",
        "|---" * 5 + "|",
    ]
    for space, found in nearest.items():
        medians = " | ".join(f"{found['median'][name]:.3f}" for name in ("samples", "reconstructions", "test images"))
        lines.append(f"| {space} | {medians} | {found['samples_nearer_than_1_percent']:.1%} |")
    return lines


def _figures(folder: str) -> list[str]:
    return [
        "",
        "Target (left) and draft (right) at the target's best setting; the first seeds of each class, not chosen:",
        "",
        f"![samples by class]({folder}/samples.png)",
        "",
        "Samples of the target and their nearest training images:",
        "",
        f"![nearest training images]({folder}/nearest.png)",
        "",
        "Learning curves, from the logs in `results/training` (its README says of which training each is); steps before "
        "the first point are those of the weights it began with. The target and the draft are followed on 500 test images, "
        "the distilled draft on samples of the target; the star is the shipped file, on all of the card's.",
        "",
        f"![learning curves]({folder}/losses.png)",
    ]


def _row(row: dict[str, Any]) -> str:
    setting = [row["name"], "", "", ""]
    if "model" in row:
        setting = [row["model"], f"{row['cfg']:g}", str(row["top_k"] or "–"), str(row["top_p"] or "–")]

    def cell(name: str, spec: str) -> str:
        value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
        return _number(value, spec) + ("" if low is None else f" [{low:{spec}}, {high:{spec}}]")

    numbers = [
        cell("class_accuracy", ".3f"),
        cell("fd", ".2f"),
        cell("kid", ".2f"),
        cell("precision", ".2f"),
        cell("recall", ".2f"),
    ]
    return "| " + " | ".join([*setting, *numbers]) + " |"


def _setting(row: dict[str, Any]) -> str:
    cuts = [f"{name} {row[key]}" for key, name in (("top_k", "top-k"), ("top_p", "top-p")) if row[key]]
    return ", ".join([f"cfg {row['cfg']:g}", *cuts])


def _number(value: float | None, spec: str) -> str:
    return "–" if value is None else f"{value:{spec}}"
