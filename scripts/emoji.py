r"""Draw openly licensed emoji as a folder of images for training: `emoji/{train,t10k}/<class>/<style>_<name>.png`.

    npm install @iconify-json/noto@1.2.9 @iconify-json/noto-v1@1.2.5 @iconify-json/twemoji@1.2.5 \
      @iconify-json/openmoji@1.2.29 @iconify-json/fluent-emoji-flat@1.2.6 @iconify-json/emojione@1.2.3
    python scripts/emoji.py node_modules emoji

Needs `rsvg-convert` (Debian package librsvg2-bin). Classes are Unicode's groups. An emoji's name decides its split, so that
no drawing of a test emoji is trained on. Licences: Noto Apache-2.0, Fluent MIT, Twemoji and EmojiOne 2 CC BY 4.0, OpenMoji
CC BY-SA 4.0.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

STYLES = ("noto", "noto-v1", "twemoji", "openmoji", "fluent-emoji-flat", "emojione")
CLASSES = ("smileys", "people", "animals|nature", "food", "travel", "activities", "objects", "symbols", "flags")
VARIANT = re.compile(r"(^|-)(light|medium|dark|tone\d|skin-tone)(-|$)")
SIDE = 48


def drawings(modules: Path, out: Path) -> dict[Path, str]:
    """SVG text of every emoji without skin tone, by the file that it becomes."""
    found = {}
    for style in STYLES:
        folder = modules / "@iconify-json" / style
        icons, about = (json.loads((folder / f"{name}.json").read_text()) for name in ("icons", "metadata"))
        for category, names in about["categories"].items():
            label = next((i for i, c in enumerate(CLASSES) if re.match(c, category.lower())), None)
            for name in names:
                icon = icons["icons"].get(name)
                if label is None or icon is None or VARIANT.search(name):
                    continue
                box = [
                    icon.get(key, icons.get(key, other))
                    for key, other in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
                ]
                split = "t10k" if hashlib.sha256(name.encode()).digest()[0] < 26 else "train"
                word = CLASSES[label].split("|")[0]
                found[out / split / f"{label}_{word}" / f"{style}_{name}.png"] = (
                    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                    f'viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'
                )
    return found


def draw(file: Path, svg: str) -> None:
    """One drawing on white, SIDE × SIDE pixels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    command = [
        "rsvg-convert",
        "--width",
        str(SIDE),
        "--height",
        str(SIDE),
        "--background-color",
        "white",
        "--output",
        str(file),
    ]
    subprocess.run(command, input=svg.encode(), check=True)


def main() -> None:
    modules, out = map(Path, sys.argv[1:3])
    found = drawings(modules, out)
    with ThreadPoolExecutor() as pool:
        list(pool.map(draw, found, found.values()))
    for (split, label), n in sorted(Counter((f.parts[-3], f.parts[-2]) for f in found).items()):
        sys.stdout.write(f"{split:6} {label:14} {n}\n")


if __name__ == "__main__":
    main()
