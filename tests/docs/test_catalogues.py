"""Pages that list things know all of them and nothing else: columns, messages, pages."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from xml.etree import ElementTree

import pytest

from sdvar_exp.cli import VERBS
from sdvar_exp.report.figures import known
from sdvar_exp.report.summary import columns
from sdvar_exp.store.columns import FORMERLY, TABLES
from tests.docs.messages import explained, messages
from tests.docs.pages import ROOT, blocks, pages

METRICS = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
INTERVAL = re.compile(r"_(low|high)$")


def _named(section: str) -> set[str]:
    """Names in code style in the first column of the tables of one section of docs/metrics.md."""
    text = re.split(r"^## ", METRICS, flags=re.MULTILINE)
    (part,) = [p for p in text if p.startswith(section)]
    rows = re.findall(r"^\| (`.*?) \|", part, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("table", TABLES)
def test_every_column_of_a_table_is_defined(table: str) -> None:
    shared, own, columns = _named("Columns that several"), _named(f"`{table}`"), set(TABLES[table])
    assert columns - shared - own == set(), "columns without a definition in docs/metrics.md"
    assert own - columns - FORMERLY.get(table, {}).keys() == set(), "docs/metrics.md defines columns that do not exist"


def test_every_column_of_the_summary_is_defined() -> None:
    named, known = _named("The summary"), {INTERVAL.sub("", c) for c in columns()}
    assert known - named == set(), "columns without a definition in docs/metrics.md"
    assert named - known == set(), "docs/metrics.md defines columns that do not exist"


def test_every_column_of_the_quality_table_is_defined() -> None:
    from sdvar_exp.report.quality import METRICS as DISTANCES

    expected = {f"{metric}_{to}" for metric in DISTANCES for to in ("real", "baseline")}
    assert _named("Sets of images") == expected | {"class_accuracy", "class_accuracy_baseline", "note"}


def test_every_message_is_explained() -> None:
    """docs/errors.md explains each message that a user can get, and none that no longer exists."""
    patterns = {p: _pattern(p) for p in explained()}
    said = messages()
    unknown = [f"{where}: {text}" for text, where in said.items() if not any(p.fullmatch(text) for p in patterns.values())]
    assert not unknown, "docs/errors.md has no row for:\n" + "\n".join(unknown)
    gone = [p for p, pattern in patterns.items() if not any(pattern.fullmatch(text) for text in said)]
    assert not gone, f"docs/errors.md explains what nobody says: {gone}"


def _pattern(text: str) -> re.Pattern[str]:
    """What a pattern of docs/errors.md stands for; one of few letters stands for itself alone."""
    anything = ".*" if len(re.findall(r"\w", text)) > 4 else "…"
    return re.compile(anything.join(map(re.escape, text.split("…"))), re.DOTALL)


def test_the_index_leads_to_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [p.name for p in (ROOT / "docs").glob("*.md") if p.name != "README.md" and f"]({p.name})" not in index]
    assert not missing, f"docs/README.md does not name {missing}"


def test_the_drawing_names_what_exists() -> None:
    drawing = ElementTree.parse(ROOT / "docs" / "architecture.svg")
    names = [e.text or "" for e in drawing.iter() if e.get("class") == "name"]
    words = [word.removesuffix("/") for name in names for word in re.split(r", |: the \w+", name) if word]
    assert len(words) >= 12
    places = [(ROOT if word == "conf" else ROOT / "sdvar_exp") / word for word in words]
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    places += [ROOT / "sdvar_exp" / name for name in re.findall(r"`(\w+/[\w/]+\.py)`", page)]
    gone = [place.name for place in places if not place.is_dir() and not place.with_suffix(".py").is_file()]
    assert len(places) >= len(words) + 10 and not gone, f"the page and the drawing of the architecture name {gone}"


def test_every_verb_has_its_line() -> None:
    rows = re.findall(r"^\| (`.*?) \| ", (ROOT / "docs" / "running.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = {text.split()[0] for row in rows for text in re.findall(r"`([^`]+)`", row)}
    assert set(VERBS) - named == set(), "docs/running.md lacks verbs of the command line"


def test_every_command_that_is_not_run_can_be_read() -> None:
    """Words of commands in fragments and in what needs a GPU, an account or hours are such that their verbs take."""
    found = [b for page in pages() for b in blocks(page) if b.language == "bash" and "not run" in b.says]
    lines = [line for b in found for line in b.text.replace("\\\n", " ").splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if re.match(r"(\.venv/bin/)?sdvar-exp [a-z]", line)]
    for _, verb, *words in commands:
        if verb not in ("run", "plan", "ls"):
            import_module(f"sdvar_exp.cli.{verb}").parser().parse_args(words)
    assert len(commands) > 10


def test_every_figure_has_its_line() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "docs" / "figures.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [entry.name for entry in known()], "docs/figures.md lists other figures than there are"
