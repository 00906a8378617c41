"""`sdvar-exp new KIND NAME`: the files of an entry or experiment of one's own, from the examples of the documentation."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shlex
import sys
from contextlib import suppress
from pathlib import Path

from sdvar_exp import registry
from sdvar_exp.cli.options import Parser
from sdvar_exp.config import folder
from sdvar_exp.errors import UserError
from sdvar_exp.words import choices_text, did_you_mean

EXAMPLES = {
    "strategy": ("by_turns", "strategy={}"),
    "acceptance": ("unsure", "strategy=parallel_v1 acceptance={}"),
    "gamma": ("half", "strategy=dynamic_gamma gamma={}"),
    "mask": ("coarse", "strategy=parallel_v1 mask={}"),
    "cfg_schedule": ("late", "strategy=parallel_v1 cfg_schedule={}"),
    "proposer": ("early", "strategy=parallel_v1 proposer={}"),
    "metric": ("feature_distance", "strategy=parallel_v1"),
    "experiment": ("taus", "experiment={}"),
}
"""By kind: the example of docs/extending.md (of an experiment: docs/running.md), and the words that choose such an entry."""
CONF = "my_conf"
SMALL = ("labels=[0,3]", "seeds=2", "tracking=none")
FILE = re.compile(r"^<!-- file: (\S+) -->\n```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
EPILOG = """\
Writes NAME.py into this folder and my_conf/KIND/NAME.yaml (or that into the folder of --config-dir), and prints the line that
runs it.
An experiment is a yaml alone, a metric has none. Nothing is overwritten.

  sdvar-exp new acceptance mine
  sdvar-exp new experiment pilot --config-dir conf
"""


def parser() -> Parser:
    known = Parser(
        prog="sdvar-exp new",
        description="Write the file of an entry of your own, or of an experiment, and say how to run it.",
        epilog=EPILOG,
    )
    known.add_argument("kind", metavar="KIND", help=", ".join(EXAMPLES), source=lambda _: EXAMPLES)
    known.add_argument("name", metavar="NAME", help="letters, digits and _; an experiment's may have - and .")
    return known


def main(argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    kind, name, place = asked.kind, asked.name, asked.config_dir or Path(CONF)
    if kind not in EXAMPLES:
        raise UserError(f"unknown kind {kind!r}{did_you_mean(kind, EXAMPLES, choices_text(EXAMPLES))}")
    check_name(kind, name, asked.config_dir)
    files = made(kind, name, place)
    if there := [path for path in files if path.exists()]:
        raise UserError(f"{there[0]} is there already; choose another name, or remove it first")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
    print(f"\n{command(kind, name, place)}")
    return 0


def check_name(kind: str, name: str, extra: Path | None) -> None:
    """Raise `UserError` for a name that no such file can have, or that is taken."""
    if kind == "experiment":
        if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
            raise UserError(f"an experiment's name has letters, digits and _ . - and no others, got {name!r}")
    elif not name.isascii() or not name.isidentifier() or keyword.iskeyword(name):
        raise UserError(f"the name of an entry is one of Python: letters, digits and _, no digit first; got {name!r}")
    registry.discover()
    names = registry.names(kind) if kind == "metric" else folder.names(kind, extra)
    if name in names:
        raise UserError(f"{kind}={name} is there already; choose another name")
    if kind == "experiment" or Path(f"{name}.py").exists():
        return
    found = None
    with suppress(ImportError, ValueError):
        found = importlib.util.find_spec(name)
    if found is not None or name in sys.stdlib_module_names:
        raise UserError(f"Python has a module called {name!r}, which would be imported instead; choose another name")


def made(kind: str, name: str, place: Path) -> dict[Path, str]:
    """The files of an entry with their texts: the example's, under this name."""
    example = EXAMPLES[kind][0]
    page = "running.md" if kind == "experiment" else "extending.md"
    texts = dict(FILE.findall(_page(page).read_text(encoding="utf-8")))
    out = {}
    if code := texts.get(f"my_entries/{example}.py"):
        if re.search(rf"\b{name}\b", code):
            raise UserError(f"{name!r} has a meaning in the file of a {kind} already; choose another name")
        out[Path(f"{name}.py")] = _renamed(code, example, name)
    if yaml := texts.get(f"{CONF}/{kind}/{example}.yaml"):
        out[place / kind / f"{name}.yaml"] = yaml.replace(f"/{example}@", f"/{name}@")
    return out


def _renamed(code: str, example: str, name: str) -> str:
    """The entry's function, class and heading under another name; what the text says stays."""
    classes = ["".join(word.title() for word in words.split("_")) for words in (example, name)]
    code = code.replace(f'"{example}"', f'"{name}"').replace(f"def {example}(", f"def {name}(")
    code = code.replace(f'heading="{example.replace("_", " ")}"', f'heading="{name.replace("_", " ")}"')
    return re.sub(rf"\b{classes[0]}\b", classes[1] if classes[1] != name else f"{classes[1]}Parameters", code)


def _page(name: str) -> Path:
    """A page of the documentation: in a wheel it lies in the package, else in the repository."""
    package = Path(__file__).resolve().parents[1]
    for path in (package / "docs" / name, package.parent / "docs" / name):
        if path.is_file():
            return path
    raise UserError(f"docs/{name}, which holds the examples, is not there: reinstall the package")


def command(kind: str, name: str, place: Path) -> str:
    """The line that runs the new entry on four images."""
    words = ["sdvar-exp", "run"]
    words += [] if kind == "experiment" else ["--plugin", name]
    words += [] if kind == "metric" else ["--config-dir", str(place)]
    words += EXAMPLES[kind][1].format(name).split()
    words += [f"study={name}", *SMALL] if kind != "experiment" else ["tracking=none"]
    then = f"\n{shlex.join(['sdvar-exp', 'table', name, '--plugin', name])}" if kind == "metric" else ""
    return shlex.join(words) + then
