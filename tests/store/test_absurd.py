"""Studies with files that are not what they claim: readers leave out what does not fit, say so, and end with exit code 1."""

from __future__ import annotations

import base64
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sdvar_exp import registry
from sdvar_exp.cli import main
from sdvar_exp.store import Study, load_tables, write_tables
from sdvar_exp.store.ledger import encode
from sdvar_exp.store.manifest import read_cells
from tests.store.making import make_plan, opened, timing_body, unit_body

Call = Callable[..., tuple[int, str, str]]
CASES = 25
MANY = 300
ABSURD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        "",
        "abc",
        "three",
        "\ud800",
        "\x1b[31m\x07",
        "a\u202eb",
        "../../../x",
        "/etc/passwd",
        "$\\frac{",
        "<b>&",
    ),
    *(0, -1, 1.5, 2**53 + 1, 2**63, -(2**63) - 1, 10**30, 1e-320, 1e300, 1.7e308, float("inf"), float("-inf")),
    *([], {}, [1, "x"], {"name": []}, [[[[]]]], {"labels": [0], "seeds": "abc"}, {"a": {"b": {"c": [None]}}}, "9" * 3000),
)
KEYS = ("x", "_order", "pair", "cell", "name", "label", "order", "study", "\x1b[2J", "a b", "", "speedup", "class", "seed_x")
CHEAP = (
    *(("status",), ("status", "--json"), ("table",), ("table", "--csv"), ("table", "--stable", "stages"), ("table", "--json")),
    *(("table", "--group", "strategy"), ("table", "--where", "seed > 0"), ("table", "--latex"), ("logs", "test3"), ("gc",)),
    *(("power", "--effect", "1.05"), ("power", "--effect", "0.01", "--metric", "pixel_mae"), ("collect", "--no-figures")),
    *(("quality",), ("diff", "results/mad", "results/mad"), ("export", "--to", "results/out", "--cell", "sequential")),
    *(("gc", "--delete"), ("logs", "sequential", "--json"), ("diff", "results/mad:test3", "results/mad:sequential")),
)


def make_study(root: Path) -> Path:
    """Three cells × two labels × three seeds with every kind of record."""
    plan = make_plan(root, study="mad", timing=2)
    floats = dict.fromkeys(("pixel_l2", "ssim", "token_agreement", "fhat_cosine", "value_min", "value_max"), 0.5)
    counts = dict.fromkeys(("draft_calls", "target_rows", "draft_rows", "target_rows_alone", "draft_rows_alone"), 40)
    features = base64.b64encode(bytes(128)).decode()
    seen = {"classifier": "c", "predicted": 1, "features": features, "baseline_predicted": 1, "baseline_features": features}
    with opened(plan) as study:
        cells = [p.cell.id for p in plan.cells]
        where = {"host": "h", "pid": 1, "started_at": "2026-01-01T00:00:00Z", "git": {"commit": "c0ffee", "dirty": True}}
        study.append({"type": "session", "argv": ["strategy=test3"], "cells": cells, **where, "packages": {"torch": "2"}})
        for cell in cells:
            for label in plan.labels:
                for seed in plan.seeds:
                    study.append(unit_body(cell, label, seed, **floats, **counts, committed_by_verify=3) | {"seen": seen})
                    study.append(*(timing_body(cell, label, seed, repeat, 20.0, 10.0) for repeat in range(2)))
        study.append(
            {"type": "noise", "cell": cells[0], "label": 3, "seed": 0, "other_seed": 1, "pixel_mae": 0.1, "correlation": 0.5}
        )
        study.append(
            {"type": "failure", "cell": cells[2], "label": 8, "seed": 7, "attempt": 1, "error": "E: x", "traceback": "T"}
        )
    return plan.folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[bool, Path]]:
    """The study with its ledger (False), and as it is when kept without (True)."""
    made = {}
    for kept in (False, True):
        made[kept] = make_study(tmp_path_factory.mktemp("sound"))
        write_tables(made[kept])
        if kept:
            shutil.rmtree(made[kept] / "ledger")
    yield made


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """call("status", "demo"): exit code, standard output, standard error."""

    def run(*argv: str) -> tuple[int, str, str]:
        code = main(list(argv))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything inside nested data."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*path, key)
        yield from places(one, (*path, key))


