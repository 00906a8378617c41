"""What readers of a study take in and what not, exactly at the edges: values, images, files, clocks, queries."""

from __future__ import annotations

import json
import math
import os
import sys
from base64 import b64encode
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sdvar_exp.errors import UserError
from sdvar_exp.store import images, lock, records, timing
from sdvar_exp.store.columns import TABLES
from sdvar_exp.store.features import Kept, read_features, read_kept, write_kept
from sdvar_exp.store.files import StorageError, atomic_write, make_folders, remove_empty
from sdvar_exp.store.frames import FrameBuilder
from sdvar_exp.store.kept import _fitting
from sdvar_exp.store.ledger import LedgerWriter
from sdvar_exp.store.manifest import superseded
from sdvar_exp.store.results import select

DEEP: Any = 0
for _ in range(records.DEEPEST):
    DEEP = [DEEP]
PARTS = ("features", "baseline_features")
BLOCK = {"labels": [0] * 10_000, "seeds": [0] * 1000}

EDGES: dict[str, tuple[list[Any], list[Any]]] = {
    "str": (["", "é", "\ud7ff"], ["a\ud800", "é\udfff", 1, None, b"x"]),
    "line": (["", "a b"], ["a\nb", "a\u2028b", "\ud800", 1]),
    "id": (["a", "a.b", "a" * 100, "é"], ["", ".a", "a/b", "a\\b", "a\nb", "a\x7f", "a" * 101, 1]),
    "trace": (["3", "3,3,2", "1234"], ["", "3,", ",3", "12345", "a", 3]),
    "when": (["", "2026-01-01T00:00:00Z", "1" * 40], ["1" * 41, "monday", 1]),
    "base64": (["", "AAAA", "AA==", "A+/="], ["AAA", "AAAAA", "A=A=", "====", 1]),
    "int": ([0, -(2**63), 2**63 - 1], [2**63, -(2**63) - 1, 1.0, True, "1", None]),
    "count": ([0, 2**53], [-1, 2**53 + 1, 1.0, False]),
    "place": ([0, 9999], [-1, 10_000, 1.0, True]),
    "size": ([1, 2**31 - 1], [0, -1, 2**31, True, 1.0]),
    "float": ([0, 1.5, 1e12, -1e12], [1.1e12, -1.1e12, math.nan, math.inf, True, "1"]),
    "divergence": ([0.5, math.inf, 1e12], [-math.inf, math.nan, 1.1e12, "1"]),
    "ms": ([0, 0.0, 1e-6, 1e12], [9e-7, -1.0, 1.1e12, math.nan, True, "1"]),
    "bool": ([True, False], [0, 1, None, "true"]),
    "scalar": ([None, True, 2**63 - 1, 0.5, "a"], [2**63, "\ud800", [], {}, math.nan]),
    "lossless": (["tokens", "distribution", "no"], ["", "yes", None, True]),
    "block": (
        [BLOCK, {"labels": [], "seeds": []}],
        [{"labels": [0] * 11, "seeds": [0] * 909_091}, {"labels": [0]}, {"seeds": [0]}, []],
    ),
    "data": ([{"a": [1, {"b": None}]}, DEEP], [[DEEP], {"a": "\ud800"}, {"\ud800": 1}, [math.nan], {1, 2}]),
    "config": (['{"batch": 1}', "{}"], ['{"batch": 0}', "[]", "{", "", 1, '{"strategy": {}}']),
    "text or data": (["a", {}, {"a": [1]}], [1, None, [1], {"a": math.nan}, "\ud800"]),
}


def test_kinds_at_their_edges() -> None:
    assert EDGES.keys() == records.KINDS.keys()
    for kind, (good, bad) in EDGES.items():
        fits, _ = records.KINDS[kind]
        assert [value for value in good if not fits(value)] == [], kind
        assert [value for value in bad if fits(value)] == [], kind
    odd = [
        {"labels": [0], "seeds": "abc"},
        {"labels": "abc", "seeds": [0]},
        {"labels": [0.5], "seeds": [0]},
        {"labels": [0], "seeds": [True]},
    ]
    assert not any(map(records.KINDS["block"][0], odd))


