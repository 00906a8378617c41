"""Hydra's own flags: `--cfg`, `--info`, `-sc`, `--hydra-help`, answered by Hydra after our checks."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import hydra

from sdvar_exp.config.arguments import HYDRA, words_parser
from sdvar_exp.config.build import compose
from sdvar_exp.config.command import load_entries, read_command
from sdvar_exp.config.composing import CONFIG_NAME, version_arguments
from sdvar_exp.config.folder import conf_folder, names
from sdvar_exp.config.overrides import Known, for_hydra, parse
from sdvar_exp.config.reading import reading
from sdvar_exp.errors import UserError


def wants_hydra(argv: Sequence[str]) -> bool:
    """Whether a command asks for something that Hydra answers."""
    options = words_parser().parse_known_args(list(argv))[0]
    return any(getattr(options, name) for name in HYDRA)


def answer(argv: Sequence[str], program: str) -> int:
    """Let Hydra answer; its exit code. Nothing is run and nothing written."""
    command = read_command(argv)
    asked, extra = command.options, command.extra
    if (asked.resolve or asked.package) and not asked.cfg:
        raise UserError("--resolve and --package go with --cfg")
    words = list(command.overrides)
    if asked.shell_completion or asked.hydra_help:
        load_entries(replace(command, overrides=()))
        form = re.compile(r"(install|uninstall|query)=(bash|fish|zsh)")
        if asked.hydra_help:
            words = []
        elif len(words) != 1 or not form.fullmatch(words[0]):
            raise UserError("-sc takes one word, {install,uninstall,query}={bash,fish,zsh}; see sdvar-exp completion")
    else:
        swept = [o.input_line for o in parse(words, []) if o.is_sweep_override()]
        if swept:
            raise UserError(f"--cfg and --info show one job; give one value instead of {swept[0]}")
        compose([*command.place, *words])
        words = for_hydra(words, Known(extra))
    flags = [f"--{name}" for name in ("resolve", "shell-completion", "hydra-help") if getattr(asked, name.replace("-", "_"))]
    flags += [word for name in ("cfg", "package", "info") if (value := getattr(asked, name)) for word in (f"--{name}", value)]
    return _hydra([*command.place, *flags, *words], program, extra)


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