def mutate(value: Any, rng: random.Random) -> Any:
    """One value replaced, removed or added somewhere inside."""
    value = json.loads(json.dumps(value))
    *path, last = rng.choice(list(places(value)))
    at = value
    for key in path:
        at = at[key]
    what = rng.random()
    if what < 0.7:
        at[last] = rng.choice(ABSURD)
    elif what < 0.85:
        del at[last]
    elif isinstance(at, dict):
        at[rng.choice(KEYS)] = rng.choice(ABSURD)
    else:
        at.append(rng.choice(ABSURD))
    return value


def spoil(folder: Path, rng: random.Random) -> None:
    """A few absurd things in one file of a study."""
    kept = not (folder / "ledger").is_dir()
    what = rng.choice(
        ("manifest", "cell", "cell", "table", "table", "table") if kept else ("manifest", "cell", *["ledger"] * 6)
    )
    if what == "manifest":
        files = [folder / "manifest.json"]
    else:
        files = sorted(folder.glob({"cell": "cells/*.json", "table": "tables/*.parquet", "ledger": "ledger/*.jsonl"}[what]))
    path = rng.choice(files)
    if what == "table":
        spoil_table(path, rng)
    elif what == "ledger":
        lines = path.read_bytes().splitlines(keepends=True)
        kinds: dict[str, list[int]] = {}
        for i, line in enumerate(lines):
            kinds.setdefault(str(json.loads(line)["body"].get("type")), []).append(i)
        for _ in range(rng.randint(1, 4)):
            i = rng.choice(kinds[rng.choice(sorted(kinds))])
            lines[i] = encode(mutate(json.loads(lines[i])["body"], rng) if lines[i][:1] == b"{" else {})
        path.write_bytes(b"".join(lines))
    elif not path.read_bytes().startswith(b"[["):  # spoilt beyond reading before
        value = json.loads(path.read_bytes())
        for _ in range(rng.randint(1, 2)):
            value = mutate(value, rng) if value else value
        path.write_text(json.dumps(value) if rng.random() < 0.95 else "[" * 5000)


def spoil_table(path: Path, rng: random.Random) -> None:
    try:
        frame = pd.read_parquet(path)
    except ValueError:  # cut off before
        return
    name = rng.choice(list(frame))
    what = rng.random()
    if what < 0.3:
        frame = frame.drop(columns=name)
    elif what < 0.4:
        frame = pd.concat([frame, frame.head(2)])
    elif what < 0.5:
        frame = frame.rename(columns={name: rng.choice(KEYS)})
    elif what < 0.55:
        path.write_bytes(path.read_bytes()[: rng.randint(0, 4000)])
        return
    elif len(frame):
        value = rng.choice([v for v in ABSURD if not isinstance(v, list | dict) and v != "\ud800"])
        if rng.random() < 0.5:
            frame[name] = [value] * len(frame)
        else:
            frame[name] = [str(value), *map(str, frame[name].tolist()[1:])]
    try:
        frame.to_parquet(path, index=False)
    except (OverflowError, ValueError):  # a value that no table can hold
        return


