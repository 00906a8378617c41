"""Studies that were kept without their ledger: `tables/*.parquet` are then all there is of their rows, and are only read."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from sdvar_exp.errors import UserError
from sdvar_exp.store.columns import TABLES
from sdvar_exp.store.frames import FrameBuilder
from sdvar_exp.store.manifest import is_kept


def kept_frames(folder: Path, cells: Collection[str] | None = None, stages: bool = True) -> dict[str, pd.DataFrame] | None:
    """Every table of a study without ledger, as its parquet files have them; None where there is a ledger, or no table.

    A table whose file is missing is empty. cells, stages: as `load_tables` has them. Raises `UserError` for a damaged file.
    """
    if not is_kept(folder):
        return None
    frames = {}
    for name, columns in TABLES.items():
        path = folder / "tables" / f"{name}.parquet"
        frame = FrameBuilder(columns).frame()
        if path.is_file() and (stages or name != "stages"):
            frame = _read(path)
        frames[name] = frame if cells is None else frame[frame["cell"].isin(list(cells))].reset_index(drop=True)
    return frames


def _read(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}), and the study has no ledger to make it again from; restore the file"
        ) from error
    if "cell" not in frame:
        raise UserError(f"{path} has no column 'cell', and the study has no ledger to make it again from; restore the file")
    return frame
