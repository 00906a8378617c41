"""`quality --extractor`: features of kept images by the classifier, by Inception (a stub: no weights here), by anything."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sdvar_exp.cli import main
from sdvar_exp.models.classifier import Classifier
from sdvar_exp.models.pair import WEIGHTS
from sdvar_exp.store.features import read_features

pytestmark = pytest.mark.needs("weights")

COMMAND = [
    "run",
    "study=q",
    "tracking=none",
    "timing.units=0",
    "images=all",
    "labels=[1,8]",
    "seeds=2",
    "-m",
    "strategy=sequential,draft_only",
]


class FeatureExtractorInceptionV3(torch.nn.Module):
    """torch-fidelity's interface: named features of uint8 images as a tuple. Here means of 2048 fixed mixtures of pixels."""

    calls = 0

    def __init__(self, name: str, features_list: list[str]) -> None:
        super().__init__()
        assert (name, features_list) == ("inception-v3-compat", ["2048"])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        assert x.dtype == torch.uint8 and x.ndim == 4 and x.shape[1] == 3
        FeatureExtractorInceptionV3.calls += 1
        flat = torch.nn.functional.adaptive_avg_pool2d(x.float() / 255, 8).flatten(1)
        mix = torch.randn(flat.shape[1], 2048, generator=torch.Generator().manual_seed(0))
        return (flat @ mix,)


