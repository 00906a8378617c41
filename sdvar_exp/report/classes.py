"""Names of the classes that labels stand for: those of a shipped pair, or a study's own list.

`classes.txt` in a study's folder, one name a line from label 0 on, names the classes of any other pair.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

FASHION_MNIST = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
EMOJI = ("smileys", "people", "animals", "food", "travel", "activities", "objects", "symbols", "flags")
KNOWN = dict.fromkeys(("embedded", "embedded_plain", "embedded_late"), FASHION_MNIST) | {"emoji": EMOJI}
"""By name of the model."""
FILE = "classes.txt"


@dataclass(frozen=True)
class Classes:
    """names: by label, empty where they are not known."""

    names: tuple[str, ...] = ()

    def of(self, label: int) -> str:
        """The class's name, `label 3` where it has none."""
        return self.names[label] if 0 <= label < len(self.names) and self.names[label] else f"label {label}"


def classes_of(folder: Path, runs: pd.DataFrame) -> Classes:
    """Classes of a study: those of its `classes.txt`, else those that all its models share.

    folder: of the study. runs: its table of cells, whose column `config` names the models.
    """
    try:
        return Classes(tuple(line.strip() for line in (folder / FILE).read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError):  # none there, or not a text
        texts = runs["config"].dropna().unique() if "config" in runs else ()
        models = {(json.loads(text).get("model") or {}).get("name", "") for text in texts}
        known = {KNOWN.get(name, ()) for name in models}
        return Classes(known.pop()) if len(known) == 1 else Classes()
