"""Words that may follow on the command line of `run` and `plan`: Hydra's own completion, without what is not for users."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import get_type_hints

from hydra._internal.core_plugins.bash_completion import BashCompletion
from hydra.core.global_hydra import GlobalHydra

from sdvar_exp import registry
from sdvar_exp.cell import Sampling
from sdvar_exp.config.command import Command, load_entries
from sdvar_exp.config.composing import CONFIG_NAME, started
from sdvar_exp.config.folder import GROUPS, names, root_keys
from sdvar_exp.config.overrides import Known
from sdvar_exp.config.schema import Root, TrackingNode

WORDS = {"device": ["auto", "cpu", "cuda"], "images": ["all", "none"], "labels": ["all"]}
"""Values of keys of which other values cannot be listed."""
HIDDEN = ("hydra", "schema", "_")


def candidates(words: Sequence[str], current: str, extra: Path | None = None) -> list[str]:
    """Completions of `current` after the overrides `words`: groups and keys with `=` or `.` at the end, choices of a group.

    Of a sweep, `strategy=test3,pa`, the last value is completed. Groups alone where the words before do not compose.
    """
    key, equals, value = current.partition("=")
    done, comma, rest = value.rpartition(",")
    load_entries(Command((), extra))
    if equals and (known := names(key, extra) if key in GROUPS else values(key)):
        listed = set(done.split(","))
        return [f"{key}={done}{comma}{name}" for name in known if name.startswith(rest) and name not in listed]
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


def values(key: str) -> list[str]:
    """Values that a key may be set to, where they can be listed: truth values, words of an enum, devices; else nothing."""
    group, _, name = key.rpartition(".")
    hints = [get_type_hints(Root).get(key)] if not group else []
    owners = [registry.get(group, entry).params for entry in registry.names(group)] if group in registry.KINDS else []
    owners += [TrackingNode] if group == "tracking" else [Sampling] if group == "sampling" else []
    hints += [get_type_hints(owner).get(name) for owner in owners]
    found = [str(member.value) for hint in hints if isinstance(hint, type) and issubclass(hint, Enum) for member in hint]
    found += ["true", "false"] if bool in hints else []
    return list(dict.fromkeys(found)) or WORDS.get(key, [])


def _first_value(word: str) -> str:
    """`key=a` of a sweep `key=a,b`; brackets stay whole."""
    key, equals, value = word.partition("=")
    return word if not equals or value.startswith(("[", "{", "'", '"')) else f"{key}={value.split(',')[0]}"


def _shown(word: str) -> str:
    """`labels=`, `acceptance.by_stage=` where Hydra says `labels.`, for it is a list; `mask=` where it says `mask`."""
    if word in GROUPS:
        return f"{word}="
    if word.endswith(".") and word[:-1] in (*(key.name for key in root_keys()), *Known().parameters()):
        return f"{word[:-1]}="
    return word
