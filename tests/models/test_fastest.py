"""`model.execution=auto`: the same products in the way that is fastest here, chosen once and known afterwards."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sdvar_exp.cell import Cell, ModelSpec
from sdvar_exp.cli import check
from sdvar_exp.decoding.api import check_cell
from sdvar_exp.errors import UserError
from sdvar_exp.models import fastest
from sdvar_exp.models.accelerate import accelerate
from sdvar_exp.models.pair import Pair, load_pair
from sdvar_exp.models.products import Prepacked, round_to_int8
from sdvar_exp.models.var import VAR
from sdvar_exp.registry import choose
from tests.models.test_accelerate import CELLS, UNITS, tokens
from tests.support import golden_pair, golden_var

SLOW, FAST = [[2.0]] * 8, [[1.0]] * 8
FORWARDS = fastest.measured_forwards


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fastest, "_found", {})
    return tmp_path / "sdvar-exp" / "products"


def stub(monkeypatch: pytest.MonkeyPatch, name: str, **seconds: float) -> list[Any]:
    """Has a measurement give the same seconds for all rows; takes what it was asked."""
    asked: list[Any] = []

    def measure(first: Any, *of: Any) -> fastest.Seconds:
        asked.append((first, *of))
        count = len(of[-1]) if name == "measured" else first.pyramid.stages
        known = seconds if name != "measured" or of[0] else {way: s for way, s in seconds.items() if way != "fused"}
        return {way: [[s] * count] * 8 for way, s in known.items()}

    monkeypatch.setattr(fastest, name, measure)
    return asked


@pytest.fixture
def all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which every other way is twice as fast, and fused GELU most."""
    stub(monkeypatch, "measured", plain=2, packed=1, fused=0.5)
    stub(monkeypatch, "measured_forwards", plain=2, prepared=1)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_a_prepacked_product_is_that_of_linear(rows: int) -> None:
    weight, bias, h = random(48, 32), random(48), random(3, rows, 32)
    apart = random(32, rows, 3).transpose(0, 2)  # not contiguous
    for fused in (False, True):
        packed = Prepacked(weight, 8, fused)
        for x in (h, apart, h[:, :1]):
            plain = F.linear(x, weight, bias)
            for gelu, wanted in ((False, plain), (True, F.gelu(plain, approximate="tanh"))):
                got = packed(x, bias, gelu)
                assert got.dtype == torch.float32 and torch.allclose(got, wanted, rtol=1e-5, atol=2e-5)
    assert deepcopy(packed) is packed


def test_another_way_must_be_clearly_faster() -> None:
    def way(**times: list[list[float]]) -> str:
        return fastest.fastest(times, [2], [0], fastest.GAIN)[0][0]

    def each(*seconds: float) -> list[list[float]]:
        return [[s] for s in seconds]

    assert way(plain=SLOW, packed=FAST) == "packed" and way(plain=FAST, packed=SLOW) == "plain"
    quick = each(*[0.9] * 8)
    assert way(plain=SLOW, packed=FAST, fused=quick) == "fused" and way(plain=SLOW, packed=quick, fused=FAST) == "packed"
    assert way(plain=each(*[1.02] * 8), packed=FAST) == "plain"  # no gain to speak of
    assert way(plain=each(3, 0.9, 3, 0.9, 3, 3, 3, 3), packed=FAST) == "plain"  # half of the repeats that prove say otherwise
    assert way(plain=each(3, 0.9, 3, 3, 3, 3, 3, 3), packed=FAST) == "packed"  # one hiccup
    assert way(plain=each(3, 1, 3, 1, 3, 1, 3, 1), packed=FAST) == "plain"  # chosen by luck
    assert way(plain=each(0.0)) == "plain"


def test_few_rows_stay_plain_where_a_prepared_call_costs_more() -> None:
    def found(plain: list[float], prepared: list[float], rows: tuple[int, ...] = (2, 8, 18)) -> tuple[str, int]:
        times = {"plain": [plain] * 8, "prepared": [prepared] * 8}
        return fastest.fastest(times, list(rows), [0, 8, 18], fastest.IN_PLACE)[0]

    assert found([1, 2, 5], [2, 2.2, 4]) == ("prepared", 18)  # slower below, and faster in all
    assert found([1, 2, 5], [2, 1.5, 4]) == ("prepared", 8) and found([1, 2, 5], [0.9, 1.5, 4]) == ("prepared", 0)
    assert found([1, 2, 5], [4, 4, 5]) == ("plain", 0)
    assert found([1, 5, 2], [2, 4, 2.2], (2, 18, 8)) == ("prepared", 18)  # rows count, not the order of the stages


