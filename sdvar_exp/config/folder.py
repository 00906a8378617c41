"""Finds the yaml files of choices and lists what they offer. Imports neither Hydra nor torch."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sdvar_exp import registry
from sdvar_exp.errors import UserError
from sdvar_exp.guest import expand

CELL_GROUPS = ("model", "mask", "cfg_schedule", "acceptance", "gamma", "proposer", "sampling", "strategy")
STUDY_GROUPS = ("tracking", "engine", "design", "experiment", "debug")
GROUPS = CELL_GROUPS + STUDY_GROUPS
ROLE_KEY = re.compile(r"^([+~]*model\.(?:vae|draft|target))\.(dtype|file)(?=[=@]|$)")
LONGEST_NAME = 255  # bytes of a file's name, on every file system in use


@dataclass(frozen=True)
class Option:
    """One choice of a group and its one-line description."""

    group: str
    name: str
    doc: str


def own_key(text: str) -> str:
    """A key, or a word that begins with it, as the schema has it: `model.target_dtype` for `model.target.dtype`."""
    return ROLE_KEY.sub(lambda m: m[1] + {"dtype": "_dtype", "file": ""}[m[2]], text)


def conf_folder() -> Path:
    """The packaged `conf/` if there is one (a wheel), else that of the repository."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"no conf/config.yaml in {package} or {package.parent}; reinstall sdvar_exp")


def header(path: Path) -> str:
    """First comment line of a yaml file that is not a Hydra directive."""
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = file.read(4096).splitlines()
    for line in lines:
        if not line.startswith("#"):
            return ""
        text = line.lstrip("# ").strip()
        if text and not text.startswith("@package"):
            return text
    return ""


def options(group: str, extra: Path | None = None) -> list[Option]:
    """All choices of a group: yaml files of both folders, then registered entries that have none; none of another word."""
    files = _files(group, extra)
    docs = {name: registry.get(group, name).doc for name in _registered(group)}
    return [
        Option(group, name, docs.get(name) or (header(files[name]) if name in files else "")) for name in names(group, extra)
    ]


def names(group: str, extra: Path | None = None) -> list[str]:
    """Names of all choices of a group."""
    return sorted({*_files(group, extra), *_registered(group)})


def _files(group: str, extra: Path | None) -> dict[str, Path]:
    """The yaml of each choice that has one, the packaged one first."""
    folders = [folder / group for folder in (extra, conf_folder()) if folder is not None and group in GROUPS]
    return {path.stem: path for folder in folders for path in folder.glob("*.yaml") if path.is_file()}


def _registered(group: str) -> list[str]:
    return registry.names(group) if group in registry.KINDS else []


@dataclass(frozen=True)
class RootKey:
    """A key of conf/config.yaml that is no group, its default and what it means."""

    name: str
    default: str
    doc: str


def root_keys() -> list[RootKey]:
    """Root keys as conf/config.yaml lists them, nested ones in full; the comments are their documentation."""
    out, parent = [], ""
    lines = (conf_folder() / "config.yaml").read_text(encoding="utf-8").splitlines()
    for line in lines[next(i for i, text in enumerate(lines) if text.startswith("labels:")) :]:
        found = re.match(r"( *)(\w+):\s*([^#]*?)\s*(?:#\s*(.*))?$", line)
        if not found or found[2] == "hydra":
            if line.startswith("hydra:"):
                break
            continue
        indent, name, default, doc = found.groups()
        if default:
            out.append(RootKey(f"{parent}.{name}" if indent else name, default, doc or ""))
        else:
            parent = name
    return out


def find(group: str, name: str, extra: Path | None = None) -> Path | None:
    """The yaml of a choice, the packaged one first as Hydra has it; None for an entry without a yaml."""
    with suppress(OSError, ValueError):  # no file system has such a name
        for folder in (conf_folder(), extra):
            if folder is not None and (path := folder / group / f"{name}.yaml").is_file():
                return path
    return None


def check_config_dir(path: str) -> Path:
    """The absolute folder of a `--config-dir`."""
    folder = user_path(path, "--config-dir").absolute()
    if not folder.is_dir():
        raise UserError(f"--config-dir {path}: no such folder")
    return folder


def user_path(text: str, what: str) -> Path:
    """A path that a user gave, its ~ filled in; `UserError` for one that no file system can have."""
    try:
        path = expand(text)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
    if "\0" in text or any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise UserError(f"{what}: {shorten(text)} is no path: a name may have {LONGEST_NAME} bytes, and no zero byte")
    return path


def nearest_folder(place: Path) -> Path:
    """The folder that results lie or will lie in, or the nearest above it that exists; `UserError` where that is a file."""
    existing = place
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"results folder {place}: {existing} is not a folder; choose another results_dir")
    return existing


def shorten(text: str) -> str:
    """A text as a message shows it: quoted, its middle left out where it is long."""
    return repr(text if len(text) <= 60 else f"{text[:40]}…{text[-15:]}")
