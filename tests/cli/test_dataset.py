"""`export --dataset`: the folder reads back as Hugging Face documents it, with `datasets` where it is installed."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from sdvar_exp.cli import main
from sdvar_exp.store import load_tables
from tests.store.making import all_units, make_plan, opened


@pytest.fixture
def exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, Path]:
    """A study of three cells with one image, and its dataset."""
    plan = make_plan(tmp_path / "results")
    with opened(plan) as study:
        study.append(*all_units(plan))
        study.write_image(plan.cells[1].cell.id, 3, 1, np.full((3, 8, 8), 0.5))
    out = tmp_path / "new" / "dataset"
    assert main(["export", str(plan.folder), "--dataset", "--to", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"to": str(out), "cells": 3, "rows": 18, "images": 1}
    return plan.folder, out


def test_rows_and_images_read_back(exported: tuple[Path, Path]) -> None:
    folder, out = exported
    (file,) = (out / "data").iterdir()
    table = pq.read_table(file)
    frame, samples = table.to_pandas(), load_tables(folder).samples
    for name in ("cell", "label", "seed", "pixel_mae", "target_calls", "identical", "name"):
        pd.testing.assert_series_equal(frame[name], samples[name], check_dtype=False)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == table.column_names and features["image"] == {"_type": "Image"}
    assert features["pixel_mae"] == {"dtype": "float64", "_type": "Value"} and "host" not in features
    (picture,) = frame["image"].dropna()
    row = frame[frame["image"].notna()].iloc[0]
    assert (row["label"], row["seed"]) == (3, 1) and picture["path"] == f"{row['cell']}/3_1.png"
    with Image.open(io.BytesIO(picture["bytes"])) as image:
        assert image.size == (8, 8) and image.getpixel((0, 0)) == (128, 128, 128)


def test_the_card_names_the_file_and_says_what_made_it(exported: tuple[Path, Path]) -> None:
    _, out = exported
    _, front, text = (out / "README.md").read_text().split("---\n", 2)
    (config,) = yaml.safe_load(front)["configs"]
    assert [(f["split"], (out / f["path"]).is_file()) for f in config["data_files"]] == [("train", True)]
    assert "code: `c0de`" in text and "a1" in text and "18 rows" in text and "parallel_v1 γ=3" in text


def test_a_second_export_is_equal_and_foreign_files_are_refused(
    exported: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = exported
    (file,) = (out / "data").iterdir()
    before = file.read_bytes()
    assert main(["export", str(folder), "--dataset", "--to", str(out)]) == 0 and file.read_bytes() == before
    assert "18 rows of 3 cells, 1 image" in capsys.readouterr().out
    (out / "mine.txt").write_text("")
    assert main(["export", str(folder), "--dataset", "--to", str(out)]) == 2
    assert "holds other files (mine.txt)" in capsys.readouterr().err
    assert main(["export", str(folder), "--dataset", "--to", str(file)]) == 2


@pytest.mark.needs("datasets")
def test_datasets_loads_it(exported: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    import datasets

    loaded = datasets.load_dataset(str(exported[1]), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == 18 and [x.size for x in loaded["image"] if x is not None] == [(8, 8)]
