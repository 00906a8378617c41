"""One line per mistake: what is wrong and, where it can be guessed, what was meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from sdvar_exp.config.folder import names
from sdvar_exp.errors import UserError
from sdvar_exp.words import did_you_mean

LIMIT = 40


class ConfigErrors(UserError):
    """Several mistakes in one command, one line each."""

    def __init__(self, lines: Iterable[str]):
        self.lines = list(dict.fromkeys(lines))
        shown = self.lines[:LIMIT]
        if len(self.lines) > LIMIT:
            shown.append(f"… and {len(self.lines) - LIMIT} more")
        super().__init__("\n".join(shown))


def one_line(text: object) -> str:
    """Any message on one line, without the pointers to Hydra's own documentation."""
    words = re.sub(r"See https://hydra\.cc\S*( for \w+)?|\s+full_key: \S*|\s+object_type=\S+", "", str(text))
    return " ".join(words.split())


def complaint(text: str, error: Exception) -> str:
    """The complaint of Hydra's parser about a word, in brackets; empty where that is the word itself."""
    reason = one_line(str(error).split("\n")[0]).removeprefix("LexerNoViableAltException: ")
    if reason.startswith("Error parsing override"):
        reason = one_line(str(error).split("\n")[1]).split("': ", 1)[-1]
    reason = re.sub(r"(mismatched|no viable alternative at) input '<EOF>'", "something is missing at its end", reason)
    reason = re.sub(r"mismatched input ('.*?') expecting .*", r"\1 in a place where it cannot stand", reason)
    reason = re.sub(r" expecting \{.*", "", reason)
    return "" if not reason or reason == text or text in reason else f" ({reason})"


def explain(error: BaseException, guess: Callable[[str], str] = lambda key: "") -> str:
    """One line for what Hydra or OmegaConf says about a composition. guess: what an unknown key was meant to be."""
    text = str(error)
    if not text.strip() and error.__cause__ is not None:
        text = str(error.__cause__)
    source = re.search(r"In '([^']+)'", text)
    where = f"conf {source[1]}: " if source and source[1] not in ("config", "hydra/config") else ""
    key = re.search(r"full_key: (\S+)", text)
    if source and key and key[1] == source[1].partition("/")[0] in ("experiment", "debug"):
        return f"{source[1]}.yaml sets keys of the whole configuration: its first line must be '# @package _global_'"
    if key and (unknown := re.search(r"Key '([^']+)' (?:not in|is not in) '?([^'\n]+)", text)):
        if unknown[2].strip() in ("struct", "Root"):
            return f"{where}unknown key {key[1]!r}{guess(key[1])}"
        chosen = key[1].split(".")[0]
        return f"{where}unknown key {key[1]!r}: the chosen {chosen} has no parameter {unknown[1]!r}{guess(key[1])}"
    if missing := re.search(r"Could not (?:find|load) '([^']+)'", text):
        group, _, name = missing[1].rpartition("/")
        options = [line.strip() for line in text.split(":\n", 1)[-1].splitlines() if line.startswith("\t")]
        options = options or list(getattr(error, "options", None) or names(group))
        return f"{where}unknown {group or 'config'} {name!r}{did_you_mean(name, options)}"
    value = re.search(r"(Invalid value .*|Value .*|Incompatible value .*|Merge error: .*|field '.*' is not Optional)", text)
    if key and value:
        return f"{where}{key[1]}: {value[1]}"
    return one_line(text) or type(error).__name__
