"""`merge` makes one study of several folders; `validate` says whether one is whole; `worst` lists images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdvar_exp.errors import UserError
from sdvar_exp.store import Study, load_tables, stable_csv, write_tables
from sdvar_exp.store.files import atomic_write
from sdvar_exp.store.ledger import LedgerReader
from sdvar_exp.store.manifest import planned_units, read_cells, read_manifest
from sdvar_exp.store.merge import merge
from tests.store.making import make_plan, opened, timing_body, unit_body

Call = Callable[..., tuple[int, str, str]]


def part(root: str, seeds: tuple[int, ...], images: bool = True, shift: float = 0.0, **changes: Any) -> Path:
    """A part of the study `made_up` as one machine leaves it: some of its seeds."""
    plan = make_plan(Path(root), seeds=seeds)
    with opened(plan, **changes) as study:
        for planned in plan.cells:
            for unit in plan.units:
                body = unit_body(planned.id, unit.label, unit.seed)
                body["sample"]["pixel_mae"] += shift if unit.seed == 1 else 0.0
                if images:
                    study.write_image(planned.id, unit.label, unit.seed, np.full((3, 4, 4), unit.seed / 4))
                study.append(body)
        study.append(timing_body(plan.cells[1].id, 3, seeds[0], 0, 20, 10))
        study.append(timing_body(plan.cells[1].id, 3, 1, 1, 20, 10))
        pair = {"type": "noise", "cell": plan.cells[0].id, "label": 3, "seed": 0, "pixel_mae": 0.1}
        study.append({**pair, "other_seed": 1}, {**pair, "other_seed": 2})
        for name in ("cache/baseline/k.npz", f"provenance/{seeds[0]}.diff"):
            atomic_write(plan.folder / name, root.encode())
    return plan.folder


def test_two_machines_make_the_study_of_one(call: Call) -> None:
    whole, a, b = part("one", (0, 1, 2)), part("a", (0, 1)), part("b", (1, 2))
    code, out, err = call("merge", str(a), str(b), "--into", "all")
    assert (code, err) == (
        0,
        "note: 1 timing of units that are timed elsewhere too left out\n",
    ) and "18 rows of 3 cells, 18 images, 6 units in several folders with equal rows" in out
    merged = Path("all")
    assert stable_csv(merged).replace(",all,", ",made_up,") == stable_csv(whole)
    units = [b for b in LedgerReader(merged / "ledger").read() if b["type"] == "unit"]
    assert len(units) == 18, "equal rows once"
    assert {c: planned_units(x) for c, x in read_cells(merged).items()} == {
        c: planned_units(x) for c, x in read_cells(whole).items()
    }
    images = {p.relative_to(whole): p.read_bytes() for p in whole.glob("images/*/*.png")}
    assert {p.relative_to(merged): p.read_bytes() for p in merged.glob("images/*/*.png")} == images
    tables = load_tables(merged)
    assert (len(tables.timings), len(tables.noise)) == (3, 2)
    beside = {
        p.relative_to(merged).as_posix(): p.read_text() for p in (*merged.glob("cache/*/*"), *merged.glob("provenance/*"))
    }
    assert beside == {"cache/baseline/k.npz": "a", "provenance/0.diff": "a", "provenance/1.diff": "b"}, "the first folder's"
    assert call("validate", "all")[:2] == (0, "all: whole\n")
    assert len(load_tables(a).samples) == 12 and not list(Path().glob(".all*")), "the folders stay, nothing is left beside"
    with Study(merged).open(make_plan(Path("."), study="all", seeds=(0, 1, 2)), read_manifest(whole)["fingerprint"]) as study:  # type: ignore[index]
        assert len(study.done()) == 18, "a run goes on with it"


def test_the_whole_compares_with_the_reference_of_its_parts(call: Call) -> None:
    def with_reference(root: str, seed: int, place: int) -> Path:
        plan = make_plan(Path(root), seeds=(seed,))
        plan = replace(plan, reference=plan.cells[place].cell)
        with opened(plan) as study:
            study.append(*(unit_body(planned.id, u.label, u.seed) for planned in plan.cells for u in plan.units))
        return plan.folder

    a, b, other = with_reference("a", 0, 0), with_reference("b", 1, 0), with_reference("c", 2, 1)
    code, _, err = call("merge", str(a), str(b), "--into", "all")
    assert (code, err) == (0, "")
    assert read_manifest(Path("all"))["reference"] == read_manifest(a)["reference"]  # type: ignore[index]
    for parts in ([a, other], [part("d", (3,)), a], [a, part("e", (4,))]):
        code, _, err = call("merge", *map(str, parts), "--into", "none")
        assert code == 2 and "compares with another reference than" in err and not Path("none").exists()


def test_the_whole_keeps_the_names_of_the_classes(call: Call) -> None:
    a, b = part("a", (0,)), part("b", (1,))
    (b / "classes.txt").write_text("tench\ngoldfish\n")
    assert call("merge", str(a), str(b), "--into", "all")[0] == 0
    assert Path("all/classes.txt").read_text() == "tench\ngoldfish\n"


def test_the_whole_was_begun_when_its_first_part_was(call: Call) -> None:
    a, b = part("a", (0,)), part("b", (1,))
    begun = "2026-01-02T03:04:05Z"
    (b / "manifest.json").write_text(json.dumps({**(read_manifest(b) or {}), "created": begun}))
    assert call("merge", str(a), str(b), "--into", "all")[0] == 0
    assert (read_manifest(Path("all")) or {})["created"] == begun


def test_rows_that_differ_are_listed_and_nothing_is_written(call: Call) -> None:
    a, b = part("a", (0, 1)), part("b", (1, 2), shift=0.5)
    code, out, err = call("merge", str(a), str(b), "--into", "all")
    assert code == 1 and out == "" and not Path("all").exists() and not list(Path().glob(".all*"))
    assert err.count("a/made_up and b/made_up differ: pixel_mae ") == 6 and err.endswith(
        "--keep-first keeps the rows of the first folder\n"
    )
    found = json.loads(call("merge", str(a), str(b), "--into", "all", "--json")[1])
    assert found["into"] is None and len(found["conflicts"]) == 6
    counts = [found[name] for name in ("rows", "cells", "equal", "timings", "images", "damage")]
    assert counts == [18, 0, 0, 1, 0, []], "no cell and no image was written"
    assert len(merge([a, b], Path("all")).conflicts) == 6 and not Path("all").exists(), "nor by a script that asks for no more"
    assert call("merge", str(a), str(b), "--into", "all", "--keep-first")[0] == 0
    first = load_tables(a).samples.set_index(["cell", "label", "seed"])["pixel_mae"]
    kept = load_tables(Path("all")).samples.set_index(["cell", "label", "seed"])["pixel_mae"]
    assert kept.loc[first.index].equals(first) and len(kept) == 18


def test_what_is_no_one_study_is_refused(call: Call) -> None:
    a, b = part("a", (0,)), part("b", (1,), code="other", images=False)
    code, _, err = call("merge", str(a), str(b), "--into", "all")
    assert code == 2 and "b/made_up: " in err and "code c0de → other" in err and "--allow-mixed merges all the same" in err
    with pytest.raises(UserError, match="code c0de → other"):
        merge([a, b], Path("all"))
    assert call("merge", str(a), str(b), "--into", "all", "--allow-mixed")[0] == 0
    assert load_tables(Path("all")).samples["mixed"].sum() == 6
    assert "is there already" in call("merge", str(a), str(b), "--into", "all")[2]
    assert "needs two folders" in call("merge", str(a), str(a), "--into", "c")[2]
    with opened(make_plan(Path("c"), study="else")):
        assert "is at work" in call("merge", str(a), "c/else", "--into", "d")[2]
    assert "is of the study 'else', a/made_up of 'made_up'" in call("merge", str(a), "c/else", "--into", "d")[2]


def test_validate_names_each_fault(call: Call) -> None:
    folder = part("a", (0, 1))
    write_tables(folder)
    assert call("validate", str(folder)) == (0, f"{folder}: whole\n", "")
    first, second, third = sorted(read_cells(folder))
    (folder / f"images/{first}/3_0.png").write_bytes(b"no image")
    (folder / f"images/{second}/3_0.png").unlink()
    shutil.copy(folder / f"images/{third}/3_0.png", folder / f"images/{third}/3_9.png")
    with Study(folder).attach() as study:
        study.append(unit_body(first, 3, 0, target_calls=99))
        study.append(unit_body(first, 8, 7, correlation=1.5))
    ledger = sorted((folder / "ledger").glob("*.jsonl"))[0]
    ledger.write_bytes(ledger.read_bytes().replace(b'"label":8', b'"label":9', 1))
    (folder / f"cells/{second}.json").unlink()
    code, out, _ = call("validate", str(folder), "--json")
    found = json.loads(out)
    said = {(f["what"], Path(f["path"]).name): f["text"] for f in found["faults"]}
    assert code == 1 and not found["whole"] and all(f["fix"] for f in found["faults"])
    assert "bad checksum" in said["record", "ledger"] and "target_calls" in said["unit", "ledger"]
    assert "rows of it" in said["cell", f"{second}.json"] and "UnidentifiedImageError" in said["image", "3_0.png"]
    assert "correlation of 1 row lies outside of -1 … 1, first cell" in said["range", "ledger"]
    assert said["image", "3_9.png"] == "it has no row" and said["images", second].startswith("has 3 samples")
    assert said["table", "samples.parquet"].startswith(("has 12 rows", "its values")) and ("table", "noise.parquet") not in said
    assert len(call("validate", str(folder))[1].splitlines()) == 2 * len(found["faults"]) + 1


@pytest.mark.parametrize("name", ["samples", "runs"])
def test_a_table_that_is_none_is_a_fault(name: str, call: Call) -> None:
    folder = part("a", (0,), images=False)
    write_tables(folder)
    (folder / f"tables/{name}.parquet").write_bytes(b"PAR1")
    code, out, _ = call("validate", str(folder))
    assert code == 1 and f"{name}.parquet: cannot be read" in out and "sdvar-exp collect" in out


def test_the_worst_images(call: Call) -> None:
    folder = part("a", (0, 1))
    samples = load_tables(folder).samples
    code, out, _ = call("worst", str(folder), "-n", "3", "--json")
    found = json.loads(out)
    wanted = samples.sort_values("pixel_mae", ascending=False).head(3)
    assert code == 0 and [row["pixel_mae"] for row in found] == wanted["pixel_mae"].tolist()
    assert all(Path(row["picture"]).is_file() for row in found)
    cell = sorted(read_cells(folder))[0]
    (worst,) = json.loads(call("worst", str(folder), "--metric", "correlation", "--cell", cell, "-n", "1", "--json")[1])
    assert worst["cell"] == cell and worst["correlation"] == samples[samples["cell"] == cell]["correlation"].min()
    assert "  a/made_up/images/" in call("worst", str(folder))[1]
    assert "is neither better nor worse" in call("worst", str(folder), "--metric", "value_max")[2]
    assert (
        call("worst", str(folder), "-n", "0")[0] == 2
        and "has no image with a psnr_db" in call("worst", str(folder), "--metric", "psnr_db")[2]
    )


def test_tables_of_a_later_version_are_told(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = part("a", (0,), images=False)
    with monkeypatch.context() as patch:
        patch.setattr("sdvar_exp.store.tables.SCHEMA", 2)
        write_tables(folder)
    shutil.rmtree(folder / "ledger")
    assert "samples.parquet is of schema 2, this version of sdvar_exp reads up to 1" in call("table", str(folder))[2]
