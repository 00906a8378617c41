"""The files of a pair of models: where they lie, and whether they are there. No torch, so that `plan` may ask."""

from __future__ import annotations

import os
from pathlib import Path

from sdvar_exp.cell import ModelSpec
from sdvar_exp.errors import UserError
from sdvar_exp.guest import expand

WEIGHTS = Path(__file__).with_name("weights")
SHIPPED = {"embedded": "draft", "embedded_plain": "draft_plain"}  # name of the pair: file of its draft


def model_files(spec: ModelSpec) -> dict[str, Path]:
    """The files of a pair by role: vae, draft, target. `UserError` naming one that is not there."""
    if spec.name in SHIPPED and not (spec.vae or spec.draft or spec.target):
        return shipped_files(spec.name)
    return {role: _find(spec, role) for role in ("vae", "draft", "target")}


def shown(text: object, limit: int = 100) -> str:
    """Text of a file as a message may hold it: one line, control characters escaped, shortened in the middle."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return safe if len(safe) <= limit else f"{safe[: limit // 2]}…{safe[-limit // 2 :]}"


def _find(spec: ModelSpec, role: str) -> Path:
    """The file of one role: the spec's name, looked for in its folder."""
    name = getattr(spec, role)
    if not name:
        raise UserError(f"model={spec.name} names no {role} checkpoint; set model.{role}=FILE")
    path = expand(name)
    if not path.is_absolute():
        path = checkpoint_folder(spec.folder) / path
    try:
        found, folder = path.is_file(), path.is_dir()
    except OSError as error:
        raise UserError(f"model.{role}={shown(name)}: {error.strerror}; give the name of a file") from None
    if folder:
        raise UserError(f"model={spec.name}: {shown(path, 4096)} is a folder; name the file in it")
    if not found:
        where = f"; it is published at {spec.published}" if spec.published else ""
        hint = "set model.folder or SDVAR_CHECKPOINTS"
        raise UserError(f"model={spec.name}: {shown(path.name)} is not in {shown(path.parent, 4096)} ({hint}){where}")
    return path


def checkpoint_folder(name: str = "") -> Path:
    """Folder of the checkpoints: the one of that name, else of the environment, else `checkpoints`."""
    return expand(name or os.environ.get("SDVAR_CHECKPOINTS") or "checkpoints")


def shipped_files(name: str) -> dict[str, Path]:
    """The files of a pair that ships with the package, by role."""
    names = {"vae": "vae", "draft": SHIPPED[name], "target": "target"}
    return {role: WEIGHTS / f"{file}.safetensors" for role, file in names.items()}
