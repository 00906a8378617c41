"""The model card: Markdown from `card.json`, so that no number in it is typed by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdvar_exp.models.files import SHIPPED
from sdvar_exp.training.quality_page import quality_lines

FASHION_MNIST = "Fashion-MNIST, 60,000 training and 10,000 test images, 28×28 resized to 40×40 (MIT licence)"
MODELS = {
    "target": "target",
    "draft": "draft (distilled, the default)",
    "draft_plain": "draft (plain)",
    "draft_late": "draft (late stages)",
}


@dataclass(frozen=True)
class About:
    """Words for the card. pair: its name, after `model=` and, if it is not the embedded one, after `train=`.

    data: words on the images; "": their folder's name. licence: of the weights, with the sources that it asks to name.
    """

    pair: str = "embedded"
    data: str = ""
    licence: str = ""


def write_card(card: dict[str, Any], weights: Path, docs: Path) -> None:
    """`card.json` and `README.md` beside the weights, and `model_card.md` with figures in `docs`."""
    (weights / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (weights / "README.md").write_text(render(card), encoding="utf-8")
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "model_card.md").write_text(render(card, figures="figures"), encoding="utf-8")


def render(card: dict[str, Any], figures: str = "") -> str:
    """The card as Markdown; the same text for the same `card.json`. figures: their folder, "" leaves them out."""
    vae, drawn, pair = card["vae"], card["distillation"], card.get("pair", "embedded")
    stages, models = len(vae["patch_nums"]), {role: name for role, name in MODELS.items() if role in card}
    late, grey, plain = "", card["data"] == FASHION_MNIST, f"`model={pair}_plain` has the one trained on the data"
    licence = "MIT, as the project and the data." if grey else card.get("licence", "")
    command, needs = "python scripts/train.py part=all", "it needs the IDX files of Fashion-MNIST"
    parts = "`part=vqvae`, `target`, `draft`, `distilled`, `late`, `export`, `classifier`, `evaluate`"
    if pair != "embedded":
        command, needs = f"python scripts/train.py train={pair}", f"settings and folders are in `conf/train/{pair}.yaml`"
        parts = "`part=vqvae`, `target`, `draft`, `distilled`, `classifier`, `export`"
    if f"{pair}_plain" not in SHIPPED:
        models |= {"draft_plain": "draft (plain, not in the package)"} if "draft_plain" in card else {}
        plain = "the one trained on the data is not in the package"
    if "draft_late" in card:
        late = f", `model=embedded_late` the first one trained on for the stages from {card['draft_late']['first_stage']} on"
    numbers = range(stages)
    head = ["| stage | " + " | ".join(map(str, numbers)) + " |", "|---" * (stages + 1) + "|"]
    lines = [
        f"# Model card: the {pair} pair",
        "",
        f"Written by `scripts/train.py part=export`{' and `part=evaluate`' if grey else ''} from `card.json`; do not edit.",
        "",
        f"- **Data**: {card['data']}; {'grey values repeated to RGB' if grey else 'RGB'} in [-1, 1]. No augmentation for the "
        "transformers.",
        f"- **Stages**: {stages}, sides {', '.join(map(str, vae['patch_nums']))}; {vae['vocab_size']} codes of width "
        f"{vae['z_channels']}.",
        f"- **Drafts**: `model={pair}` has the distilled one, trained on {drawn['samples'] - drawn['held_out']:,} samples "
        f"of the target (guidance linear, {drawn['cfg']}) by KL(p ‖ q) of the guided distributions, strengths 0 to "
        f"{drawn['strongest']}; {plain}{late}.",
        f"- **Stored**: {card['stored']}. Test metrics on the first {card['held_out']} test images.",
        *([f"- **Licence**: {licence}"] if licence else []),
        f"- **Train**: `{command}` (each part resumes; {needs}), or part by part with {parts}.",
        f"- **Not good for**: anything but measuring decoders. {'Images are 40×40 and grey. ' if grey else ''}The training was "
        "short: the target's cross-entropy still fell at its end; acceptance rates here say nothing about ImageNet models.",
        "",
        "| part | parameters or codes | steps | minutes | result on test images | SHA-256 |",
        "|---|---|---|---|---|---|",
        f"| VQVAE | {vae['vocab_size']} codes, {vae['codes_used']:.1%} used | {vae['steps']} | {vae['minutes']} | "
        f"MSE {vae['mse']:.4f}, MAE {vae['mae']:.4f} on [-1, 1] | `{vae['sha256'][:16]}` |",
    ]
    for role, name in models.items():
        m = card[role]
        steps, minutes = (
            f"{m[f'{key}_before']} + {m[key]}" if f"{key}_before" in m else str(m[key]) for key in ("steps", "minutes")
        )
        lines.append(
            f"| {name}, depth {m['depth']}, width {m['width']} | {m['parameters']:,} | {steps} | {minutes} | "
            f"{m['ce']:.3f} nats per token | `{m['sha256'][:16]}` |"
        )
    if "classifier" in card:
        c = card["classifier"]
        lines.append(
            f"| classifier | {c['parameters']:,} | {c['steps']} | {c['minutes']} | {c['accuracy']:.1%} of "
            f"{c['test_images']:,} right | `{c['sha256'][:16]}` |"
        )
    begun = [f"the {name} from `{card[role]['init'][:16]}`" for role, name in models.items() if card[role]["init"]]
    if begun:
        lines += ["", f"Trained on from given weights (SHA-256): {'; '.join(begun)}. Steps before + after."]
    lines += ["", "Cross-entropy per token on test images by stage, in nats:", "", *head]
    for role, name in models.items():
        lines.append(f"| {name} | " + " | ".join(f"{card[role][f'ce_{k}']:.2f}" for k in numbers) + " |")
    lines += [
        "",
        f"Agreement with the target on {drawn['held_out']} of its own samples (guidance linear, {drawn['cfg']}): "
        "overlap 1-TV of the guided distributions, and share of equal tokens under shared noise:",
        "",
        *head,
    ]
    for role in [role for role in models if role != "target"]:
        for what, text in (("overlap", "1-TV"), ("match", "equal")):
            values = " | ".join(f"{card[role][f'{what}_{k}']:.2f}" for k in numbers)
            lines.append(f"| {models[role]}, {text} | {values} |")
    if "quality" in card:
        lines += quality_lines(card["quality"], figures)
    return "\n".join(lines) + "\n"