LEDGER = [
    ("unit", {"label": "three"}, 'unit record whose label is no whole number of 64 bits: "three"'),
    ("unit", {"seed": 10**30}, "unit record whose seed is no whole number of 64 bits"),
    ("unit", {"sample": {"pixel_mae": [1]}}, "unit record whose sample.pixel_mae is no number up to 1e+12: [1]"),
    ("unit", {"sample": {"target_calls": -1}}, "unit record whose sample.target_calls is no count: -1"),
    ("unit", {"sample": {"gamma_trace": "3;rm"}}, "unit record whose sample.gamma_trace is no list of numbers"),
    ("timing", {"cell_ms": "fast"}, 'timing record whose cell_ms is no time in milliseconds: "fast"'),
    ("timing", {"breakdown": [1]}, "timing record whose breakdown is no mapping: [1]"),
    ("noise", {"other_seed": None}, "noise record whose other_seed is no whole number of 64 bits: null"),
    ("failure", {"error": {}}, "failure record whose error is no text: {}"),
    ("session", {"argv": "words"}, 'session record whose argv is no list: "words"'),
    ("session", {"cells": [3]}, "session record whose cells[0] is no line of text: 3"),
    ("unit", {"type": "uint"}, 'record of no known type: "uint"'),
]


@pytest.mark.parametrize(("kind", "change", "why"), LEDGER, ids=lambda value: str(value)[:30])
@pytest.mark.parametrize("verb", ["status", "table"])
def test_a_record_that_does_not_fit_is_named(
    sound: dict[bool, Path], call: Call, kind: str, change: dict, why: str, verb: str
) -> None:
    shutil.copytree(sound[False], "results/mad")
    (path,) = Path("results/mad/ledger").glob("*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if f'"type":"{kind}"'.encode() in line)
    lines[place] = encode(json.loads(lines[place])["body"] | change)
    path.write_bytes(b"".join(lines))
    code, out, err = call(verb)
    assert code == 1 and out and f"{path.name} line {place + 1}: {why}" in out + err
    assert err.endswith("error: 1 of the study's records or files left out, named above; the rest is shown\n")


def test_stages_that_do_not_fit_leave_the_row(sound: dict[bool, Path], caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(sound[False], "results/mad")
    with Study("results/mad").attach() as study:
        for seed, stages in ((10, [{"stage": -1}]), (11, {"0": 1}), (12, [])):
            study.append({**unit_body("c", 3, seed), "stages": stages, "seen": {"features": "%"} if seed == 12 else None})
    tables = load_tables("results/mad")
    assert tables.samples["seed"].tolist()[-3:] == [10, 11, 12] and "c" not in set(tables.stages["cell"])
    assert len(tables.notes) == 3 and all("the row stays without its " in note for note in tables.notes)


KEPT = [
    (
        "samples",
        lambda f: f.assign(label=f["label"].astype(object).where(f.index > 0, "three").astype(str)),
        "18 of 18 rows left out",
    ),
    ("samples", lambda f: f.drop(columns=["pixel_mae", "mixed", "host"]), ""),
    ("samples", lambda f: pd.concat([f, f.head(2)]), "2 of 20 rows left out: it is there twice"),
    ("samples", lambda f: f.assign(speedup=1e300), "18 of 18 rows left out: speedup is no number up to 1e+12"),
    (
        "runs",
        lambda f: f.assign(config=["{", *f["config"].tolist()[1:]]),
        "1 of 3 rows left out: config is no configuration of a cell",
    ),
    ("runs", lambda f: f.drop(columns="lossless"), "has no column 'lossless'"),
    ("timings", lambda f: f.drop(columns="cell"), "has no column 'cell'"),
    ("stages", lambda f: f.assign(stage=None), "rows left out: stage is no place in a sequence"),
]


@pytest.mark.parametrize(("table", "change", "why"), KEPT, ids=[f"{table}-{i}" for i, (table, _, _) in enumerate(KEPT)])
def test_kept_tables_that_do_not_fit(
    sound: dict[bool, Path], call: Call, table: str, change: Any, why: str, caplog: Any
) -> None:
    shutil.copytree(sound[True], "results/mad")
    path = Path("results/mad/tables") / f"{table}.parquet"
    change(pd.read_parquet(path)).to_parquet(path)
    code, _, err = call("table", "--stable", "stages" if table == "stages" else "samples")
    refused = "no column" in why
    assert code == (2 if refused else 1 if why else 0) and why in (err if refused else caplog.text)


def test_manifest_and_cells_that_do_not_fit(sound: dict[bool, Path], call: Call, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(sound[False], "results/mad")
    manifest, cell = Path("results/mad/manifest.json"), sorted(Path("results/mad/cells").glob("*"))[0]
    about = json.loads(cell.read_text())
    for change in ({"id": "../manifest"}, {"config": []}, {"order": "first"}, {"planned": [{"labels": 3}]}, {"name": "a\nb"}):
        cell.write_text(json.dumps(about | change))
        code, out, _ = call("status", "mad")
        assert code == 1 and "2 cells" in out and f"{cell.name} is damaged and its cell left out" in caplog.text, change
    sound_one = json.loads(manifest.read_text())
    for change in ({"study": 3}, {"fingerprint": []}, {"fingerprint": {"checkpoints": "x"}}, {"others": [1]}):
        manifest.write_text(json.dumps(sound_one | change))
        code, out, err = call("status", "mad")
        assert code == 2 and not out and err.startswith("error: results/mad/manifest.json is damaged, its "), change


@pytest.mark.parametrize("entry", ["nothing=x", "\x1b[2J", ""])
def test_entries_of_kinds_that_are_not_known_here(sound: dict[bool, Path], call: Call, tmp_path: Path, entry: str) -> None:
    folder = tmp_path / "mad"
    shutil.copytree(sound[False], folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["fingerprint"]["entries"] = {entry: "0123"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, out, err = call("status", str(folder))
    assert code == 0 and "18 units done" in out and err == ""


def test_pictures_of_other_names_are_passed_over(sound: dict[bool, Path], call: Call) -> None:
    shutil.copytree(sound[False], "results/mad")
    for cell in read_cells(Path("results/mad")):
        place = Path("results/mad/images") / cell / "three_x_stages.png"
        place.parent.mkdir(parents=True)
        place.write_bytes(b"none")
    code, _, err = call("figures", "--only", "stages-of-a-decode")
    assert code == 1 and "no images/<cell>/<label>_<seed>_stages.png" in err and "Error" not in err


def fuzz(sound: dict[bool, Path], capsys: pytest.CaptureFixture[str], seeds: range) -> int:
    """Run verbs on spoilt copies; how many commands left something out."""
    told = 0
    for seed in seeds:
        rng = random.Random(seed)
        shutil.rmtree("results", ignore_errors=True)
        shutil.copytree(sound[rng.random() < 0.25], "results/mad")
        for _ in range(rng.randint(1, 2)):
            spoil(Path("results/mad"), rng)
        before = sorted(Path().glob("*"))
        verbs = rng.sample(CHEAP, 1)
        if rng.random() < 0.05:
            verbs.append(("figures", "--only", rng.choice(registry.names("figure"))))
        if rng.random() < 0.01:
            verbs.append(rng.choice((("report",), ("figures",), ("collect",), ("verify",))))
        for verb in verbs:
            say = f"seed {seed}: {' '.join(verb)}"
            try:
                code = main(list(verb))
            except SystemExit as stop:
                code = int(stop.code or 0)
            except Exception as error:
                raise AssertionError(say) from error
            said = capsys.readouterr()
            assert code in (0, 1, 2), say
            assert "Traceback" not in said.err, say
            assert code == 0 or said.err or said.out, say
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", said.out + said.err), say
            told += "left out, named above" in said.err
        assert sorted(Path().glob("*")) == before, f"seed {seed}: {verbs}"
    return told


def test_a_few_spoilt_studies(sound: dict[bool, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz(sound, capsys, range(CASES)) > CASES / 3


@pytest.mark.long
def test_hundreds_of_spoilt_studies(sound: dict[bool, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz(sound, capsys, range(CASES, CASES + MANY)) > MANY / 3