def test_what_a_fault_says() -> None:
    shape = records.Shape({"a": "int"}, {"b": "float", "c": ["str"]}, "scalar", records._COLUMN)
    said = {
        "": {"a": 1, "b": None, "c": None, "other_1": 2},
        "it is no mapping: 3": 3,
        "a is missing": {"b": 1.0},
        "a is no whole number of 64 bits: null": {"a": None},
        "b is no number up to 1e+12: true": {"a": 1, "b": True},
        "c[1] is no text: 2": {"a": 1, "c": ["x", 2]},
        "c is no list: 3": {"a": 1, "c": 3},
        '"1x" is no name of a value': {"a": 1, "1x": 0},
        '"\\ud800" is no name of a value': {"a": 1, "\ud800": 0},
        "other is no text or number: []": {"a": 1, "other": []},
    }
    assert {records.fault(value, shape): value for value in said.values()} == said
    assert records.fault({"a": {"b": 1}}, records.Shape({"a": records.Shape({"c": "int"})})) == "a.c is missing"
    assert (
        records.fault({"\ud800": 0, "1x": 0}, records.Shape(rest="int"))
        != ""
        == records.fault({"1x": 0}, records.Shape(rest="int"))
    )
    assert records._shown("x" * 38) == f'"{"x" * 38}"' and records._shown("x" * 39) == '"' + "x" * 36 + "…"
    assert records._shown({1}) == "set"


def test_each_thing_left_out_is_named_once_and_twenty_of_them(caplog: pytest.LogCaptureFixture) -> None:
    with records.watched() as found:
        before = records.left_out()
        for k in (*range(30), *range(30)):
            records.leave_out(f"thing {k}")
        assert (before, records.left_out(), len(found)) == (0, 30, 30)
    said = [record.message for record in caplog.records]
    assert said == [*(f"thing {k}" for k in range(20)), "more is left out and not named here"]


def test_images_of_every_shape_become_bytes() -> None:
    grey, colour = np.array([[0.0, 0.4999 / 255], [0.5001 / 255, 1.0]]), np.zeros((3, 2, 4))
    colour[1, 0, 3], colour[2, 1, 1] = 2.0, -1.0
    assert images.to_bytes(grey).tolist() == images.to_bytes(grey[None]).tolist() == [[0, 0], [1, 255]]
    made = images.to_bytes(colour)
    assert made.shape == (2, 4, 3) and made.dtype == np.uint8 and made.flags.c_contiguous
    assert made[0, 3].tolist() == [0, 255, 0] and made.sum() == 255
    for ready in (made, made[..., 0]):
        assert images.to_bytes(ready) is ready
    assert images.to_bytes(np.ones((3, 4, 5), np.uint8)).shape == (4, 5, 3), "channels first, whatever the type"
    for shape in ((2, 4, 4), (4,), (1, 2, 3, 4), (4, 4, 2), (1, 3)):
        if len(shape) != 2:
            with pytest.raises(ValueError, match="an image is"):
                images.to_bytes(np.zeros(shape))
    with pytest.raises(ValueError, match="an image is"):
        images.to_bytes(np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="not finite"):
        images.to_bytes(np.array([[math.nan]]))


def test_features_are_kept_by_network_and_cell(tmp_path: Path) -> None:
    units, features = [(3, 0), (3, 1), (8, 0)], np.arange(6, dtype=np.float64).reshape(3, 2) / 4
    for classes in (None, np.array([3, 3, 7])):
        kept = Kept(units, features, classes, "sha")
        write_kept(tmp_path, "key", "cell", kept)
        found = read_kept(tmp_path, "key", "cell")
        assert found is not None and (found.units, found.images) == (units, "sha") and found.features.dtype == np.float32
        assert np.array_equal(found.features, features)
        assert (found.classes is None) if classes is None else np.array_equal(found.classes, classes)  # type: ignore[arg-type]
        base = Kept([(8, 0), (9, 9), (3, 1)], 10 + features, classes, "other")
        both = found.beside(base, "digest")
        assert both.labels.tolist() == [3, 8] and both.digest == "digest"
        assert both.features.tolist() == features[1:].tolist() and both.baseline.tolist() == [[11.0, 11.25], [10.0, 10.25]]
        assert (both.predicted is None) if classes is None else both.predicted.tolist() == [3, 7]  # type: ignore[union-attr]
        assert classes is None or both.baseline_predicted.tolist() == [7, 3]  # type: ignore[union-attr]
    write_kept(tmp_path, "key", "none", Kept([], features[:0], None, ""))
    assert (none := read_kept(tmp_path, "key", "none")) is not None and none.units == [] and none.features.shape == (0, 2)
    assert read_kept(tmp_path, "other", "cell") is None
    (tmp_path / "cache" / "features" / "key" / "cell.npz").write_bytes(b"PK")
    assert read_kept(tmp_path, "key", "cell") is None, "a damaged file is made again"