def test_noise_alone_is_rarely_taken_for_a_gain() -> None:
    """The same forwards measured as two ways, with 5 % of noise and the ten starts that there are."""
    noise, rows = np.random.default_rng(0), [2, 8, 18, 32, 50, 72, 98, 128, 162, 200]

    def repeats() -> list[list[float]]:
        return (np.arange(1, 11) * noise.lognormal(0, 0.05, (12, 10))).tolist()

    starts = [0, *rows[1:]]
    taken = [
        fastest.fastest({"plain": repeats(), "prepared": repeats()}, rows, starts, fastest.IN_PLACE)[0][0] for _ in range(300)
    ]
    assert taken.count("prepared") < 30


def test_ways_are_measured_once_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, layer = stub(monkeypatch, "measured", plain=2, packed=1), nn.Linear(8, 16)
    assert [fastest.known_way(layer, False, [2, 8]) for _ in range(3)] == ["packed"] * 3 and len(asked) == 1
    (file,) = cache.iterdir()
    content = json.loads(file.read_text())
    assert content["way"] == "packed" and content["product"] == [16, 8, "", "torch.float32"] and content["rows"] == [2, 8]
    assert content["threads"] == torch.get_num_threads() and content["ms"]["plain"] == [[2000.0] * 2] * 8
    for other in ((layer, True, [2, 8]), (layer, False, [2]), (layer.bfloat16(), False, [2, 8])):
        fastest.known_way(*other)
    assert len(asked) == 4 and len(list(cache.iterdir())) == 4
    for damaged in (
        "[" * 100_000,
        "",
        "{}",
        '{"way": "quick", "least": 0}',
        "[]",
        '{"way": ["plain"], "least": 0}',
        '{"way": "packed"}',
    ):
        file.write_text(damaged)
        fastest._found.clear()
        assert fastest.known_way(layer.float(), False, [2, 8]) == "packed" and json.loads(file.read_text())["way"] == "packed"


def test_the_first_process_decides(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object) -> dict[str, list[float]]:
        """Another process writes while this one still measures."""
        stub(monkeypatch, "measured", plain=1, packed=2)
        fastest.known_way(layer, False, [2])
        fastest._found.clear()
        return {"plain": SLOW, "packed": FAST}

    layer = nn.Linear(8, 16)
    monkeypatch.setattr(fastest, "measured", late)
    assert fastest.known_way(layer, False, [2]) == "plain"
    assert [file.suffix for file in cache.iterdir()] == [".json"]


def test_without_a_cache_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "sdvar-exp").write_text("a file where a folder should be")
    stub(monkeypatch, "measured", plain=2, packed=1)
    assert fastest.known_way(nn.Linear(8, 16), False, [2]) == "packed"
    assert "the fastest products are measured anew in every process" in caplog.text


