"""`figures` and `verify` on a study on disk: selection, venues, changed data, changed pixels, missing files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdvar_exp.cli import main
from sdvar_exp.errors import UserError
from sdvar_exp.report.figures import family, known, read_index, write_figures
from sdvar_exp.report.sizes import VENUES, size_of

FEW = ("target-calls-and-token-forwards", "guidance-schedules")


@pytest.fixture(scope="module")
def stored(new_study, tmp_path_factory) -> Path:
    """A study that was kept without its ledger: tables alone."""
    folder = tmp_path_factory.mktemp("kept") / "made_up"
    write(new_study(seeds=2), folder)
    return folder


def write(study, folder: Path) -> None:
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text("{}")
    for name in ("samples", "stages", "runs", "timings", "failures", "noise"):
        getattr(study, name).to_parquet(folder / "tables" / f"{name}.parquet")


def draw(folder: Path, out: Path, *more: str) -> int:
    words = [w for name in FEW for w in ("--only", name)]
    return main(["figures", str(folder), "--out", str(out), *words, *more])


def outcomes(capsys, *words: str) -> tuple[int, dict[str, dict]]:
    capsys.readouterr()
    code = main(["verify", *words, "--json"])
    return code, {f["name"]: f for f in json.loads(capsys.readouterr().out)["figures"]}


def test_a_folder_of_figures_agrees_with_its_study(stored, tmp_path, capsys):
    assert draw(stored, tmp_path) == 0
    code, found = outcomes(capsys, str(tmp_path))
    assert code == 0 and set(found) == set(FEW)
    assert all(f["same"] and f["pixels"] == 0 for f in found.values())
    assert main(["verify", str(tmp_path)]) == 0
    assert "2 of 2 figures agree" in capsys.readouterr().out


def test_changed_pixels_are_found_and_small_ones_forgiven(stored, tmp_path, capsys):
    draw(stored, tmp_path)
    file = tmp_path / f"{FEW[1]}.png"
    with Image.open(file) as image:
        info, pixels = image.info, np.array(image)
    change(file, pixels, info, 3)
    assert outcomes(capsys, str(tmp_path))[0] == 0
    change(file, pixels, info, 120)
    code, found = outcomes(capsys, str(tmp_path))
    assert code == 1 and "% of its pixels differ" in found[FEW[1]]["problem"]
    assert found[FEW[0]]["same"]
    assert main(["verify", str(tmp_path), "--tolerance", "0.5"]) == 0


def change(file: Path, pixels: np.ndarray, info: dict, by: int) -> None:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    for key in ("Title", "Description", "Comment"):
        text.add_itxt(key, info[key])
    moved = pixels.astype(int)
    moved[40:140, 40:140, :3] = np.clip(moved[40:140, 40:140, :3] - by, 0, 255)
    Image.fromarray(moved.astype(np.uint8)).save(file, pnginfo=text)


def test_changed_data_and_missing_files_are_found(new_study, tmp_path, capsys):
    study, folder, out = new_study(seeds=2), tmp_path / "study", tmp_path / "out"
    write(study, folder)
    draw(folder, out)
    (out / f"{FEW[1]}.svg").unlink()
    study.samples["target_calls"] += 1
    write(study, folder)
    code, found = outcomes(capsys, str(out))
    assert code == 1
    assert found[FEW[0]]["problem"] == "the data have changed since it was drawn"
    assert found[FEW[1]]["problem"] == f"{FEW[1]}.svg is missing"


def test_a_swapped_file_is_found(stored, tmp_path, capsys):
    draw(stored, tmp_path)
    (tmp_path / f"{FEW[1]}.pdf").write_bytes((tmp_path / f"{FEW[0]}.pdf").read_bytes())
    code, found = outcomes(capsys, str(tmp_path))
    assert code == 1 and found[FEW[1]]["problem"] == f"{FEW[1]}.pdf is of other data"


def test_only_keeps_the_others_in_the_index(stored, tmp_path):
    write_figures(stored, tmp_path, only=FEW)
    write_figures(stored, tmp_path, only=FEW[1:])
    assert [f["name"] for f in read_index(tmp_path).figures] == list(FEW)
    assert read_index(tmp_path).study.resolve() == stored.resolve()


def test_a_venue_gives_its_width_and_type(stored, tmp_path, capsys):
    draw(stored, tmp_path, "--venue", "icml")
    with Image.open(tmp_path / f"{FEW[0]}.png") as image:
        assert image.width == pytest.approx(6.75 * 200, abs=1)
    with Image.open(tmp_path / f"{FEW[1]}.png") as image:
        assert image.width == pytest.approx(3.25 * 200, abs=1)  # one panel: a column of the page
    assert b"STIXGeneral" in (tmp_path / f"{FEW[0]}.pdf").read_bytes()
    assert outcomes(capsys, str(tmp_path))[0] == 0  # drawn again at the same size


@pytest.mark.parametrize("venue", sorted(VENUES))
def test_every_venue_has_a_size(venue):
    size = size_of(venue)
    assert 3 < size.column <= size.full < 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "imagse"], "did you mean 'images'"),
        (["--venue", "icnl"], "did you mean 'icml'"),
        (["--profile", "no.json"], "is not a file"),
    ],
)
def test_mistakes_get_one_line_and_code_2(stored, tmp_path, capsys, words, message):
    assert main(["figures", str(stored), "--out", str(tmp_path), *words]) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err and err.count("\n") == 1


def test_verify_without_figures_says_what_to_do(stored, capsys):
    assert main(["verify", str(stored)]) == 2
    assert "make the figures with `sdvar-exp figures`" in capsys.readouterr().err


def test_a_damaged_index_is_refused(tmp_path):
    (tmp_path / "index.json").write_text('{"figures": 3}')
    with pytest.raises(UserError, match="damaged"):
        read_index(tmp_path)


def test_pages_belong_to_their_figure():
    assert family({"name": "images-2"}) == "images" and family({"name": "images"}) == "images"
    assert family({"name": "speedup-vs-blur", "figure": "speedup-vs-pixel-difference"}) == "speedup-vs-pixel-difference"
    assert all(family({"name": entry.name}) == entry.name for entry in known())


def test_a_picture_that_cannot_be_read_loses_no_other(stored, tmp_path, capsys):
    assert (
        main(["figures", str(stored), "--out", str(tmp_path), "--only", "acceptance-by-stage", "--only", "factor-effects"]) == 0
    )
    spoilt, *others = read_index(tmp_path).figures
    (tmp_path / f"{spoilt['name']}.png").write_bytes(b"data sha256 " + spoilt["data_sha256"].encode())
    capsys.readouterr()
    assert main(["verify", str(tmp_path), "--json"]) == 1
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["figures"]}
    assert "is no readable PNG file" in found[spoilt["name"]]["problem"]
    assert others and all(found[one["name"]]["same"] for one in others)


def test_macros_agree_until_data_or_text_change(new_study, tmp_path, capsys):
    study = new_study(seeds=2)
    write(study, tmp_path / "made_up")
    words = ("verify", str(tmp_path / "made_up"), "--tex", str(tmp_path / "numbers.tex"))
    assert main(["table", str(tmp_path / "made_up"), "--macros"]) == 0
    text = capsys.readouterr().out
    cell = study.runs["cell"].iloc[2]
    mean = study.samples.loc[study.samples["cell"] == cell, "pixel_mae"].mean()
    (tmp_path / "numbers.tex").write_text(text)
    assert f"\\sdvardef{{made_up}}{{{cell}}}{{pixel_mae}}{{{mean:.3f}}}{{" in text
    assert f"{{{cell}}}{{speedup_low}}" in text and f"{{{cell}}}{{n}}{{6}}" in text
    assert main([*words]) == 0 and "numbers agree with the data" in capsys.readouterr().out
    edited = text.replace(f"{{{cell}}}{{pixel_mae}}{{{mean:.3f}}}", f"{{{cell}}}{{pixel_mae}}{{0.001}}")
    (tmp_path / "numbers.tex").write_text(edited)
    assert main([*words, "--json"]) == 1
    wrong = [c for c in json.loads(capsys.readouterr().out)["numbers"] if not c["same"]]
    assert [(c["name"], c["problem"]) for c in wrong] == [(f"{cell} pixel_mae", f"says 0.001, the data say {mean:.3f}")]
    (tmp_path / "numbers.tex").write_text(text)
    study.samples.loc[study.samples["cell"] == cell, "pixel_mae"] += 0.01
    write(study, tmp_path / "made_up")
    assert main([*words, "--json"]) == 1
    wrong = [c for c in json.loads(capsys.readouterr().out)["numbers"] if not c["same"]]
    assert {c["name"].split()[0] for c in wrong} == {cell} and "pixel_mae" in wrong[0]["name"]
    assert all("data have changed" in c["problem"] for c in wrong) and {c["name"] for c in wrong} >= {f"{cell} pixel_mae"}
    (tmp_path / "numbers.tex").write_text("% nothing")
    assert main([*words]) == 2 and "defines no number of study made_up" in capsys.readouterr().err
