"""Files that are there whole or not at all: temporary file in the same folder, then a rename."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sdvar_exp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

_counter = itertools.count()


def is_study(folder: Path) -> bool:
    """Whether a folder is that of a study."""
    return (folder / "manifest.json").is_file()


def studies_in(results: Path) -> list[Path]:
    """The folders of the studies in a results folder, by name."""
    return sorted(path.parent for path in results.glob("*/manifest.json"))


class StorageError(UserError):
    """The results folder does not take what is written to it: disk full, read-only, gone. One line, as `UserError`."""

    exit_code = 1  # the command was fine


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` while writing `path` into a `StorageError` that names the path and the reason."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; free space or allow writing, then run the command again"
        ) from error


def atomic_write(path: Path, data: bytes, durable: bool = False) -> None:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part.

    durable: also survive a power failure (about 3 ms more). Folders are made. Raises `StorageError`, leaving no part.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{next(_counter)}.tmp")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        if durable:
            sync_folder(path.parent)


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as `<path>.csv` and `<path>.parquet`, each file whole or not at all."""
    with storage_errors(path):
        atomic_write(path.with_suffix(".csv"), frame.to_csv(index=False, lineterminator="\n").encode())
        atomic_write(path.with_suffix(".parquet"), frame.to_parquet(None, index=False))


def sync_folder(folder: Path) -> None:
    """Make new names in `folder` survive a power failure, where the file system can."""
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def make_folders(folder: Path) -> list[Path]:
    """Create `folder` and its parents; the ones that were made, outermost first. Undoes itself where it fails."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    made: list[Path] = []
    try:
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            made.append(path)
    except OSError:
        remove_empty(made)
        raise
    return made


def remove_empty(folders: list[Path]) -> None:
    """Remove folders that were made for nothing, innermost first; one that holds something stays."""
    for path in reversed(folders):
        with suppress(OSError):
            path.rmdir()
