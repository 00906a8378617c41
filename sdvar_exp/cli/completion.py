"""`sdvar-exp completion SHELL`: a script that completes verbs, their options, groups, choices, keys and studies."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from sdvar_exp.cli.options import Parser, config_dir
from sdvar_exp.errors import UserError

BASH = """\
_sdvar_exp() {
    local line="${COMP_LINE:0:COMP_POINT}" word cut candidate
    local IFS=$'\\n'
    COMPREPLY=()
    word="${line##*[[:space:]]}"
    cut="${COMP_WORDS[COMP_CWORD]}"
    [[ "$cut" == "=" || "$cut" == ":" ]] && cut=""
    cut="${word%"$cut"}"
    for candidate in $(sdvar-exp completion query "$line" 2>/dev/null); do
        COMPREPLY+=("${candidate#"$cut"}")
        [[ "$candidate" == *[=./] ]] && compopt -o nospace 2>/dev/null
    done
}
complete -o default -F _sdvar_exp sdvar-exp
"""
ZSH = """\
#compdef sdvar-exp
_sdvar_exp() {
    local -a found whole open
    found=("${(@f)$(sdvar-exp completion query "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    open=(${(M)found:#*[=./]})
    whole=(${found:#*[=./]})
    (( $#open )) && compadd -Q -S '' -- $open
    (( $#whole )) && compadd -Q -- $whole
    (( $#open + $#whole )) || _files
}
compdef _sdvar_exp sdvar-exp
"""
FISH = """\
function __sdvar_exp_complete
    sdvar-exp completion query (commandline -cp | string collect) 2>/dev/null
end
complete -c sdvar-exp -f -a '(__sdvar_exp_complete)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
EPILOG = """\
  bash   eval "$(sdvar-exp completion bash)"          in ~/.bashrc
  zsh    eval "$(sdvar-exp completion zsh)"           in ~/.zshrc, after compinit
  fish   sdvar-exp completion fish | source           in ~/.config/fish/config.fish
"""
STUDY_VERBS = (
    "status",
    "table",
    "collect",
    "gc",
    "diff",
    "push",
    "dashboard",
    "figures",
    "report",
    "verify",
    "quality",
    "power",
    "export",
)
OVERRIDE_VERBS = ("run", "plan")


def main(argv: list[str]) -> int:
    import argparse

    if argv[:1] == ["query"]:
        found = query(" ".join(argv[1:]))
        print("\n".join(found), end="\n" if found else "")
        return 0
    parser = Parser(
        prog="sdvar-exp completion",
        description="Print a script that teaches a shell to complete sdvar-exp.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=sorted(SCRIPTS))
    print(SCRIPTS[parser.parse_args(argv).shell], end="")
    return 0


def query(line: str) -> list[str]:
    """What the last word of a command line may become; the line begins with the command itself. Never raises."""
    try:
        words = shlex.split(line)
    except ValueError:  # an open quote
        words = line.split()
    if not line or line[-1].isspace():
        words.append("")
    before, current = words[1:-1], words[-1]
    try:
        return sorted(set(_candidates(before, current)))
    except Exception:  # a completion that fails completes nothing
        return []


def _candidates(before: Sequence[str], current: str) -> list[str]:
    from sdvar_exp.cli import VERBS

    if not before:
        return [verb for verb in [*VERBS, "--help", "--version"] if verb.startswith(current)]
    verb, rest = before[0], list(before[1:])
    if verb not in VERBS:
        return []
    if current.startswith("-"):
        return [flag for flag in flags(verb) if flag.startswith(current)]
    if rest and rest[-1].startswith("-") and (valued := values(verb, rest[-1], rest)) is not None:
        return [word for word in valued if word.startswith(current)]
    if verb in OVERRIDE_VERBS:
        from sdvar_exp.config.completion import candidates

        return candidates([word for word in rest if "=" in word and not word.startswith("-")], current, config_dir(rest))
    given = [word for word in rest if not word.startswith("-")]
    sources: dict[str, Callable[[], list[str]]] = {"ls": lambda: _listed(given), "logs": lambda: _cells(rest)}
    sources |= {"completion": lambda: sorted(SCRIPTS), "check": lambda: _models(given)}
    sources |= dict.fromkeys(STUDY_VERBS, lambda: _studies(rest))
    found = sources.get(verb, list)()
    return [word for word in found if word.startswith(current)]


def values(verb: str, flag: str, rest: Sequence[str]) -> list[str] | None:
    """What may stand behind a flag: choices, cells, studies, or nothing where it is free text or a path; None where the
    flag stands alone, so that the next word is not its value.
    """
    if flag in ("--config-dir", "-cd", "--results-dir", "--out", "--profile", "--to", "--real"):
        return []
    sources: dict[tuple[str, str], Callable[[], list[str]]] = {
        ("run", "--only"): lambda: _cells(rest),
        ("table", "--stable"): lambda: _of("cli.table", "STABLE"),
        ("figures", "--only"): lambda: _registered("figure"),
        ("figures", "--venue"): lambda: _of("report.sizes", "VENUES"),
        ("power", "--metric"): lambda: _registered("metric"),
        ("power", "--against"): lambda: _cells(rest),
        ("export", "--cell"): lambda: _cells(rest),
        ("quality", "--extractor"): lambda: ["classifier", "inception"],
        ("push", "--mode"): lambda: ["offline", "online"],
        ("logs", "--study"): lambda: _studies(rest),
        ("diff", "--study"): lambda: _studies(rest),
        ("diff", "--fail-on"): lambda: [f"{metric}>" for metric in _registered("metric")],
    }
    source = sources.get((verb, flag))
    return None if source is None else source()


def _registered(kind: str) -> list[str]:
    from sdvar_exp import registry

    return registry.names(kind)


def _of(module: str, name: str) -> list[str]:
    return list(getattr(import_module(f"sdvar_exp.{module}"), name))


def flags(verb: str) -> list[str]:
    """Options that the verb's help names."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        import_module(f"sdvar_exp.cli.{verb}").main(["--help"])
    return sorted({*re.findall(r"(?<![\w-])--[a-z][a-z-]*", said.getvalue()), "--help"})


def _results(rest: Sequence[str]) -> Path:
    for word, following in zip(rest, [*rest[1:], ""], strict=False):
        if word.startswith("--results-dir"):
            return Path(word.partition("=")[2] or following)
    return Path("results")


def _studies(rest: Sequence[str]) -> list[str]:
    return sorted(path.parent.name for path in _results(rest).glob("*/manifest.json"))


def _cells(rest: Sequence[str]) -> list[str]:
    from sdvar_exp.store.manifest import read_cells

    return [cell for study in _studies(rest) for cell in read_cells(_results(rest) / study)]


def _models(given: Sequence[str]) -> list[str]:
    from sdvar_exp.config import folder

    return [] if given else folder.names("model")


def _listed(given: Sequence[str]) -> list[str]:
    from sdvar_exp.cli.ls import ALIASES
    from sdvar_exp.config import folder

    if not given:
        return list(folder.GROUPS)
    group = ALIASES.get(given[0], given[0])
    if group not in folder.GROUPS or len(given) > 1:
        raise UserError(f"no group {group}")
    return folder.names(group)
