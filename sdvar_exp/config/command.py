"""A command line split into options and overrides, and the entries that it needs."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import zip_longest
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from sdvar_exp import registry
from sdvar_exp.config import folder
from sdvar_exp.config.arguments import words_parser
from sdvar_exp.config.folder import names
from sdvar_exp.config.overrides import parse
from sdvar_exp.config.reading import check_interpolations, read_yaml
from sdvar_exp.config.schema import Root, store_schemas
from sdvar_exp.errors import UserError
from sdvar_exp.words import did_you_mean

ELSEWHERE = {
    "--dry-run": "; sdvar-exp plan shows what a command would do",
    "--json": "; sdvar-exp plan, table and status have --json",
}
"""Options that people expect of `run`, and which verb has them."""


@dataclass(frozen=True)
class Command:
    """Overrides of a command line, the user's `--config-dir` and modules of `--plugin`; options: all that was given."""

    overrides: tuple[str, ...] = ()
    extra: Path | None = None
    plugins: tuple[str, ...] = ()
    options: Namespace = field(default_factory=Namespace)

    @property
    def place(self) -> list[str]:
        """The words that name the folder again."""
        return [] if self.extra is None else ["--config-dir", str(self.extra)]


def read_command(argv: Sequence[str]) -> Command:
    """Split options from the overrides. `-m` and `-r` are accepted: sweeps are expanded in any case."""
    parser = words_parser()
    options, words = parser.parse_known_args(list(argv))
    for token, after in zip_longest(words, words[1:], fillvalue=""):
        flag, equals, value = token.partition("=")
        if token.startswith("--") and flag.lstrip("-").split(".")[0] in (*folder.GROUPS, *(f.name for f in fields(Root))):
            apart = "" if equals or "=" in after or after.startswith("-") else after
            agent = "; a W&B agent does so with ${args_no_hyphens} for ${args}" if equals else ""
            said = f"{token} {apart}".rstrip()
            raise UserError(f"{said}: write {flag.lstrip('-')}={value or apart or '…'}, without --{agent}")
        if token.startswith("-"):
            known = [text for action in parser._actions for text in action.option_strings if text.startswith("--")]
            hint = ELSEWHERE.get(flag) or did_you_mean(flag, [*known, "--help", "--only", "--failed"])
            raise UserError(f"unknown option {token}{hint}")
    check_interpolations("".join(words).count("${"), "the command line")
    return Command(tuple(words), options.config_dir, tuple(options.plugin), options)


def load_entries(command: Command) -> None:
    """Import all entries, those of the plugins of the command line and of its experiment included; store schemas."""
    plugins = list(command.plugins)
    unread: list[str] = []  # what cannot be parsed is reported by the caller
    for override in parse(command.overrides, unread):
        if override.is_sweep_override():
            continue
        if override.key_or_group == "plugins":
            value = override.value()
            plugins += [str(v) for v in value] if isinstance(value, list) else [str(value)]
        elif override.key_or_group == "experiment":
            plugins += _plugins_of(str(override.value()), command.extra)
    registry.discover(plugins)
    store_schemas(command.extra)


def _plugins_of(experiment: str, extra: Path | None) -> list[str]:
    """`plugins:` of an experiment file, read before anything can be composed with what they register."""
    path = folder.find("experiment", experiment, extra)
    if path is None:
        return []
    try:
        content = read_yaml(path.read_text(encoding="utf-8"), lambda group: names(group, extra), str(path))
    except Exception:  # whatever is wrong with the file is reported when it is composed
        return []
    listed = content.get("plugins") if isinstance(content, DictConfig) else None
    return [str(v) for v in listed] if isinstance(listed, ListConfig) else []