@pytest.fixture
def inception(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = FeatureExtractorInceptionV3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("q")
    assert main([*COMMAND, f"results_dir={folder}"]) == 0
    return folder / "q"


def rows(study: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict]:
    capsys.readouterr()
    assert main(["quality", str(study), "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_classifier_sees_in_kept_images_what_it_saw_while_decoding(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, again = rows(study, capsys), rows(study, capsys, "--extractor", "classifier")
    assert [r["class_accuracy"] for r in kept] == [r["class_accuracy"] for r in again]
    assert [r["note"] for r in kept] == [r["note"] for r in again]
    assert (study / "tables" / "quality-classifier.csv").is_file()
    from sdvar_exp.store.features import read_kept

    (key,) = [path.name for path in (study / "cache" / "features").glob("classifier-*")]
    for cell, found in read_features(study).items():
        stored = read_kept(study, key, cell)
        assert stored is not None and stored.units == [(1, 0), (1, 1), (8, 0), (8, 1)]
        assert np.abs(stored.features - found.features).max() < 0.02 * np.abs(found.features).max()  # eight bits a pixel


@pytest.mark.usefixtures("inception")
def test_inception_looks_once_and_compares_with_given_images(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = rows(study, capsys, "--extractor", "inception")
    assert all(r["class_accuracy"] is None and "no real images were given: --real FOLDER" in r["note"] for r in first)
    assert first[0]["fd_baseline"] == 0 and first[1]["fd_baseline"] is None
    seen = FeatureExtractorInceptionV3.calls
    assert seen == 1 + 2, "the network is looked at through a few pictures of noise, then each cell's images"
    rng = np.random.Generator(np.random.Philox(key=2))
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    np.savez(tmp_path / "real.npz", arr_0=rng.integers(0, 256, (120, 40, 40, 3), dtype=np.uint8))
    few = rows(study, capsys, "--extractor", "inception", "--real", str(tmp_path))
    assert all("there are 4" in r["note"] for r in few)
    rows(study, capsys, "--extractor", "inception", "--real", str(tmp_path / "real.npz"))
    assert FeatureExtractorInceptionV3.calls == seen + 2 * 1 + 1 + 3, "the study's images are not looked at again"


def many_images(folder: Path) -> Path:
    """A study of 120 images in two cells, as its files are."""
    rng = np.random.Generator(np.random.Philox(key=3))
    (folder / "cells").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    for order, (cell, shift) in enumerate((("a" * 12, 0), ("b" * 12, 40))):
        (folder / "cells" / f"{cell}.json").write_text(
            json.dumps({"id": cell, "order": order, "name": cell[0], "baseline": "a" * 12, "config": {}, "planned": []})
        )
        (folder / "images" / cell).mkdir(parents=True)
        for i in range(120):
            image = rng.integers(0, 200, (8, 8, 3)) + shift
            Image.fromarray(image.astype(np.uint8)).save(folder / "images" / cell / f"{i % 10}_{i // 10}.png")
    return folder


def four() -> object:
    """An extractor of one's own: four means."""
    return lambda x: (torch.nn.functional.adaptive_avg_pool2d(x.float() / 255, 2).mean(1).flatten(1), None)


def test_any_network_gives_distances(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, own = many_images(tmp_path / "s"), ModuleType("own_network")
    own.four = four  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_network", own)
    base, other = rows(study, capsys, "--extractor", "own_network:four", "--real", str(study / "images" / ("a" * 12)))
    assert base["fd_real"] == pytest.approx(0, abs=1e-6) and base["fd_baseline"] == 0
    assert other["fd_real"] > 0.01 and other["fd_real"] == pytest.approx(other["fd_baseline"], rel=1e-6)
    assert other["fd_baseline_low"] < other["fd_baseline"] < other["fd_baseline_high"] and other["recall_real"] < 0.5


NETWORK = """import torch
from own_helper import size
SCALE = {scale}
WEIGHT = torch.full((1,), {weight})
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("bias", torch.full((1,), {bias}))
    def forward(self, x):
        features = SCALE * WEIGHT * torch.nn.functional.adaptive_avg_pool2d(x.float() / 255, size).flatten(1)
        with open("scale.txt") as file:
            features = features * float(file.read())
        return features + self.bias * (x.float().amax((1, 2, 3)) < 0)[:, None], None  # {comment}
def make():
    return Net()
"""
USUAL = {"scale": "1.0", "weight": "1.0", "bias": "0.0", "comment": "", "helper": "size = 2", "file": "1.0"}


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("scale", "100.0"),
        pytest.param("weight", "3.0", marks=pytest.mark.long),
        pytest.param("bias", "2.0", marks=pytest.mark.long),
        ("comment", "which no number shows"),
        pytest.param("helper", "size = 1", marks=pytest.mark.long),
        ("file", "7.0"),
    ],
)
def test_an_edited_network_looks_again(
    what: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its constants, weights, modules and files: features of the old one are not mixed with those of the new one."""
    study = many_images(tmp_path / "s")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def found(**changes: str) -> list[float]:
        about = {**USUAL, **changes}
        (tmp_path / "own_net.py").write_text(NETWORK.format(**about))
        (tmp_path / "own_helper.py").write_text(about["helper"])
        (tmp_path / "scale.txt").write_text(about["file"])
        for module in ("own_net", "own_helper"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        real = str(study / "images" / ("b" * 12))
        return [row["fd_real"] for row in rows(study, capsys, "--extractor", "own_net:make", "--real", real)]

    first = found()
    keys = set((study / "cache" / "features").iterdir())
    assert found() == first and set((study / "cache" / "features").iterdir()) == keys, "nothing was edited"
    changed = found(**{what: value})
    assert len(set((study / "cache" / "features").iterdir()) - keys) == 1
    for path in (study / "cache" / "features").glob("*/*"):
        path.unlink()
    assert found(**{what: value}) == changed


def test_images_that_were_made_anew_are_looked_at_again(tmp_path: Path) -> None:
    from sdvar_exp.runner.measuring.extractors import Looker, features_of_study

    study = many_images(tmp_path / "s")
    looker = Looker("mean", lambda x: (x.float().mean((2, 3)), None), "mean")
    first = features_of_study(study, looker)["b" * 12].features
    Image.new("RGB", (8, 8)).save(study / "images" / ("b" * 12) / "0_0.png")
    second = features_of_study(study, looker)["b" * 12].features
    assert (second[0] == 0).all() and (first[0] != 0).all() and np.array_equal(first[1:], second[1:])


def test_mistakes_are_one_line(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(b"abc")
    for words, message in (
        (["--extractor", "resnet"], "must be classifier, inception, a classifier.safetensors or package.module:function"),
        (["--extractor", "no_such_module:net"], "No module named"),
        (["--extractor", "of/no.safetensors"], "no.safetensors is not in of"),
        (["--extractor", str(cut)], "cut.safetensors"),
        (["--extractor", str(WEIGHTS / "draft.safetensors")], "is not the classifier of this version"),
        (["--extractor", "inception"], "pip install 'sdvar_exp[inception]'"),
        (["--real", str(tmp_path)], "--real needs --extractor"),
        (["--extractor", "classifier", "--real", str(tmp_path)], "no PNG or JPEG file in it"),
        (["--extractor", "classifier", "--real", str(study / "manifest.json")], "give a folder of images or an npz"),
    ):
        capsys.readouterr()
        assert main(["quality", str(study), *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    many = many_images(tmp_path / "s")
    own = Classifier(3, width=8, side=8, channels=3)
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    assert main(["quality", str(many), "--extractor", str(tmp_path / "own.safetensors")]) == 0
    assert len([*(many / "tables").glob("quality-own-*.csv")]) == 1 and "class accuracy" in capsys.readouterr().out
    assert main(["quality", str(many), "--extractor", "classifier"]) == 2
    assert "takes images of 40×40 pixels, these are 8×8" in capsys.readouterr().err
    assert main(["quality", str(many)]) == 2 and "--extractor inception" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("of all sizes", "its 3 images have 3 sizes, most (1) 30×20; first scale and crop them to one size"),
        ("cut off", "2.JPEG is no whole image (image file is truncated"),
        ("no image", "2.JPEG is no whole image (cannot identify image file)"),
        ("hidden", None),
        ("npz of floats", "arr_0 must be (n, H, W, 3) uint8, got (2, 3, 8, 8) float32"),
        ("npz cut off", "give a folder of images or an npz"),
    ],
)
def test_real_images_as_people_have_them(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, says: str | None
) -> None:
    """A validation folder: classes as folders, files of the system; what is wrong is said before anything is looked at."""
    real = tmp_path / "val" / "n01440764"
    real.mkdir(parents=True)
    for i in range(3):
        size = (20, 30 + 10 * i, 3) if content == "of all sizes" else (40, 40, 3)
        Image.fromarray(np.random.Generator(np.random.Philox(key=i)).integers(0, 256, size, dtype=np.uint8)).save(
            real / f"{i}.JPEG"
        )
    last = real / "2.JPEG"
    if content in ("cut off", "no image"):
        last.write_bytes(last.read_bytes()[: -len(last.read_bytes()) // 2] if content == "cut off" else b"abc")
    (real / "._0.JPEG").write_bytes(b"\0\5\26\7")
    place = real.parent
    if content.startswith("npz"):
        place = tmp_path / "real.npz"
        np.savez(place, arr_0=np.zeros((2, 3, 8, 8), np.float32))
        if content == "npz cut off":
            place.write_bytes(place.read_bytes()[:-40])
    code = main(["quality", str(study), "--extractor", "classifier", "--real", str(place)])
    err = capsys.readouterr().err
    assert (code, err) == (0, "") if says is None else code == 2 and says in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("lambda images: images", "it is called without arguments"),
        ("lambda: lambda images: images.float()", "must give a pair"),
    ],
)
def test_a_network_of_another_form(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], function: str, says: str
) -> None:
    name = f"net_{len(function)}"
    (tmp_path / f"{name}.py").write_text(f"make = {function}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["quality", str(study), "--extractor", f"{name}:make"]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1
