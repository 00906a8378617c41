"""The model card: Markdown from `card.json`, so that no number in it is typed by hand."""

from __future__ import annotations

from typing import Any

ROLES = ("vae", "target", "draft")


def render(card: dict[str, Any]) -> str:
    """The card as Markdown; the same text for the same `card.json`."""
    vae, target, draft = (card[r] for r in ROLES)
    stages = len(vae["patch_nums"])
    lines = [
        "# Model card: the embedded pair", "",
        "Written by `scripts/train.py part=export` from `card.json`; do not edit.", "",
        f"- **Data**: {card['data']}; grey values repeated to RGB in [-1, 1]. No augmentation for the transformers.",
        f"- **Stages**: {stages}, sides {', '.join(map(str, vae['patch_nums']))}; {vae['vocab_size']} codes of width "
        f"{vae['z_channels']}.",
        f"- **Stored**: {card['stored']}. Test metrics on the first {card['held_out']} test images.",
        "- **Licence**: MIT, as the project and the data.",
        "- **Train**: `python scripts/train.py part=all` (each part resumes; it needs the IDX files of Fashion-MNIST).",
        "- **Not good for**: anything but measuring decoders. Images are 40×40 and grey; the training was short, so the target "
        "is far from the best that its size allows; acceptance rates here say nothing about ImageNet models.", "",
        "| part | parameters or codes | steps | minutes | result on test images | SHA-256 |", "|---|---|---|---|---|---|",
        f"| VQVAE | {vae['vocab_size']} codes, {vae['codes_used']:.1%} used | {vae['steps']} | {vae['minutes']} | "
        f"MSE {vae['mse']:.4f}, MAE {vae['mae']:.4f} on [-1, 1] | `{vae['sha256'][:16]}` |",
    ]
    for name, m in (("target", target), ("draft", draft)):
        lines.append(
            f"| {name}, depth {m['depth']}, width {m['width']} | {m['parameters']:,} | {m['steps']} | {m['minutes']} | "
            f"{m['ce']:.3f} nats per token | `{m['sha256'][:16]}` |")
    lines += ["", "Cross-entropy per token by stage, in nats:", "", "| stage | " + " | ".join(map(str, range(stages))) + " |",
              "|---" * (stages + 1) + "|"]
    for name, m in (("target", target), ("draft", draft)):
        lines.append(f"| {name} | " + " | ".join(f"{m[f'ce_{k}']:.2f}" for k in range(stages)) + " |")
    return "\n".join(lines) + "\n"
