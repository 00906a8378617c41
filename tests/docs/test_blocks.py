"""Commands in README.md and docs/ work: each page's blocks run in order in a folder of their own, or say why not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import COMMANDS, ROOT, Block, blocks, is_output, pages, tally

FAST = {"docs/README.md"}  # every other page decodes images


def _environment(bin_folder: Path) -> dict[str, str]:
    """As in a terminal in which the virtual environment is active; what the tests set for themselves is left out."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV", "MPLBACKEND"}
    kept = {k: v for k, v in os.environ.items() if k not in hidden and not k.startswith("PYTEST_")}
    return {**kept, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120", "NO_COLOR": "1"}


def _folder(path: Path) -> Path:
    """A folder that looks like a checkout after `make setup`; what is written stays there."""
    path.mkdir()
    (path / ".venv").symlink_to(Path(sys.prefix))
    for name in ("scripts", "conf", "benchmarks"):
        (path / name).symlink_to(ROOT / name)
    return path


def run_page(found: list[Block], folder: Path) -> int:
    """Run and compare a page's blocks in order in `folder`; how many commands ran."""
    environment, said, ran = _environment(Path(sys.prefix) / "bin"), "", 0
    for block in found:
        if "file" in block.says:
            path = folder / block.says["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.runs:
            text = block.text.rstrip("\n")
            text += f" {block.says['run with']}" if "run with" in block.says else ""
            command = [sys.executable, "-c", text] if block.language == "python" else ["bash", "-euo", "pipefail", "-c", text]
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=900,
            )
            said, ran = done.stdout, ran + 1
            assert done.returncode == int(block.says.get("exit", 0)), f"{block.place}: exit {done.returncode}\n{text}\n{said}"
        elif "output" in block.says:
            assert is_output(block.text, said), f"{block.place} is not what the command before printed:\n{said}"
    return ran


@pytest.mark.parametrize("page", [pytest.param(p, marks=[] if p in FAST else pytest.mark.long) for p in pages()])
def test_commands_of_a_page_work(page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = blocks(page)
    ran = run_page(found, _folder(tmp_path / "folder"))
    assert ran == sum(b.runs for b in found)
    with capsys.disabled():
        print(f"\n{page}: {ran} of {sum(b.language in COMMANDS for b in found)} command blocks run")


def test_every_block_runs_or_says_why_not() -> None:
    wrong = []
    for block in (b for page in pages() for b in blocks(page)):
        says = block.says
        if block.language not in (*COMMANDS, "text", "json", "csv", ""):
            wrong.append(f"{block.place}: language {block.language!r} is not known to the tests")
        if "not run" in says and block.reason is None:
            wrong.append(f"{block.place}: no known reason in {says['not run']!r}")
        if "run by" in says and not (ROOT / says["run by"]).is_file():
            wrong.append(f"{block.place}: there is no {says['run by']}")
        if block.language == "yaml" and not {"file", "not run", "run by"} & says.keys():
            wrong.append(f"{block.place}: a yaml block says that it is a file, or why it is not used")
        if block.language == "text" and not {"output", "shown"} & says.keys():
            wrong.append(f"{block.place}: a text block says that it is an output, or why it is not compared")
    assert not wrong, "\n".join(wrong)
    assert re.fullmatch(r"docs: \d+ command blocks: \d+ run, .*", *tally())


def test_what_the_comments_say() -> None:
    text = "<!-- exit: 1 -->\n\n```bash\nfalse\n```\nText\n```python\n1\n```\n<!-- not run: needs a GPU -->\n```bash\nx\n```\n"
    failing, plain, left = blocks("page", text)
    assert (failing.says, plain.says, left.says) == ({"exit": "1"}, {}, {"not run": "needs a GPU"})
    assert (failing.runs, plain.runs, left.runs) == (True, True, False) and left.reason == "GPU"
    assert failing.text == "false\n" and left.line == 11


@pytest.mark.parametrize(
    ("expected", "said", "same"),
    [
        ("a b\n", "x\na   b\ny\n", True),
        ("a … c\n…\nz\n", "a b c\nq\nr\nz\n", True),
        ("a\nz\n", "a\nb\nz\n", False),
        ("a.c\n", "abc\n", False),
    ],
)
def test_outputs_are_compared_line_by_line(expected: str, said: str, same: bool) -> None:
    assert is_output(expected, said) == same


def test_a_page_that_fails_is_seen(tmp_path: Path) -> None:
    """The runner itself: a command that fails, an output that is stale and a wrong exit code are told by page and line."""
    for text, word in (
        ("```bash\nfalse\n```\n", "page:1: exit 1"),
        ("```bash\nfalse | cat; echo a\n```\n<!-- output -->\n```text\nb\n```\n", "exit 1"),
        ("```python\nprint(2)\n```\n<!-- output -->\n```text\n3\n```\n", "page:5 is not"),
        ("<!-- exit: 3 -->\n```bash\ntrue\n```\n", "page:2: exit 0"),
    ):
        with pytest.raises(AssertionError, match=word):
            run_page(blocks("page", text), tmp_path)
    text = "<!-- file: a/b.txt -->\n```yaml\nhello\n```\n```bash\ncat a/b.txt\n```\n<!-- output -->\n```text\nhello\n```\n"
    assert run_page(blocks("page", text), tmp_path) == 1
