"""Shared by the verbs: their parser, what they print, and the help of those that take overrides."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence

from sdvar_exp.config import folder
from sdvar_exp.config.arguments import Parser

__all__ = ["MACHINES", "Parser", "help_wanted", "run_help", "say_json", "seconds", "tell"]

MACHINES = "for machines"
"""Help of `--json`."""
USES = {
    "run": "decode every cell of the command, write tables, images and figures; run it again to continue",
    "plan": "show cells and units of the command, what is cached, pending, how long and how large; nothing is run",
}


def say_json(value: object) -> None:
    """Print a value as `--json` shows it."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def tell(kind: str, lines: Iterable[object]) -> None:
    """Lines on standard error, each behind its kind, such as `note` or `error`."""
    for line in lines:
        print(f"{kind}: {line}", file=sys.stderr)


def help_wanted(argv: Sequence[str]) -> bool:
    return any(word in ("-h", "--help") for word in argv)


def run_help(parser: Parser, argv: Sequence[str]) -> str:
    """Help of `run` and `plan`: groups with their choices, root keys, options, examples."""
    extra = parser.parse_known_args([word for word in argv if word not in ("-h", "--help")])[0].config_dir
    verb = parser.prog.split()[-1]
    lines = [
        f"usage: sdvar-exp {verb} [group=choice …] [key=value …]",
        "",
        USES[verb],
        "",
        "a,b,c sweeps over values, with or without -m; groups and their choices:",
    ]
    for group in folder.GROUPS:
        lines.append(f"  {group:13} {' '.join(folder.names(group, extra))}")
    lines += ["", "keys:"]
    for key in folder.root_keys():
        lines.append(f"  {key.name + '=' + key.default:22} {key.doc}")
    lines += ["", "options:"]
    for action in parser._actions:
        flags = ", ".join(reversed(action.option_strings)) + (f" {action.metavar}" if action.metavar else "")
        lines += [f"  {flags:22} {action.help}"] if action.option_strings else []
    lines += [
        "",
        "parameters of a choice: sdvar-exp ls GROUP CHOICE; quote brackets for zsh",
        "",
        f"  sdvar-exp {verb} strategy=test3 strategy.entry_num=3,5,7 mask=block_causal,block_diagonal",
        f"  sdvar-exp {verb} strategy=parallel_v1 acceptance=match_rate acceptance.tau=0.7 gamma.value=3",
        f"  sdvar-exp {verb} experiment=guide 'labels=[0,3]' seeds=1",
    ]
    return "\n".join(lines)


def seconds(text: str) -> float:
    """A time of an option, from a tenth of a second to a day."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.1 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"give seconds from 0.1 to 86400, not {text!r}")
    return value
