"""Words that may follow on the command line of `run` and `plan`: Hydra's own completion, without what is not for users."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.bash_completion import BashCompletion
from hydra.core.global_hydra import GlobalHydra

from sdvar_exp.config.command import Command, load_entries
from sdvar_exp.config.composing import CONFIG_NAME, started
from sdvar_exp.config.folder import GROUPS, names, root_keys

HIDDEN = ("hydra", "schema", "_")


def candidates(words: Sequence[str], current: str, extra: Path | None = None) -> list[str]:
    """What `current` may become, after the overrides `words`: groups and keys with `=` or `.` at the end, choices of a group.

    Of a sweep, `strategy=test3,pa`, the last value is completed. Groups alone where the words before do not compose.
    """
    key, equals, value = current.partition("=")
    done, comma, rest = value.rpartition(",")
    if equals and key in GROUPS:
        listed = set(done.split(","))
        return [f"{key}={done}{comma}{name}" for name in names(key, extra) if name.startswith(rest) and name not in listed]
    load_entries(Command((), extra))
    logging.disable(logging.CRITICAL)
    try:
        with started(extra), contextlib.redirect_stderr(io.StringIO()):
            loader = GlobalHydra.instance().config_loader()
            line = " ".join([*(_first_value(word) for word in words), current])
            found = BashCompletion(loader)._query(CONFIG_NAME, line if current else f"{line} ")
    except Exception:  # whatever is wrong with the words is told when they are run
        return []
    finally:
        logging.disable(logging.NOTSET)
    return [word for word in map(_shown, found) if not word.startswith(HIDDEN) and not word.endswith(".name=")]


def _first_value(word: str) -> str:
    """`key=a` of a sweep `key=a,b`; brackets stay whole."""
    key, equals, value = word.partition("=")
    return word if not equals or value.startswith(("[", "{", "'", '"')) else f"{key}={value.split(',')[0]}"


def _shown(word: str) -> str:
    """`labels=` where Hydra says `labels.`, for it is a list; `mask=` where it says `mask`."""
    if word in GROUPS:
        return f"{word}="
    return f"{word[:-1]}=" if word.endswith(".") and word[:-1] in (key.name for key in root_keys()) else word