def test_features_in_a_ledger_are_of_one_network_or_of_none(tmp_path: Path) -> None:
    """Half-precision numbers in base64; units in order, the first row of each."""

    def unit(seed: int, digest: str, **more: Any) -> dict[str, Any]:
        texts = {name: b64encode(np.array([k, seed], "<f2").tobytes()).decode() for k, name in enumerate(PARTS)}
        seen = {"classifier": digest, "predicted": seed % 3, "baseline_predicted": seed % 2, **texts}
        return {"type": "unit", "cell": "c", "label": 3, "seed": seed, "sample": {}, "stages": [], "seen": seen, **more}

    with closing(LedgerWriter(tmp_path / "ledger")) as ledger:
        ledger.append(unit(2, "one"), unit(1, "one"), unit(2, "two"), unit(9, "two", cell="d"), unit(8, "one", cell="d"))
    found = read_features(tmp_path)
    assert {cell: (one.digest, len(one.labels)) for cell, one in found.items()} == {"c": ("one", 2), "d": ("", 2)}
    one = found["c"]
    assert one.features.tolist() == [[0, 1], [0, 2]] and one.baseline.tolist() == [[1, 1], [1, 2]]
    assert one.predicted is not None and one.predicted.tolist() == [1, 2]
    assert one.baseline_predicted is not None and one.baseline_predicted.tolist() == [1, 0]
    assert list(read_features(tmp_path, {(3, 9)})) == ["d"]


def test_colours_of_stage_pictures_are_those_of_okabe_and_ito() -> None:
    found = {kind: "#{:02X}{:02X}{:02X}".format(*colour) for kind, colour in images.STAGE_COLOURS.items()}
    assert found == {"kept": "#0072B2", "replaced": "#D55E00", "target": "#999999", "draft": "#56B4E9"}


def test_links_and_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of, path = tmp_path / "of", tmp_path / "new" / "folder" / "path"
    assert not images.link(path, of) and not path.exists()
    of.write_bytes(b"1")
    assert images.link(path, of) and path.samefile(of)
    assert images.link(path, of) and path.samefile(of), "both are one file already"
    (other := tmp_path / "other").write_bytes(b"2")
    assert images.link(path, other) and path.read_bytes() == b"2"
    assert [p.name for p in path.parent.iterdir()] == ["path"], "nothing temporary stays"
    synced, fsync = list[int](), os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), fsync(fd))[1])
    for how, times in (((), 0), ((False,), 0), ((True,), 2)):  # of the file, and of its name in the folder
        atomic_write(tmp_path / "a" / "b" / "c", b"x" * len(how), *how)
        assert (tmp_path / "a" / "b" / "c").read_bytes() == b"x" * len(how) and len(synced) == times
    assert len(list((tmp_path / "a" / "b").iterdir())) == 1
    with pytest.raises(StorageError, match="cannot write"):
        atomic_write(of / "below", b"")
    made = make_folders(tmp_path / "x" / "y" / "z")
    assert made == [tmp_path / "x", tmp_path / "x" / "y", tmp_path / "x" / "y" / "z"] and make_folders(made[-1]) == []
    (made[1] / "kept").touch()
    remove_empty(made)
    assert [p.exists() for p in made] == [True, True, False]
    with pytest.raises(OSError):
        make_folders(of / "p")


