"""A study as a folder that Hugging Face's `datasets` and its Hub read: one parquet file with rows and images, and a card.

The layout is the documented one: `data/train-00000-of-00001.parquet`, whose column `image` is a struct of `bytes` (the PNG
file) and `path`, with the features in the metadata under `huggingface`; `README.md` names it and says what made the rows.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sdvar_exp.store.columns import VOLATILE
from sdvar_exp.store.files import atomic_write, storage_errors
from sdvar_exp.store.images import image_name
from sdvar_exp.store.tables import Tables

FILE = Path("data") / "train-00000-of-00001.parquet"
FILES = {"README.md", "data"}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PROVENANCE = ("code", "checkpoints", "packages", "device_kind", "dtype", "threads")


def write_dataset(folder: Path, tables: Tables, cells: list[str], out: Path) -> tuple[int, int]:
    """Write the rows of some cells of a study, each with its image where one is kept; how many rows, how many with an image.

    The columns are those of the stable table, so that a second export of the same study is equal. One cell is in memory at a
    time. Whole or not at all: the card is written last, a stopped export leaves `.part`.
    """
    samples = tables.samples[[c for c in tables.samples if c not in VOLATILE]]
    schema = _schema(samples)
    part, images, rows = out / FILE.with_suffix(".part"), 0, 0
    with storage_errors(out):
        part.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(part, schema) as writer:
            for cell in cells:
                own = samples[samples["cell"] == cell]
                pictures = [_picture(folder, *unit) for unit in own[["cell", "label", "seed"]].itertuples(index=False)]
                images, rows = images + sum(p is not None for p in pictures), rows + len(own)
                plain = pa.Table.from_pandas(own, schema=pa.schema(list(schema)[1:]), preserve_index=False)
                columns = [pa.array(pictures, IMAGE), *plain.columns]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
        os.replace(part, out / FILE)
        atomic_write(out / "README.md", _card(tables, cells, rows, images).encode())
    return rows, images


def _schema(samples: pd.DataFrame) -> pa.Schema:
    """The image, then the columns of `samples`, with what `datasets` reads of them in the metadata."""
    fields = pa.Schema.from_pandas(samples, preserve_index=False)
    # a column of nulls alone has no type yet; pandas' text is large_string, which is string to `datasets`
    kinds = {f.name: f.type if f.type not in (pa.null(), pa.large_string()) else pa.string() for f in fields}
    names = {pa.float64(): "float64", pa.int64(): "int64", pa.bool_(): "bool", pa.string(): "string"}
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    features |= {name: {"dtype": names.get(kind, str(kind)), "_type": "Value"} for name, kind in kinds.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([("image", IMAGE), *kinds.items()], metadata=metadata)


def _picture(folder: Path, cell: str, label: int, seed: int) -> dict[str, Any] | None:
    name = image_name(label, seed)
    path = folder / "images" / cell / name
    return {"bytes": path.read_bytes(), "path": f"{cell}/{name}"} if path.is_file() else None


def _card(tables: Tables, cells: list[str], rows: int, images: int) -> str:
    """README.md: front matter that names the file, then what the rows are and what made them."""
    runs = tables.runs[tables.runs["cell"].isin(cells)]
    study = str(runs["study"].iloc[0])
    front: dict[str, Any] = {"pretty_name": study, "tags": ["speculative-decoding", "visual-autoregressive"]}
    front["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": FILE.as_posix()}]}]
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", "", f"# Study {study}", ""]
    lines += [
        f"{rows} rows, one per (cell, label, seed); {images} have the image in `image`, as PNG. Columns: `docs/metrics.md`."
    ]
    lines += ["", "| cell | name | lossless | configuration |", "|---|---|---|---|"]
    shown = runs[["cell", "name", "lossless", "config"]].itertuples(index=False)
    lines += [f"| `{r.cell}` | {_escaped(r.name)} | {r.lossless} | `{_escaped(r.config)}` |" for r in shown]
    lines += ["", "## What made it", ""]
    facts = {name: runs[name].dropna().unique().tolist() for name in PROVENANCE if name in runs}
    lines += [
        f"- {name}: {'; '.join(f'`{_escaped(str(value))}`' for value in values)}" for name, values in facts.items() if values
    ]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'")
