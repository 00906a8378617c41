"""Opening, locking, refusing, and what a study keeps beside the ledger."""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdvar_exp import registry
from sdvar_exp.errors import UserError
from sdvar_exp.plan import Timing
from sdvar_exp.store import StorageError, Study, baseline_key, lock, manifest, stable_csv
from sdvar_exp.store import study as study_module
from sdvar_exp.store.ledger import LedgerReader
from sdvar_exp.store.manifest import planned_units, read_cells
from tests.store.making import FINGERPRINT, all_units, make_plan, opened, unit_body


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_open_writes_manifest_and_cells_and_close_removes_the_lock(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    with opened(plan) as study:
        holder = json.loads((plan.folder / "lock").read_text())
        assert (holder["host"], holder["pid"]) == (socket.gethostname(), os.getpid())
        manifest = json.loads((plan.folder / "manifest.json").read_text())
        assert manifest["schema"] == 1 and manifest["study"] == "made_up"
        assert manifest["fingerprint"] == FINGERPRINT and manifest["created"]
        cells = study.cells()
    ids = [p.cell.id for p in plan.cells]
    assert list(cells) == ids and [c["order"] for c in cells.values()] == [0, 1, 2]
    assert [c["lossless"] for c in cells.values()] == ["tokens", "no", "no"]
    assert {c["baseline"] for c in cells.values()} == {ids[0]}
    assert cells[ids[2]]["config"]["gamma"] == {"name": "fixed", "value": 3}
    assert not (plan.folder / "lock").exists()


def test_done_sees_what_every_process_appended(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    cell = plan.cells[0].cell.id
    with opened(plan) as study:
        assert study.done() == set()
        study.append(unit_body(cell, 3, 0), unit_body(cell, 3, 1))
        assert study.done() == {(cell, 3, 0), (cell, 3, 1)}
        worker = Study(plan.folder).attach(FINGERPRINT)
        worker.append(unit_body(cell, 8, 0), {"type": "failure", "cell": cell, "label": 8, "seed": 1, "error": "x"})
        worker.close()
        assert study.done() == {(cell, 3, 0), (cell, 3, 1), (cell, 8, 0)}
        assert (plan.folder / "lock").exists(), "a worker's close leaves the coordinator's lock"
    again = opened(plan)
    assert len(again.done()) == 3
    assert [b["type"] for b in LedgerReader(again.ledger).read()] == ["unit", "unit", "unit", "failure"]
    sample = next(LedgerReader(again.ledger).read())["sample"]
    assert sample["host"] == socket.gethostname() and sample["pid"] == os.getpid() and sample["finished_at"]
    again.close()
    again.close()


def test_a_damaged_unit_is_pending_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = make_plan(tmp_path)
    with opened(plan) as study:
        study.append(*all_units(plan))
        total = len(study.done())
        (path,) = study.ledger.iterdir()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b"verified", b"verifIed", 1)
    path.write_bytes(b"".join(lines))
    with opened(plan) as study:
        missing = {(u["cell"], u["label"], u["seed"]) for u in all_units(plan)} - study.done()
        assert len(missing) == 1 and len(study.done()) == total - 1
        assert study.state().damage and "line 5" in study.state().damage[0]
        assert f"{path.name} line 5: bad checksum" in caplog.text
        study.append(*(u for u in all_units(plan) if (u["cell"], u["label"], u["seed"]) in missing))
        assert len(study.done()) == total


def test_appending_needs_an_open_study(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="open the study"):
        Study(tmp_path).append({"type": "unit"})


def test_a_second_start_names_host_and_pid(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    code = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from tests.store.making import make_plan, opened
        study = opened(make_plan(Path({str(tmp_path)!r})))
        print("open", flush=True)
        sys.stdin.read()
        """
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, env=env)
    assert holder.stdin and holder.stdout
    assert holder.stdout.readline() == b"open\n"
    before = tree(plan.folder)
    with pytest.raises(UserError) as error:
        opened(plan)
    assert f"in use by pid {holder.pid} on host {socket.gethostname()}" in str(error.value)
    assert "\n" not in str(error.value) and tree(plan.folder) == before
    holder.kill()  # SIGKILL: the lock stays and is stale
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    assert (plan.folder / "lock").exists()
    with opened(plan) as study:
        assert json.loads((study.folder / "lock").read_text())["pid"] == os.getpid()


def test_of_several_starts_at_once_one_wins(tmp_path: Path) -> None:
    """With a stale lock in the way, which all of them see."""
    plan = make_plan(tmp_path)
    opened(plan).close()
    (plan.folder / "lock").write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1, "started": "x"}))
    code = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from sdvar_exp.errors import UserError
        from tests.store.making import make_plan, opened
        plan = make_plan(Path({str(tmp_path)!r}))
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            study = opened(plan)
            print("won", flush=True)
        except UserError as error:
            print(error, flush=True)
        sys.stdin.readline()
        """
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    starts = [subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, env=env, text=True) for _ in range(4)]
    assert [p.stdout.readline() for p in starts if p.stdout] == ["ready\n"] * 4
    for process in starts:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    said = [p.stdout.readline().strip() for p in starts if p.stdout]
    for process in starts:
        process.communicate("\n")
    assert said.count("won") == 1
    winner = starts[said.index("won")].pid
    assert all(f"in use by pid {winner} on host" in s for s in said if s != "won")


@pytest.mark.parametrize("kills", [6])
def test_killed_and_continued_gives_the_same_stable_table(tmp_path: Path, kills: int) -> None:
    """SIGKILL at random points; every start continues, in the end the table is that of one quiet run."""
    quiet = make_plan(tmp_path / "quiet", seeds=range(40))
    with opened(quiet) as study:
        study.append(*all_units(quiet))
    plan = make_plan(tmp_path / "killed", seeds=range(40))
    code = textwrap.dedent(
        f"""
        import numpy, sys
        from pathlib import Path
        from tests.store.making import all_units, make_plan, opened
        plan = make_plan(Path({str(tmp_path / "killed")!r}), seeds=range(40))
        print("start", flush=True)
        with opened(plan) as study:
            done = study.done()
            for body in all_units(plan):
                key = (body["cell"], body["label"], body["seed"])
                if key not in done:
                    study.write_image(*key, numpy.zeros((3, 8, 8)))
                    study.append(body)
        """
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    rng = random.Random(3)
    for attempt in range(kills + 1):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env)
        assert process.stdout and process.stdout.readline()
        if attempt < kills:
            time.sleep(rng.uniform(0, 0.15))
            process.kill()
        process.communicate()
    assert process.returncode == 0
    for table in ("samples", "stages", "runs"):
        assert stable_csv(plan.folder, table) == stable_csv(quiet.folder, table)
    bodies = [b for b in LedgerReader(plan.folder / "ledger").read() if b["type"] == "unit"]
    assert len(bodies) == 240, "no unit lost or doubled"
    assert all(plan.folder.joinpath("images", b["cell"], f"{b['label']}_{b['seed']}.png").stat().st_size for b in bodies)


def test_two_studies_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    with opened(plan), pytest.raises(UserError, match=f"pid {os.getpid()} "):
        opened(plan)
    opened(plan).close()


@pytest.mark.parametrize("advisory", [True, False])
def test_stale_and_live_holders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, advisory: bool) -> None:
    """Without the kernel's help (advisory=False) host, pid and start time decide."""
    if not advisory:

        def none(*_: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(lock.fcntl, "flock", none)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    me = {"host": socket.gethostname(), "pid": os.getpid(), "started": lock.start_time(os.getpid())}
    path = tmp_path / "lock"
    for stale in ({**me, "pid": ended.pid}, {**me, "started": "another boot:17"}, {}, {**me, "pid": "?"}):
        path.write_text(json.dumps(stale))
        held = lock.StudyLock(path)
        held.acquire()
        assert json.loads(path.read_text()) == me
        held.release()
        assert not path.exists()
    for live, hint in ((me, False), ({**me, "host": "elsewhere", "pid": 7}, True)):
        path.write_text(json.dumps(live))
        with pytest.raises(UserError, match=f"pid {live['pid']} on host {live['host']}") as error:
            lock.StudyLock(path).acquire()
        assert ("remove" in str(error.value)) is hint
        assert json.loads(path.read_text()) == live


def test_a_process_that_ended_but_was_not_waited_for_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.read()
    while lock.process_exists(child.pid):
        pass
    child.wait()
    child.stdout.close()


def test_another_fingerprint_is_refused_with_what_differs(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    opened(plan).close()
    before = tree(plan.folder)
    with pytest.raises(UserError) as error:
        opened(plan, threads=4, packages={"torch": "2.14.0", "numpy": "2.4.0"})
    text = str(error.value)
    assert "packages.torch 2.13.0 → 2.14.0" in text and "threads 2 → 4" in text and "numpy" not in text
    assert "allow_mixed=true" in text and "\n" not in text
    assert tree(plan.folder) == before
    with pytest.raises(UserError, match="code c0de → new"):
        Study(plan.folder).attach({**FINGERPRINT, "code": "new"})


def test_a_text_that_differs_is_shown_short() -> None:
    for length, shown in ((24, "x" * 24), (25, "x" * 12 + "…")):
        assert manifest.differences({"a": "x" * length}, {}) == [f"a {shown} → none"]


def test_a_job_that_starts_beside_another_joins_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the study, adds its cells and takes no lock; where no study comes it says so."""
    plan, waited = make_plan(tmp_path), list[float]()
    first = replace(plan, cells=plan.cells[:1])

    def slept(seconds: float) -> None:
        waited.append(seconds)
        opened(first).close() if len(waited) == 2 else None

    monkeypatch.setattr(study_module.time, "sleep", slept)
    with Study(plan.folder).join(plan, FINGERPRINT) as study:
        assert (
            len(waited) == 2 and list(study.cells()) == [p.cell.id for p in plan.cells] and not (plan.folder / "lock").exists()
        )
        study.append(unit_body(plan.cells[2].cell.id, 3, 0))
        assert len(study.done()) == 1
    monkeypatch.setattr(study_module.time, "monotonic", iter([0.0, 59.0, 61.0]).__next__)
    with pytest.raises(UserError, match="there is no study at"):
        Study(tmp_path / "none").join(plan, FINGERPRINT)
    assert len(waited) == 3


def test_a_study_of_other_code_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    """By code, packages and the project's own entries; entries of one's own are known once they are asked for."""
    assert manifest.refusal_today(tmp_path) is None
    plan, entry = make_plan(tmp_path), registry.get("mask", "block_causal")
    today = {"code": manifest.code_version(), "packages": manifest.versions(manifest.DECIDING_PACKAGES)}
    for number, (made, said) in enumerate(
        (
            ({"entries": {"mask=block_causal": manifest.definition(entry), "mask=own": "x"}}, None),
            ({"entries": {"mask=block_causal": "before"}}, "entries.mask=block_causal before → "),
            ({"entries": {}, "code": "before"}, "code before → "),
        )
    ):
        asked = replace(plan, study=f"study{number}")
        opened(asked, **{**today, **made}).close()
        found = manifest.refusal_today(asked.folder)
        assert (found is None) if said is None else (found is not None and said in found)


def test_allow_mixed_tags_the_rows(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    cell = plan.cells[0].cell.id
    with opened(plan) as study:
        study.append(unit_body(cell, 3, 0))
    for seed in (1, 2):
        with Study(plan.folder).open(plan, {**FINGERPRINT, "threads": 4}, allow_mixed=True) as study:
            study.append(unit_body(cell, 3, seed))
            study.append({"type": "session"})
    with Study(plan.folder).open(plan, FINGERPRINT, allow_mixed=True) as study:
        study.append(unit_body(cell, 8, 0))
        samples = study.write_tables().samples
    assert samples["mixed"].tolist() == [False, True, True, False]
    assert samples["fingerprint"].nunique() == 2
    others = json.loads((plan.folder / "manifest.json").read_text())["others"]
    assert [o["threads"] for o in others.values()] == [4] and set(others) <= set(samples["fingerprint"])


def test_a_new_model_is_no_difference_but_a_changed_checkpoint_is(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    opened(plan).close()
    other = {"var_d16_d30": {"vae": "v", "draft": "d", "target": "t"}}
    opened(plan, checkpoints=other).close()
    kept = json.loads((plan.folder / "manifest.json").read_text())["fingerprint"]["checkpoints"]
    assert kept == {**FINGERPRINT["checkpoints"], **other}  # type: ignore[dict-item]
    with pytest.raises(UserError, match=r"checkpoints.var_d16_d30.draft d → new"):
        opened(plan, checkpoints={"var_d16_d30": {"vae": "v", "draft": "new", "target": "t"}})


def test_later_commands_add_cells_and_units_and_keep_the_order(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    first, second, third = plan.cells
    opened(replace(plan, cells=(first, third))).close()
    renamed = replace(third, name="another name")
    settings = replace(plan.settings, timing=Timing(units=5, repeats=1))
    opened(replace(plan, cells=(second, renamed, second), seeds=(0, 7), settings=settings)).close()
    cells = read_cells(plan.folder)
    assert list(cells) == [first.cell.id, third.cell.id, second.cell.id]
    assert cells[third.cell.id]["name"] == third.name
    assert len(planned_units(cells[first.cell.id])) == 6
    assert len(planned_units(cells[third.cell.id])) == 8
    assert cells[third.cell.id]["timing"] == {"units": 5, "repeats": 1, "band": [0.95, 1.05]}
    again = {p: p.stat().st_mtime_ns for p in (plan.folder / "cells").iterdir()}
    opened(replace(plan, cells=(first, third), settings=settings)).close()
    changed = [p.stem for p, t in again.items() if p.stat().st_mtime_ns != t]
    assert changed == [first.cell.id]


@pytest.mark.parametrize("nested", ["file", "file/deeper"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, nested: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    plan = make_plan(tmp_path / nested)
    with pytest.raises(StorageError) as error:
        opened(plan)
    assert "cannot be made" in str(error.value) and "results_dir" in str(error.value) and "\n" not in str(error.value)
    assert tree(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the refusal is played."""
    plan = make_plan(tmp_path / "results")
    real = os.open

    def refuse(path: str, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match="Permission denied"):
        opened(plan)
    assert tree(tmp_path) == []


def test_a_disk_that_fills_while_a_study_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(tmp_path / "results")
    real = os.replace

    def full(source: Path, target: Path) -> None:
        if target.parent.name == "cells":
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left on device"):
        opened(plan)
    assert tree(tmp_path) == []


def test_images_are_png_and_rounded(tmp_path: Path) -> None:
    study = Study(tmp_path)
    image = np.linspace(-0.2, 1.2, 3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
    path = study.write_image("c0", 3, 1, image, "_diff")
    assert path == tmp_path / "images" / "c0" / "3_1_diff.png" == study.image_path("c0", 3, 1, "_diff")
    shown = np.asarray(Image.open(path))
    assert np.array_equal(shown, np.round(image.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0))
    assert np.asarray(Image.open(study.write_image("c0", 3, 2, image[:1]))).shape == (4, 5)
    assert tree(tmp_path / "images") == ["c0", "c0/3_1_diff.png", "c0/3_2.png"]
    for wrong in (np.full((3, 2, 2), np.nan), np.zeros((2, 2, 2)), np.zeros(4)):
        with pytest.raises(ValueError, match="image"):
            study.write_image("c0", 3, 1, wrong)


def test_the_baseline_cache_keeps_no_times_and_survives_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = Study(tmp_path)
    key = baseline_key(label=3, seed=1, checkpoints={"vae": "a"}, dtype="float32")
    assert key == baseline_key(dtype="float32", checkpoints={"vae": "a"}, seed=1, label=3)
    assert baseline_key(label=3) == "f6272b7d8baa1d36133fcf8c", "files of before are found again"
    assert key != baseline_key(label=3, seed=2, checkpoints={"vae": "a"}, dtype="float32")
    assert study.baseline_get(key) is None
    image = np.random.default_rng(0).random((3, 8, 8), dtype=np.float32)
    values = {"tokens": np.arange(14), "image": image, "stages": [{"stage": 0, "entropy": 0.1}], "calls": 10}
    study.baseline_put(key, values)
    got = study.baseline_get(key)
    assert got is not None and got.keys() == values.keys()
    assert np.array_equal(got["tokens"], values["tokens"]) and np.array_equal(got["image"], image)
    assert got["stages"] == values["stages"] and got["calls"] == 10
    with pytest.raises(ValueError, match="no times"):
        study.baseline_put(key, {"latency_ms": 3.0})
    path = tmp_path / "cache" / "baseline" / f"{key}.npz"
    caplog.set_level(logging.WARNING)
    data = path.read_bytes()
    for broken in (data[: len(data) // 2], b"", b"junk", data.replace(bytes(image.data)[:16], b"0" * 16)):
        path.write_bytes(broken)
        assert study.baseline_get(key) is None
    assert caplog.text.count("will be made again") == 4


def test_baselines_of_other_studies_are_shared_where_asked(tmp_path: Path) -> None:
    key, values = baseline_key(label=3), {"tokens": np.arange(3), "calls": 10}
    Study(tmp_path / "a").baseline_put(key, values)
    other = Study(tmp_path / "b")
    assert other.baseline_get(key) is None and not (tmp_path / "b").exists()
    found = other.baseline_get(key, shared=True)
    assert found is not None and found["calls"] == 10 and np.array_equal(found["tokens"], values["tokens"])
    assert other.baseline_get(key) is not None, "it is the study's own from then on"
    assert other.baseline_get(baseline_key(label=4), shared=True) is None


def test_equal_images_are_stored_once(tmp_path: Path) -> None:
    study = Study(tmp_path)
    assert not study.link_image("b", 3, 1, of="a"), "there is none yet"
    source = study.write_image("a", 3, 1, np.full((3, 2, 2), 0.5))
    for _ in range(2):
        assert study.link_image("b", 3, 1, of="a") and study.image_path("b", 3, 1).samefile(source)
    study.write_image("b", 3, 1, np.zeros((3, 2, 2)))
    assert np.asarray(Image.open(source)).max() == 128, "whoever writes one leaves the other"
    assert tree(tmp_path / "images") == ["a", "a/3_1.png", "b", "b/3_1.png"]


def test_a_new_cell_comes_behind_those_that_are_left(tmp_path: Path) -> None:
    """After gc removed the second of three cells, a fourth gets a place of its own, not that of the third."""
    plan = make_plan(tmp_path)
    first, second, third = plan.cells
    opened(plan).close()
    (plan.folder / "cells" / f"{second.cell.id}.json").unlink()
    with opened(plan) as study:
        cells = study.cells()
    assert [(c["order"], c["name"]) for c in cells.values()] == [(0, first.name), (2, third.name), (3, second.name)]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({"a": "1"}, {"a": "1", "b": "2"}, ["checkpoints.b none → 2"]),  # flat: one hash a model, which must not come and go
        ({"a": "1"}, {"a": "3"}, ["checkpoints.a 1 → 3"]),
        ({"a": {"vae": "1"}}, {"a": {"vae": "1"}, "b": {"vae": "2"}}, []),
        ({"a": {"vae": "1"}}, {"a": {"vae": "1", "draft": "2"}}, ["checkpoints.a.draft none → 2"]),
    ],
)
def test_checkpoints_that_differ(old: dict, new: dict, found: list[str]) -> None:
    assert manifest.differences({"checkpoints": old}, {"checkpoints": new}) == found


def test_one_module_locks_files(repository: Path) -> None:
    users = [path for path in (repository / "sdvar_exp").rglob("*.py") if "import fcntl" in path.read_text(encoding="utf-8")]
    assert [path.name for path in users] == ["lock.py"]