def test_every_layer_is_measured(all_of_them: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(fastest, "ENOUGH_S", 0.0)
    took = fastest.measured(nn.Linear(32, 48), True, [2, 8])
    assert list(took) == ["plain", "packed", "fused"] and {len(v) for v in took.values()} == {fastest.LEAST}
    assert all(s > 0 and len(each) == 2 for v in took.values() for each in v for s in each) and list(
        fastest.measured(nn.Linear(32, 48), False, [2])
    ) == ["plain", "packed"]
    assert fastest.measured(nn.Linear(4, 4).double(), False, [2, 8]) == {"plain": [[0.0, 0.0]]}  # no such products


def ways(model: VAR) -> set[str]:
    return {fastest.way_of(layer) for layer in model.products}


def fast(pair: Pair) -> Pair:
    return replace(pair, **{role: accelerate(getattr(pair, role), "auto") for role in ("draft", "target")})


def test_float64_and_int8_stay_as_they_are(all_of_them: None) -> None:
    assert ways(accelerate(golden_var("tiny", "target").double(), "auto")) == {"plain"}
    model = golden_var("tiny", "target")
    round_to_int8(model)
    assert ways(accelerate(model, "auto")) == {"int8"}


@pytest.mark.parametrize("name", ["continue", "test3"])
def test_the_same_tokens(name: str, all_of_them: None) -> None:
    """In float32 but for near-ties, of which these images have none."""
    prepared = fast(golden_pair("tiny"))
    assert ways(prepared.target) == {"packed", "fused"} and all(x.weight.numel() == 0 for x in prepared.target.products)
    assert torch.equal(tokens(prepared, CELLS[name], UNITS), tokens(golden_pair("tiny"), CELLS[name], UNITS))


def test_a_forward_says_from_how_many_rows_on(all_of_them: None, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sizes(model: VAR) -> set[int]:
        return {layer.weight.numel() for layer in model.products}

    rows = [2 * n for n in golden_var("tiny", "target").pyramid.lengths]
    slow_first = [[1.0] + [2.0] * (len(rows) - 1)] * 8, [[3.0] + [1.0] * (len(rows) - 1)] * 8
    monkeypatch.setattr(fastest, "measured_forwards", lambda *_: dict(zip(("plain", "prepared"), slow_first, strict=True)))
    late = accelerate(golden_var("tiny", "target"), "auto")
    assert ways(late) == {f"packed from {rows[1]} rows", f"fused from {rows[1]} rows"} and 0 not in sizes(late)
    pair = replace(golden_pair("tiny"), target=late)
    assert torch.equal(tokens(pair, CELLS["continue"], UNITS), tokens(golden_pair("tiny"), CELLS["continue"], UNITS))

    (file,) = (f for f in cache.iterdir() if "forward" in json.loads(f.read_text()))
    file.unlink()
    fastest._found.clear()
    stub(monkeypatch, "measured_forwards", plain=1, prepared=2)
    assert ways(accelerate(golden_var("tiny", "target"), "auto")) == {"plain"}
    file.unlink()
    fastest._found.clear()
    monkeypatch.setattr(fastest, "ENOUGH_S", 0.0)
    took: list[fastest.Seconds] = []
    monkeypatch.setattr(fastest, "measured_forwards", lambda *of: took.append(FORWARDS(*of)) or took[-1])
    for autocast in ("none", "bfloat16"):
        accelerate(golden_var("tiny", "target"), "auto", autocast)
    assert len(took) == 2 and all(s > 0 for one in took for v in one.values() for each in v for s in each)
    assert [[*one] for one in took] == [["plain", "prepared"]] * 2 and [len(one["plain"][0]) for one in took] == [len(rows)] * 2


def test_groups_of_rows_and_autocast(all_of_them: None, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, packed = golden_var("tiny", "target"), accelerate(golden_var("tiny", "target"), "auto")
    x = random(4, 5, plain.width)
    with torch.inference_mode():
        labels = torch.tensor([0, 1, 2, plain.num_classes])
        wanted = plain(x, plain.condition(labels), plain.new_cache(4))
        monkeypatch.setattr("sdvar_exp.models.var.ROWS_AT_ONCE", 5)
        assert torch.allclose(packed(x, packed.condition(labels), packed.new_cache(4)), wanted, atol=1e-5)


def test_the_ways_belong_to_the_hashes_of_a_pair(all_of_them: None) -> None:
    plain, prepared = golden_pair("tiny"), fast(golden_pair("tiny"))
    told = fastest.ways_of(prepared.draft, prepared.target)
    assert "packed" in told and "fused" in told and "plain" not in told
    assert fastest.ways_of(plain.draft, prepared.target) != told != fastest.ways_of(plain.draft, plain.target)
    assert "products" not in load_pair("embedded_plain").hashes
    pair = load_pair(ModelSpec("embedded_plain", execution="auto"))
    assert pair.hashes["products"] == fastest.ways_of(pair.draft, pair.target)
    base = Cell(choose("strategy", "sequential"))
    assert replace(base, model=ModelSpec(execution="auto")).id != base.id


def test_what_needs_the_weights_themselves_refuses() -> None:
    cell = replace(CELLS["exact"], model=ModelSpec(execution="auto"), proposer=choose("proposer", "target_quantised"))
    with pytest.raises(UserError, match=r"target_quantised needs model\.execution=eager, got auto"):
        check_cell(cell, 5)
    check_cell(replace(cell, proposer=choose("proposer", "none")), 5)
    with pytest.raises(UserError, match=r"check compares with float weights: leave out model\.execution=auto"):
        check.load("embedded", ["model.execution=auto"], None)
