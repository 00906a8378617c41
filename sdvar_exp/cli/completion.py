"""`sdvar-exp completion SHELL`: a script that completes verbs, their options, groups, choices, keys and studies."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from importlib import import_module

from sdvar_exp.cli.options import Parser

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


def parser() -> Parser:
    known = Parser(
        prog="sdvar-exp completion", description="Print a script that teaches a shell to complete sdvar-exp.", epilog=EPILOG
    )
    known.add_argument("shell", choices=sorted(SCRIPTS))
    return known


def main(argv: list[str]) -> int:
    if argv[:1] == ["query"]:
        found = query(" ".join(argv[1:]))
        print("\n".join(found), end="\n" if found else "")
        return 0
    print(SCRIPTS[parser().parse_args(argv).shell], end="")
    return 0


def query(line: str) -> list[str]:
    """Completions of the last word of a command line; the line begins with the command itself. Never raises."""
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
    known: Parser = import_module(f"sdvar_exp.cli.{verb}").parser()
    asked = known.typed(rest, current)
    flag, equals, value = current.partition("=")
    if current.startswith("-") and not equals:
        flags = [text for action in known._actions for text in action.option_strings if text.startswith("--")]
        return [text for text in {*flags, "--help"} if text.startswith(current)]
    action, given = _place(known, [*rest, flag] if current.startswith("-") else rest)
    if current.startswith("-"):
        asked.current = value
        return [f"{flag}={word}" for word in _values(action, asked) if word.startswith(value)]
    if action is None and verb in ("run", "plan"):
        from sdvar_exp.config.completion import candidates

        return candidates([word for word in given if "=" in word], current, asked.config_dir)
    return [word for word in _values(action, asked) if word.startswith(current)]


def _place(known: Parser, words: Sequence[str]) -> tuple[argparse.Action | None, list[str]]:
    """The option or argument that the next word is a value of, None for an override; and the words before that are of none."""
    options = {text: action for action in known._actions for text in action.option_strings}
    given: list[str] = []
    pending: argparse.Action | None = None
    for word in words:
        action = options.get(word)
        if action is not None:
            pending = action if action.nargs != 0 else None
        elif pending is not None:
            pending = None
        elif not word.startswith("-"):
            given.append(word)
    if pending is not None:
        return pending, given
    places = [action for action in known._actions if not action.option_strings]
    last = places[-1:] if len(given) >= len(places) and places and places[-1].nargs in ("+", "*") else []
    return next(iter([*places[len(given) :], *last]), None), given


def _values(action: argparse.Action | None, asked: argparse.Namespace) -> list[str]:
    """Values of an option or argument: its choices, or what its source lists."""
    source = getattr(action, "source", None)
    return [str(word) for word in (source(asked) if source else (action and action.choices) or ())]
