"""Images for other evaluators: VAR's 50k protocol on the embedded pair in small, as npz and as a folder."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdvar_exp.cli import main
from sdvar_exp.config import compose
from sdvar_exp.store.export import shuffled, write_npz
from sdvar_exp.store.images import unit_images

SMALL = ["run", "experiment=var_50k", "model=embedded", "labels=[0,4]", "seeds=2"]


def test_the_protocol_is_vars() -> None:
    plan = compose(["experiment=var_50k"])
    (planned,) = plan.cells
    assert len(plan.labels) * len(plan.seeds) == 50_000 and plan.folder.name == "var_50k"
    config = planned.cell.as_dict()
    assert config["strategy"] == {"name": "sequential"} and config["cfg_schedule"] == {"name": "linear", "cfg": 1.5}
    assert (config["sampling"]["top_k"], config["sampling"]["top_p"]) == (900, 0.96)
    assert config["model"]["target"] == "var_d30.pth" and plan.settings.images == "all"


@pytest.mark.long
@pytest.mark.needs("weights")
def test_a_small_run_is_exported_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(SMALL) == 0
    (images,) = (tmp_path / "results" / "var_50k" / "images").iterdir()
    kept = {path.name: np.asarray(Image.open(path).convert("RGB")) for _, _, path in unit_images(images)}
    assert len(kept) == 4
    capsys.readouterr()
    assert main(["export", "var_50k", "--to", "out/samples.npz"]) == 0
    assert "arr_0 uint8 4×40×40×3" in capsys.readouterr().out
    with np.load("out/samples.npz", allow_pickle=False) as file:
        assert file.files == ["arr_0"] and file["arr_0"].dtype == np.uint8
        arrays = file["arr_0"]
    assert sorted(a.tobytes() for a in arrays) == sorted(a.tobytes() for a in kept.values())
    assert main(["export", "--to", "out/png"]) == 0 and "4 images, 4 new" in capsys.readouterr().out
    assert [p.name for p in sorted(Path("out/png").iterdir())] == [*(f"{i:06d}.png" for i in range(4)), "labels.csv"]
    listed = [line.split(",") for line in Path("out/png/labels.csv").read_text().splitlines()]
    assert listed[0] == ["file", "label", "seed"] and [row[0] for row in listed[1:]] == [f"{i:06d}.png" for i in range(4)]
    assert all(
        np.array_equal(np.asarray(Image.open(Path("out/png", f)).convert("RGB")), kept[f"{k}_{s}.png"])
        for f, k, s in listed[1:]
    )
    for i, path in enumerate(sorted(Path("out/png").glob("*.png"))):
        assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), arrays[i]), "one order in both"
    Path("out/png/000002.png").unlink()
    assert main(["export", "--to", "out/png"]) == 0 and "4 images, 1 new" in capsys.readouterr().out

    # an image that is missing is not passed over; the run makes up for more seeds
    assert main([*SMALL[:-1], "seeds=3"]) == 0
    next(images.glob("4_2.png")).unlink()
    capsys.readouterr()
    assert main(["export", "--to", "out/more.npz"]) == 2
    assert "1 image of cell" in capsys.readouterr().err and not Path("out/more.npz").exists()
    assert main(["export", "--to", "out/more.npz", "--partial"]) == 0 and "5×40×40×3" in capsys.readouterr().out


def pictures(folder: Path, n: int, side: int) -> list[tuple[int, int, Path]]:
    folder.mkdir()
    rng = np.random.Generator(np.random.Philox(key=1))
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(folder / f"{i % 3}_{i // 3}.png")
    Image.new("RGB", (side, side)).save(folder / "0_0_diff.png")
    return unit_images(folder)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    files = pictures(tmp_path / "few", 60, 64)
    assert len(files) == 60 and files[:2] == sorted(files)[:2]
    tracemalloc.start()
    try:
        assert write_npz(shuffled(files), tmp_path / "new" / "folder" / "few.npz") == (60, 64, 64, 3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert write_npz(shuffled(files[:1]), tmp_path / "one.npz") == (1, 64, 64, 3)
    assert peak < 30 * 64 * 64 * 3, "half of the images would be more"
    with np.load(tmp_path / "new" / "folder" / "few.npz") as file:
        first = np.asarray(Image.open(shuffled(files)[0]))
        assert np.array_equal(file["arr_0"][0], first)


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    study = tmp_path / "results" / "s"
    (study / "cells").mkdir(parents=True)
    (study / "manifest.json").write_text("{}")
    assert main(["export", "s", "--to", "a.npz"]) == 2 and "keeps no images: run it with images=all" in capsys.readouterr().err
    for name, cell in (("one", "a" * 12), ("two", "b" * 12)):
        (study / "cells" / f"{cell}.json").write_text(
            f'{{"id": "{cell}", "order": 0, "name": "{name}", "config": {{}}, "planned": []}}'
        )
        (study / "images" / cell).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(study / "images" / cell / "0_0.png")
    assert main(["export", "s", "--to", "a.npz"]) == 2 and "which cell of" in capsys.readouterr().err
    Image.new("RGB", (9, 9)).save(study / "images" / ("a" * 12) / "0_1.png")
    Image.new("RGB", (8, 8)).save(study / "images" / ("a" * 12) / "0_2.png")
    (study / "images" / ("a" * 12) / "0_3.png").write_bytes(b"no picture")
    for to in ("a.npz", "a"):
        assert main(["export", "s", "--cell", "one", "--to", to]) == 1, "what cannot be exported loses nothing else"
        said = capsys.readouterr()
        assert (
            "0_1.png is 9×9 pixels, the others 8×8: they must all be of one size" in said.err
            and "0_3.png cannot be read" in said.err
        )
    assert "2×8×8×3" not in said.out and "2 images, 2 new" in said.out
    with np.load("a.npz") as file:
        assert file["arr_0"].shape == (2, 8, 8, 3)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.png").write_bytes(b"")
    assert main(["export", "s", "--cell", "two", "--to", "mine"]) == 2 and "holds other files" in capsys.readouterr().err
    (study / "images" / ("b" * 12) / "0_0.png").write_bytes(b"no picture")
    assert main(["export", "s", "--cell", "two", "--to", "b.npz"]) == 2 and "cannot be read" in capsys.readouterr().err
    assert not Path("b.npz").exists()