def test_locks_and_holders(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert lock.holder_of(path) is None
    first, second = lock.StudyLock(path), lock.StudyLock(path)
    second.release()
    first.acquire()
    assert first.held and not second.held and (named := lock.holder_of(path)) is not None
    assert named[1] and named[0]["pid"] == os.getpid()
    with pytest.raises(lock.InUse, match=f"pid {os.getpid()} on host") as told:
        second.acquire()
    assert "remove" not in str(told.value), "on this host nobody has to remove the file"
    first.acquire()
    first.release()
    assert not first.held and not path.exists()
    first.acquire()
    first._pid += 1  # as in a forked child
    first.release()
    assert not first.held and path.exists(), "the lock of the parent stays"
    here = lock.socket.gethostname()
    assert lock._alive({"host": "elsewhere", "pid": -1}) and lock._alive({"host": here, "pid": os.getpid()})
    assert not lock._alive({"host": here, "pid": os.getpid(), "started": "another"})
    assert not lock._alive({"host": here}) and not lock._alive({"host": here, "pid": "1"})
    assert lock._alive({"host": here, "pid": os.getpid(), "started": lock.start_time(os.getpid())})
    for text, holder in ((b"[]", {}), (b"{", {}), (b"", {}), (b'{"pid": 1}', {"pid": 1})):
        path.write_bytes(text)
        assert (found := lock.holder_of(path)) is not None and found[0] == holder
        assert found[1] == bool(holder), "who does not name a host is on another one"
    with open(path) as one, open(path) as two, open(path) as three:
        assert lock.flock(one.fileno(), shared=True) and lock.flock(two.fileno(), shared=True)
        assert not lock.flock(three.fileno())
    with open(path) as one, open(path) as two:
        assert not lock.is_held(path) and not lock.is_held(tmp_path / "none")
        assert lock.flock(one.fileno()) and not lock.flock(two.fileno(), shared=True) and lock.is_held(path)


def test_a_lock_is_waited_for_only_where_its_holder_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that the holder was just starting has the lock too, for a while; a live holder's is refused at once."""
    path, clock, tries = tmp_path / "lock", [0], list[int]()
    real = lock.flock
    monkeypatch.setattr(lock.time, "sleep", lambda s: clock.__setitem__(0, clock[0] + round(1000 * s)))
    monkeypatch.setattr(lock.time, "monotonic", lambda: clock.__setitem__(0, clock[0] + 1) or clock[0] / 1000)
    monkeypatch.setattr(lock, "flock", lambda fd: (tries.append(fd), real(fd))[1])
    here = {"host": lock.socket.gethostname()}
    for holder, times in (({**here, "pid": os.getpid()}, 1), ({**here, "pid": 2**22 + 1}, 5), ({}, 1)):
        path.write_text(json.dumps(holder))
        clock[0] = 0
        tries.clear()
        with open(path) as other:
            assert real(other.fileno())
            with pytest.raises(lock.InUse):
                lock.StudyLock(path).acquire()
        assert len(tries) == times, "the name of one that is gone is read for two seconds, five times in ten"
    same, found = lock._same_file, [False, True]
    with monkeypatch.context() as patch:  # removed between opening and locking: begun again
        patch.setattr(lock, "_same_file", lambda *_: found.pop(0) if found else True)
        tries.clear()
        held = lock.StudyLock(path)
        held.acquire()
        assert len(tries) == 2 and json.loads(path.read_text())["pid"] == os.getpid() and same(held._fd or 0, path)
        held.release()

    def full(fd: int, _: int) -> None:
        path.unlink()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock.os, "ftruncate", full)
    with pytest.raises(StorageError, match="No space left"):
        lock.StudyLock(path).acquire()
    assert not path.exists()

    def kill(pid: int, _: int) -> None:
        raise PermissionError if pid == 1 else ProcessLookupError

    monkeypatch.setattr(lock.os, "kill", kill)
    assert lock.process_exists(1) and not lock.process_exists(2), "that of another user runs"
    monkeypatch.setattr(lock.os, "kill", lambda *_: None)
    monkeypatch.setattr(lock, "_stat_fields", lambda _: [])
    assert lock.process_exists(1), "where the system does not tell its state"

    run, code = lock.subprocess.run, [0]
    ps = "print(' monday '); raise SystemExit({})"
    monkeypatch.setattr(lock.subprocess, "run", lambda _, **how: run([sys.executable, "-Sc", ps.format(*code)], **how))
    for code[0], started in ((0, "monday"), (1, None)):
        assert lock.start_time(1) == started, "of a system without /proc, as its ps tells"


