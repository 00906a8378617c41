"""Fenced blocks of README.md and docs/*.md: what is run, what is not and why, what is compared with an output.

A line before a block says how it is to be taken (an HTML comment, which readers do not see):

    <!-- not run: needs a GPU -->      one of REASONS must be in it
    <!-- run by tests/test_x.py -->    another test runs it
    <!-- run with timing.units=0 -->   run, with these words appended to the last line
    <!-- exit: 1 -->                   run, this exit code is meant
    <!-- file: conf/mask/mine.yaml --> the block is a file of that name
    <!-- output -->                    (text) what the block before printed; … stands for anything, alone for any lines
    <!-- shown: why -->                (text) is not compared
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("bash", "python", "yaml")
REASONS = ("GPU", "hours", "account", "network", "cluster", "fragment")
_COMMENT = re.compile(r"<!--\s*(not run|run by|run with|exit|file|output|shown)\b:?\s*(.*?)\s*-->")


@dataclass(frozen=True)
class Block:
    """One fenced block: page and line (from 1) of its fence, language, text, what the comments before it say."""

    page: str
    line: int
    language: str
    text: str
    says: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def runs(self) -> bool:
        """Whether the page's own test executes it."""
        return self.language in ("bash", "python") and not {"not run", "run by", "file", "shown"} & self.says.keys()

    @property
    def reason(self) -> str | None:
        """Which of REASONS is why it is not run."""
        return next((r for r in REASONS if r in self.says.get("not run", "")), None)


def pages() -> list[str]:
    """README.md and the pages of docs/, by path from the root."""
    return ["README.md", *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").glob("*.md"))]


def blocks(page: str, text: str | None = None) -> list[Block]:
    """The fenced blocks of a page in order; in the reference study of the README, which a script writes, none."""
    text = (ROOT / page).read_text(encoding="utf-8") if text is None else text
    found: list[Block] = []
    says: dict[str, str] = {}
    start, language, lines, written = 0, "", list[str](), False
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.match(r"```(\w*)\s*$", line)
        if start:
            if fence and not fence[1]:
                if not written:
                    found.append(Block(page, start, language, "\n".join(lines) + "\n", says))
                start, says = 0, {}
            else:
                lines.append(line)
        elif fence:
            start, language, lines = number, fence[1], []
        elif line.startswith("<!-- reference study"):
            written = line.startswith("<!-- reference study: begin")
        elif comments := _COMMENT.findall(line):
            says |= dict(comments)
        elif line.strip():
            says = {}
    return found


def tally() -> list[str]:
    """How many command blocks are run, run elsewhere, written to files and not run, with the reasons."""
    commands = [b for page in pages() for b in blocks(page) if b.language in COMMANDS]
    reasons = Counter(b.reason for b in commands if "not run" in b.says)
    counts = {
        "run": sum(b.runs for b in commands),
        "files that they read": sum("file" in b.says for b in commands),
        "run by other tests": sum("run by" in b.says for b in commands),
        "not run": sum(reasons.values()),
    }
    told = ", ".join(f"{n} {what}" for what, n in counts.items())
    why = ", ".join(f"{reason} {n}" for reason, n in sorted(reasons.items(), key=str))
    return [f"docs: {len(commands)} command blocks: {told}" + (f" ({why})" if why else "")]


def is_output(expected: str, said: str) -> bool:
    """Whether `said` has the lines of `expected` in a row: white space aside, … for anything, alone for any lines."""
    lines = [" ".join(line.split()) for line in expected.splitlines() if line.strip()]
    parts = [r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + r"\n" for line in lines]
    text = "".join(" ".join(line.split()) + "\n" for line in said.splitlines() if line.strip())
    return re.search("^" + "".join(parts), text, re.MULTILINE) is not None
