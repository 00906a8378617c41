"""Hydra's own flags: `--cfg`, `--info`, `-sc`, `--hydra-help`, answered by Hydra after our checks."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import hydra

from sdvar_exp.config.build import compose
from sdvar_exp.config.command import Command, load_entries
from sdvar_exp.config.composing import CONFIG_NAME, version_arguments
from sdvar_exp.config.folder import check_config_dir, conf_folder, names
from sdvar_exp.config.overrides import Known, for_hydra, parse
from sdvar_exp.config.reading import reading
from sdvar_exp.errors import UserError

INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--package", "-p")
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=INFO)
    parser.add_argument("--shell-completion", "-sc", action="store_true")
    parser.add_argument("--hydra-help", action="store_true")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--run", "-r", action="store_true")
    return parser


def wants_hydra(argv: Sequence[str]) -> bool:
    """Whether a command asks for something that Hydra answers."""
    flags = {"--cfg", "-c", "--resolve", "--package", "-p", "--info", "-i", "--shell-completion", "-sc", "--hydra-help"}
    return any(token.partition("=")[0] in flags for token in argv if token.startswith("-"))


def answer(argv: Sequence[str], program: str) -> int:
    """Let Hydra answer; its exit code. Nothing is run and nothing written."""
    asked = _parser().parse_intermixed_args(list(argv))
    if (asked.resolve or asked.package) and not asked.cfg:
        raise UserError("--resolve and --package go with --cfg")
    extra = check_config_dir(asked.config_dir) if asked.config_dir else None
    folder = ["--config-dir", str(extra)] if extra else []
    words = list(asked.overrides)
    if asked.shell_completion or asked.hydra_help:
        load_entries(Command(extra=extra))
        form = re.compile(r"(install|uninstall|query)=(bash|fish|zsh)")
        if asked.hydra_help:
            words = []
        elif len(words) != 1 or not form.fullmatch(words[0]):
            raise UserError("-sc takes one word, {install,uninstall,query}={bash,fish,zsh}; see sdvar-exp completion")
    else:
        swept = [o.input_line for o in parse(words, []) if o.is_sweep_override()]
        if swept:
            raise UserError(f"--cfg and --info show one job; give one value instead of {swept[0]}")
        compose([*folder, *words])
        words = for_hydra(words, Known(extra))
    flags = [f"--{name}" for name in ("resolve", "shell-completion", "hydra-help") if getattr(asked, name.replace("-", "_"))]
    flags += [word for name in ("cfg", "package", "info") if (value := getattr(asked, name)) for word in (f"--{name}", value)]
    return _hydra([*folder, *flags, *words], program, extra)


def _hydra(argv: list[str], program: str, extra: Path | None) -> int:
    def never(cfg: Any) -> None:
        raise AssertionError("the flags that lead here run nothing")

    before, sys.argv = sys.argv, [program, *argv]
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with reading(partial(names, extra=extra)):
            hydra.main(config_path=str(conf_folder()), config_name=CONFIG_NAME, **version_arguments())(never)()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.argv = before
        root.handlers[:] = handlers  # `--info` makes everything that is logged go to this moment's standard output
        root.setLevel(level)
    return 0