def test_of_versions_of_an_entry_the_last_command_has_the_current_one(tmp_path: Path) -> None:
    """Cells a, b and c differ in the source of their rule alone, d in a parameter; e is compared with f, an older g."""

    def cell(name: str, order: int, source: str, tau: float = 0.5, baseline: str = "d") -> None:
        about = {"id": name, "order": order, "name": name, "planned": [], "baseline": baseline}
        config = {"acceptance": {"name": "own", "tau": tau, "source": source}}
        atomic_write(tmp_path / "cells" / f"{name}.json", json.dumps({**about, "config": config}).encode())

    cell("d", 3, "1", 0.7)
    assert superseded(tmp_path) == {}
    for order, name in enumerate("abc"):
        cell(name, order, name)
    assert superseded(tmp_path) == {"a": "c", "b": "c"}, "the one that was planned last"
    cell("f", 5, "1", 0.9)
    cell("g", 6, "2", 0.9)
    cell("e", 4, "1", 0.1, baseline="f")
    assert superseded(tmp_path) == {"a": "c", "b": "c"}, "one that others are compared with stays"
    session = {"type": "session", "host": "h", "pid": 1}
    with closing(LedgerWriter(tmp_path / "ledger")) as ledger:
        ledger.append({**session, "cells": ["a"]}, {**session, "cells": ["b", "d"]})
    assert superseded(tmp_path) == {"a": "b", "c": "b"}, "those of the last command, not of one before"


def test_rows_of_kept_tables_that_do_not_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = {"cell": ["a"] * 5, "label": [0, 1, 2, 2, 4], "seed": [0] * 5, "own": [1, 2, 3, 4, 5]}
    frame = pd.DataFrame({**rows, "committed_by_verify": [1, -1, 3, 3, 5], "ssim": [0.5, 0.5, 0.5, 0.5, math.inf]})
    found = _fitting(frame, tmp_path, "samples")
    assert (
        found["label"].tolist() == [0, 2]
        and found.index.tolist() == [0, 1]
        and found["own"].tolist() == [1, 3]
        and "index" not in found
    )
    assert list(found)[: len(TABLES["samples"])] == list(TABLES["samples"]) and found["latency_ms"].isna().all()
    dtypes = FrameBuilder(TABLES["samples"]).frame().dtypes
    assert found.dtypes[dtypes.index].tolist() == dtypes.tolist()
    assert "3 of 5 rows left out" in caplog.text and "it is there twice" in caplog.text
    caplog.clear()
    fit = _fitting(frame.iloc[:1], tmp_path, "samples")
    assert len(fit) == 1 and not caplog.text


def test_clocks_of_one_unit() -> None:
    sound = {"baseline_ms": 30.0, "cell_ms": 10.0, "own_ms": 20.0, "baseline_decode_ms": 6.0, "cell_decode_ms": 8.0}
    sound["breakdown"] = {"draft_ms": 3.0, "verify_ms": 6.0}
    slow = {**sound, "baseline_ms": 60.0, "cell_ms": 5.0, "contended": True}
    found = timing.unit_times([sound, slow])
    assert (found["speedup"], found["speedup_own"], found["speedup_with_vae"]) == pytest.approx((3, 2, 2))
    assert (found["latency_ms"], found["baseline_latency_ms"], found["vae_ms"]) == (10.0, 30.0, 8.0)
    assert (found["draft_ms"], found["verify_ms"], found["fhat_ms"], found["contended"]) == (3.0, 6.0, None, False)
    alone = timing.unit_times([slow])
    assert alone["latency_ms"] == 5.0 and alone["speedup"] is None and alone["contended"] and "speedup_own" not in alone
    for lacking in ({"cell_ms": 10.0}, {"baseline_ms": 30.0}, {"baseline_ms": 30.0, "cell_ms": 0.0}, {}):
        assert timing.unit_times([lacking])["speedup"] is None
        assert math.isnan(timing.log_ratio(lacking))
    assert timing.median_ratio([None, 0.0, -1.0]) is None and timing.median_ratio([0.0, 2.0, None, 0.125]) == pytest.approx(0.5)
    row = timing.timing_row({"type": "timing", "fingerprint": "f", "repeat": 0, "breakdown": {"draft_ms": 1.0}})
    assert row == {"repeat": 0, "draft_ms": 1.0}


