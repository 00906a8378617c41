"""The files of a pair of models: where they lie, and whether they are there. No torch, so that `plan` may ask."""

from __future__ import annotations

import os
from pathlib import Path

from sdvar_exp.cell import ModelSpec
from sdvar_exp.errors import UserError
from sdvar_exp.guest import expand

WEIGHTS = Path(__file__).with_name("weights")
SHIPPED = {"embedded": "draft", "embedded_plain": "draft_plain", "embedded_late": "draft_late", "emoji": "emoji/draft"}
"""Pair that ships with the package: file of its draft; the VQVAE and the target lie beside it."""

KINDS = (
    (b"version https://git-lfs", "it is a git-lfs pointer, a text in place of the weights: fetch them with `git lfs pull`"),
    (b"version https://hawser", "it is a git-lfs pointer, a text in place of the weights: fetch them with `git lfs pull`"),
    (b"/annex/objects/", "it is a git-annex pointer, a text in place of the weights: fetch them with `git annex get`"),
    (b"<", "it is the text of a web page, not weights: download the file itself"),
    (b"\x1f\x8b", "it is packed by gzip: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "it is a 7z archive: unpack it first"),
    (b"BZh", "it is packed by bzip2: unpack it first"),
    (b"\xfd7zXZ", "it is packed by xz: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "it is packed by zstd: unpack it first"),
    (b"\x93NUMPY", "it is an array of NumPy: save the weights with torch.save or as safetensors"),
    (b"\x89HDF", "it is an HDF5 file: save the weights with torch.save or as safetensors"),
    (b"GGUF", "it is a GGUF file: save the weights with torch.save or as safetensors"),
)
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number with which torch.save began before version 1.6
DAMAGED = "it is damaged or was cut off; copy or download it again"


def model_files(spec: ModelSpec) -> dict[str, Path]:
    """The files of a pair by role: vae, draft, target. `UserError` naming one that is not there, or no checkpoint at all."""
    shipped = shipped_files(spec.name) if spec.name in SHIPPED else {}
    own = {role: _find(spec, role) for role in ("vae", "draft", "target") if getattr(spec, role) or not shipped}
    for path in own.values():
        beginning(path)
    return shipped | own


def unreadable(path: Path, reason: str) -> UserError:
    """The error of a file whose content cannot be used at all."""
    return UserError(f"checkpoint {shown(path, 4096)} cannot be read (truncated, or not a checkpoint of tensors): {reason}")


def unopened(path: Path, error: OSError) -> UserError:
    """The error of a file that the system does not open."""
    return UserError(f"checkpoint {shown(path, 4096)} cannot be opened: {error.strerror or error}")


def beginning(path: Path) -> bytes:
    """The first 512 bytes of a checkpoint file.

    Raises:
        UserError: no file, or by its first bytes none of torch.save or safetensors; says what it is instead.
    """
    if missing := missing_file(path):
        raise UserError(f"checkpoint {missing}")
    try:
        with path.open("rb") as f:
            start = f.read(512)
        size = path.stat().st_size
    except OSError as error:
        raise unopened(path, error) from None
    safetensors = start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size
    if not safetensors and not start.startswith((b"PK\x03\x04", LEGACY)):
        raise unreadable(path, _other_kind(start))
    return start


def missing_file(path: Path) -> str:
    """Words for what stands at a path instead of a file; empty where there is one."""
    name = shown(path, 4096)
    try:
        if path.is_file():
            return ""
        if path.is_dir():
            return f"{name} is a folder: name the file in it"
        if path.is_symlink():
            return f"{name} is a link that leads to no file: {shown(os.readlink(path))}"
        return f"{name} is no regular file" if path.exists() else f"{name} does not exist"
    except OSError as error:
        return f"{name} cannot be opened: {error.strerror or error}"


def _other_kind(start: bytes) -> str:
    """Name the kind of a file by its beginning; neither torch.save nor safetensors made it."""
    if not start:
        return "it is empty; copy or download it again"
    if kind := next((reason for magic, reason in KINDS if start.lstrip().startswith(magic)), None):
        return kind
    if start[257:262] == b"ustar":
        return "it is a tar archive: unpack it first"
    if b'"weight_map"' in start or (start.lstrip().startswith(b"{") and b'"total_size"' in start):
        return "it is the index of a checkpoint in parts: join them into one safetensors file"
    text = start[:509] if len(start) == 512 else start  # a letter of several bytes may be cut at the end
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in text) and "\ufffd" not in text.decode("utf-8", "replace"):
        return "it is a text, not weights"
    if start.startswith(b"\x80") and len(start) > 2:
        return "it is a plain pickle, not made by torch.save: save the weights with torch.save or as safetensors"
    return DAMAGED


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
    missing = missing_file(path)
    if missing.endswith("does not exist"):
        where = f"; it is published at {spec.published}" if spec.published else ""
        hint = "set model.folder or SDVAR_CHECKPOINTS"
        raise UserError(f"model={spec.name}: {shown(path.name)} is not in {shown(path.parent, 4096)} ({hint}){where}")
    if missing:
        raise UserError(f"model.{role}: {missing}")
    return path


def checkpoint_folder(name: str = "") -> Path:
    """Folder of the checkpoints: the one of that name, else of the environment, else `checkpoints`."""
    return expand(name or os.environ.get("SDVAR_CHECKPOINTS") or "checkpoints")


def shipped_files(name: str) -> dict[str, Path]:
    """The files of a pair that ships with the package, by role."""
    draft = WEIGHTS / f"{SHIPPED[name]}.safetensors"
    return {"vae": draft.with_stem("vae"), "draft": draft, "target": draft.with_stem("target")}


def shipped_folder(name: str) -> Path:
    """The folder of a pair that ships with the package: also its card, its classifier and that one's test features."""
    return (WEIGHTS / SHIPPED[name]).parent
