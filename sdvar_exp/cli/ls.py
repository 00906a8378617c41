"""`sdvar-exp ls`: what can be chosen, with one line each; `ls GROUP CHOICE` shows its parameters."""

from __future__ import annotations

from pathlib import Path

from sdvar_exp import registry
from sdvar_exp.cli.options import MACHINES, Parser, say_json
from sdvar_exp.config import folder
from sdvar_exp.config.template import entry_yaml, parameters
from sdvar_exp.errors import UserError
from sdvar_exp.words import choices_text, did_you_mean

ALIASES = {
    "strategies": "strategy",
    "masks": "mask",
    "rules": "acceptance",
    "rule": "acceptance",
    "controllers": "gamma",
    "schedules": "cfg_schedule",
    "schedule": "cfg_schedule",
    "models": "model",
    "experiments": "experiment",
}


def parser() -> Parser:
    known = Parser(prog="sdvar-exp ls", description=(__doc__ or "").split(": ", 1)[1], json=MACHINES)
    known.add_argument("group", nargs="?", help=f"one of {', '.join(folder.GROUPS)}", source=lambda _: folder.GROUPS)
    known.add_argument(
        "choice",
        nargs="?",
        help="one of its choices: show its yaml",
        source=lambda asked: folder.names(_group(asked.group), asked.config_dir),
    )
    return known


def main(argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    registry.discover()
    extra = asked.config_dir
    groups = [_group(asked.group)] if asked.group else list(folder.GROUPS)
    if asked.choice:
        yaml = _one(groups[0], asked.choice, extra)
        found = [option for option in folder.options(groups[0], extra) if option.name == asked.choice]
        if asked.json and found:
            say_json({**_as_dict(found[0]), "yaml": yaml})
        else:
            print(yaml)
        return 0
    options = [option for group in groups for option in folder.options(group, extra)]
    if asked.json:
        say_json([_as_dict(option) for option in options])
    else:
        print(_listing(options))
    return 0


def _group(word: str) -> str:
    group = ALIASES.get(word, word)
    if group not in folder.GROUPS:
        hint = did_you_mean(word, [*folder.GROUPS, *ALIASES], choices_text(folder.GROUPS))
        raise UserError(f"unknown group {word!r}{hint}")
    return group


def _listing(options: list[folder.Option]) -> str:
    width = max(len(option.name) for option in options) + 2
    lines: list[str] = []
    group = ""
    for option in options:
        if option.group != group:
            lines += ["", option.group] if lines else [option.group]
            group = option.group
        code = _code(option)
        lines.append(f"  {option.name:{width}}{option.doc}{'' if code is None else f' (sd_mask={code})'}")
    return "\n".join(lines)


def _code(option: folder.Option) -> int | None:
    """The number of a mask in the SDVAR sources."""
    if option.group != "mask" or option.name not in registry.names("mask"):
        return None
    return registry.get("mask", option.name).meta.get("code")


def _as_dict(option: folder.Option) -> dict[str, object]:
    out: dict[str, object] = {"group": option.group, "name": option.name, "doc": option.doc}
    if option.group in registry.KINDS and option.name in registry.names(option.group):
        out["parameters"] = parameters(option.group, option.name)
    if _code(option) is not None:
        out["code"] = _code(option)
    return out


def _one(group: str, choice: str, extra: Path | None) -> str:
    path = folder.find(group, choice, extra)
    if path is not None and (text := path.read_text(encoding="utf-8", errors="replace").rstrip()):
        return text
    # a shell that writes `ls KIND NAME > conf/KIND/NAME.yaml` has made the file empty by now
    if group in registry.KINDS and choice in registry.names(group):
        return entry_yaml(group, choice).rstrip()
    names = folder.names(group, extra)
    raise UserError(f"unknown {group} {choice!r}{did_you_mean(choice, names, choices_text(names))}")