def test_far_off_at_the_edge() -> None:
    """Deviations 0, 0, 0.1, 0.1, 0.1 of which the median is 0.1: 4 standard deviations reach to 0.593."""
    cell = [2.0, 2.0, 1.9, 2.1, 2.1]
    reach = 4 * 1.4826 * 0.1
    assert timing.far_off([*cell, 1.9], [2 + reach - 0.01, 2 - reach + 0.01]) == [False, False]
    assert timing.far_off([*cell, 1.9], [2 + reach + 0.01, 2 - reach - 0.01]) == [True, True]
    steady = [2.0] * 4
    assert timing.far_off(steady, [2 + timing.NEAR - 1e-9, 2 + timing.NEAR + 1e-9]) == [False, True]
    assert timing.far_off([1.0, 1.0, 5.0], [5.0]) == [True] and timing.far_off([1.0, 5.0, math.nan], [5.0]) == [False]
    far, near = 9.0, 2.0
    again = {
        (1, 1, 1): True,
        (1, 1, 2): True,
        (1, 2, 2): False,
        (0, 3, 3): False,
        (1, 2, 3): True,
        (2, 1, 1): False,
        (1, 0, 1): True,
    }
    for (off, on, repeats), wanted in again.items():
        unit = [far] * off + [near] * on
        assert timing.measure_again([*steady, *steady, *unit], unit, repeats) == wanted, (off, on, repeats)


def test_rows_that_a_query_asks_for() -> None:
    columns = {"label": [0, 1, 2], "tau": [0.5, None, 0.7], "name": ["a", "b", None], "acceptance_tau": [1, 2, 3]}
    frame = pd.DataFrame({**columns, "timed": [True, False, None]})
    asked: list[tuple[Any, list[int]]] = [
        (None, [0, 1, 2]),
        ("label >= 1 and tau > 0.6", [2]),
        ({"label": 1}, [1]),
        ({"label": [0, 2], "name": "a"}, [0]),
        ({"label": range(2)}, [0, 1]),
        ({"label": {2}}, [2]),
        ({"tau": None}, [1]),
        (lambda f: f["tau"] > 0.6, [2]),
        (lambda f: f["timed"], [0]),
        ("timed", [0]),
        ("label in [0, 2]\n", [0, 2]),
    ]
    for where, rows in asked:
        found = select(frame, where)
        assert found["label"].tolist() == rows and found.index.tolist() == list(range(len(rows))), where
        assert list(found) == list(frame), where
    said = {
        "label = 1": "did you mean 'label ==1'?",
        "label == 1 AND tau > 0": "did you mean 'label == 1 and tau > 0'?",
        "name == a": "did you mean",
        "lable == 1": "there is no column 'lable'",
        "label +": "cannot read",
        "acceptance.tau >= 2": "did you mean 'acceptance_tau >= 2'?",
        "tau == null": "did you mean 'tau.isnull()'?",
        "tau != none and label < 1": "did you mean 'tau.notnull() and label < 1'?",
        "timed == true": "did you mean 'timed == True'?",
        "label + 1": "it is no condition",
        "name": "it is no condition",
        "name.x == 1": "cannot read",
        "label == 1 and name in [a, b]": "did you mean \"label == 1 and name in ['a', 'b']\"?",
        "label == 1 $ 2": "cannot read",
        "(label == 1": "cannot read",
    }
    for query, text in said.items():
        with pytest.raises(UserError) as told:
            select(frame, query)
        assert text.replace("==1", "== 1") in str(told.value), (query, str(told.value))
    with pytest.raises(UserError, match="there is no column 'x'"):
        select(frame, {"x": 1})
