"""What the verbs that take overrides have in common: their help, made from conf/ and the registry."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sdvar_exp.config import folder
from sdvar_exp.errors import UserError

USES = {
    "run": "decode every cell of the command, write tables, images and figures; run it again to continue",
    "plan": "show cells and units of the command, what is cached, pending, how long and how large; nothing is run",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are `UserError`s."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def help_wanted(argv: Sequence[str]) -> bool:
    return any(word in ("-h", "--help") for word in argv)


def config_dir(argv: Sequence[str]) -> Path | None:
    """The `--config-dir` of a command line."""
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        flag, equals, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            return folder.check_config_dir(value if equals else following)
    return None


def run_help(verb: str, argv: Sequence[str]) -> str:
    """Help of `run` and `plan`: groups with their choices, root keys, flags, examples."""
    extra = config_dir(argv)
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
    lines += ["", "flags:"]
    flags = {
        "-m, --multirun": "accepted; sweeps are expanded without it too",
        "--only CELL": "only these cells: id, name, pattern or key=value (strategy=test3); may be repeated",
        "--failed": "only the units that failed before",
        "--json": "records for machines on standard output: launch, failures, done; what people read goes to standard error",
        "--config-dir DIR": "a folder with groups of your own, laid out like conf/",
        "--cfg job": "show the configuration that the command means (Hydra; also --resolve, --package)",
        "--info [WHAT]": "how it was composed: defaults, searchpath, … (Hydra)",
    }
    if verb == "plan":
        flags = {"--json": "for machines", "--config-dir DIR": flags["--config-dir DIR"]}
    lines += [f"  {flag:22} {text}" for flag, text in flags.items()]
    lines += [
        "",
        "parameters of a choice: sdvar-exp ls GROUP CHOICE; quote brackets for zsh",
        "",
        f"  sdvar-exp {verb} strategy=test3 strategy.entry_num=3,5,7 mask=block_causal,block_diagonal",
        f"  sdvar-exp {verb} strategy=parallel_v1 acceptance=match_rate acceptance.tau=0.7 gamma.value=3",
        f"  sdvar-exp {verb} experiment=guide 'labels=[0,3]' seeds=1",
    ]
    return "\n".join(lines)
