"""Append, read back, and every way in which a line can be broken."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdvar_exp.store import ledger
from sdvar_exp.store.files import StorageError
from sdvar_exp.store.ledger import LedgerReader, LedgerWriter, canonical, decode, encode, files_of

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def read(folder: Path) -> list[dict]:
    return list(LedgerReader(folder).read())


def write(folder: Path, *bodies: dict) -> Path:
    writer = LedgerWriter(folder)
    for body in bodies:
        writer.append(body)
    writer.close()
    return files_of(folder)[-1]


@given(st.dictionaries(st.text(), PLAIN, max_size=6))
def test_a_line_reads_back_as_it_was(body: dict) -> None:
    line = encode(body)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert decode(line) == body


@given(st.dictionaries(st.text(), PLAIN, max_size=6), st.data())
def test_any_cut_or_changed_byte_is_seen(body: dict, data: st.DataObject) -> None:
    line = encode(body)
    cut = data.draw(st.integers(0, len(line) - 2))
    assert decode(line[:cut]) is None
    at = data.draw(st.integers(28, len(line) - 3))
    changed = decode(line[:at] + bytes([line[at] ^ 1]) + line[at + 1 :])
    # the one harmless change: the last of seventeen digits, where both spellings are the same float
    assert changed is None or canonical(changed) == canonical(body)


FACTS = st.dictionaries(st.sampled_from(["attempt", "finished_at", "g", "host", "pid", "x"]) | st.text(), PLAIN, max_size=6)
AWKWARD = st.sampled_from(['},"seed":7,"type":"unit"}', '"pid":3', "{", '"', "\\", '"type":"unit"}']) | st.text(max_size=8)
USUAL = {"finished_at": "2026-01-01T00:00:00Z", "host": "h", "pid": 4}


@given(AWKWARD, FACTS, FACTS, AWKWARD, st.booleans())
def test_the_short_reading_agrees_with_the_whole_one(cell: str, facts: dict, more: dict, word: str, usual: bool) -> None:
    """Whatever a record holds: `keys_only` gives its own cell, label, seed, host, … and nothing of its insides."""
    sample = {**facts, "note": word, **(USUAL if usual else {})}
    body = {"type": "unit", "cell": cell, "fingerprint": word, "label": 3, "seed": 5, "sample": sample, "stages": [more]} | more
    line = encode(body)
    whole, short = decode(line), decode(line, keys_only=True)
    assert whole is not None and short is not None
    names = ("type", "cell", "label", "seed")
    assert [short[k] for k in names] == [whole[k] for k in names]
    seen = ("finished_at", "host", "pid")
    assert [short["sample"].get(k) for k in seen] == [whole["sample"].get(k) for k in seen]


def test_a_usual_unit_is_read_short() -> None:
    sample = USUAL | {"ssim": 0.5}
    body = {"type": "unit", "cell": "abc", "fingerprint": "f", "label": 3, "seed": 5, "sample": sample, "stages": []}
    assert decode(encode(body), keys_only=True) == {"type": "unit", "cell": "abc", "label": 3, "seed": 5, "sample": USUAL}
    assert decode(encode(body | {"type": "timing"}), keys_only=True) == body | {"type": "timing"}


def test_a_last_digit_that_is_the_same_float_is_the_same_record() -> None:
    line = encode({"x": -2.7142313540545243e110})
    assert decode(line.replace(b"43e", b"42e")) == {"x": -2.7142313540545243e110}
    assert decode(line.replace(b"43e", b"33e")) is None


def test_values_are_stored_as_plain_numbers() -> None:
    body = {"a": np.float32(0.5), "b": np.int64(3), "c": float("nan"), "d": np.array([1, 2]), "e": (True, np.bool_(False))}
    assert decode(encode(body)) == {"a": 0.5, "b": 3, "c": None, "d": [1, 2], "e": [True, False]}
    assert decode(encode({"x": math.inf})) == {"x": math.inf}
    assert canonical({"b": 0.1 + 0.2, "a": 1}) == '{"a":1,"b":0.30000000000000004}'
    with pytest.raises(TypeError, match="cannot hold object"):
        encode({"x": object()})


def test_the_same_record_in_another_spelling_is_accepted() -> None:
    """Checksums are over the canonical JSON, so that another tool may rewrite a line."""
    whole = json.loads(encode({"b": [1, 2.5], "a": "ü"}))
    text = json.dumps({"body": whole["body"], "crc": whole["crc"]}, indent=None, ensure_ascii=False)
    assert decode(text.encode()) == {"b": [1, 2.5], "a": "ü"}


def test_a_torn_last_line_is_passed_over_also_with_later_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, {"n": 1}, {"n": 2})
    path.write_bytes(path.read_bytes()[:-9])
    later = write(tmp_path, {"n": 3})
    assert later != path
    reader = LedgerReader(tmp_path)
    assert [b["n"] for b in reader.read()] == [1, 3]
    assert not reader.damage and not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_last_line_that_only_lacks_its_newline_counts(tmp_path: Path) -> None:
    path = write(tmp_path, {"n": 1}, {"n": 2})
    path.write_bytes(path.read_bytes()[:-1])
    assert [b["n"] for b in read(tmp_path)] == [1, 2]


def test_damage_in_the_middle_is_reported_once_and_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, {"n": 1}, {"n": 22}, {"n": 3})
    path.write_bytes(path.read_bytes().replace(b'{"n":22}', b'{"n":23}'))
    reader = LedgerReader(tmp_path)
    assert [b["n"] for b in reader.read()] == [1, 3]
    assert [b["n"] for b in read(tmp_path)] == [1, 3]
    assert reader.damage == [f"{path.name} line 2: bad checksum, the record is ignored and its unit is pending again"]
    assert len(caplog.records) == 1
    assert path.name in caplog.text and "line 2" in caplog.text and str(tmp_path) in caplog.text


@pytest.mark.parametrize("junk", [b"\xff\xfe\x00\n", b"\n", b"null\n", b"[]\n", b'{"crc": "zz", "body": {}}\n', b"{}\n"])
def test_junk_between_lines(tmp_path: Path, junk: bytes) -> None:
    path = write(tmp_path, {"n": 1}, {"n": 2})
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + junk + second)
    reader = LedgerReader(tmp_path)
    assert [b["n"] for b in reader.read()] == [1, 2]
    assert len(reader.damage) == (junk != b"\n")


def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    reader = LedgerReader(tmp_path)
    assert list(reader.read()) == []
    writer = LedgerWriter(tmp_path)
    writer.append({"n": 1}, {"n": 2})
    assert [b["n"] for b in reader.read()] == [1, 2]
    line = encode({"n": 3})
    path = files_of(tmp_path)[0]
    with open(path, "ab") as file:
        file.write(line[:-5])
        file.flush()
        assert list(reader.read()) == []
        file.write(line[-5:])
    assert [b["n"] for b in reader.read()] == [3]
    assert list(reader.read()) == []


def test_unwanted_lines_are_still_checked(tmp_path: Path) -> None:
    path = write(tmp_path, {"cell": "aa"}, {"cell": "bbb"}, {"cell": "cc"})
    path.write_bytes(path.read_bytes().replace(b'"bbb"', b'"bbc"'))
    reader = LedgerReader(tmp_path)
    assert list(reader.read(containing=b'"cc"')) == [{"cell": "cc"}]
    assert len(reader.damage) == 1


def test_files_are_ordered_by_number_not_by_clock_or_name(tmp_path: Path) -> None:
    for n in range(1, 13):
        path = write(tmp_path, {"n": n})
        os.utime(path, (1e9 - n, 1e9 - n))  # a clock that runs backwards
    assert [b["n"] for b in read(tmp_path)] == list(range(1, 13))


def test_a_cell_is_forgotten_and_what_cannot_be_read_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also records that name the cell without being its own; a file without any is not written again."""
    monkeypatch.setattr(ledger.socket, "gethostname", lambda: "a/b c")
    bodies = [{"cell": "x", "n": 1}, {"cell": "y", "of": "x"}, {"cell": "x", "n": 2}, {"cell": "z"}]
    path, other = write(tmp_path, *bodies), write(tmp_path, {"cell": "y"})
    assert [p.name for p in (path, other)] == [f"a_b_c-{os.getpid()}-{n}.jsonl" for n in (1, 2)]
    torn = encode({"cell": "x", "n": 3})[:-5]
    path.write_bytes(path.read_bytes() + torn)
    before = other.stat().st_ino
    ledger.forget(tmp_path, "x")
    assert path.read_bytes() == encode(bodies[1]) + encode(bodies[3]) + torn
    assert other.stat().st_ino == before and read(tmp_path)[-1] == {"cell": "y"}


def test_disk_full_leaves_whole_lines_and_one_line_of_text(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for a full disk: the kernel takes a part of the write, then refuses."""
    code = textwrap.dedent(
        f"""
        import resource, signal
        from pathlib import Path
        from sdvar_exp.store.files import StorageError
        from sdvar_exp.store.ledger import LedgerWriter
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        writer = LedgerWriter(Path({str(tmp_path)!r}))
        writer.append({{"n": 0}})
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        for n in range(1, 100):
            try:
                writer.append({{"n": n, "text": "x" * 100}})
            except StorageError as error:
                print(n, error)
                break
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        writer.append({{"n": n, "text": "y"}})
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    failed, _, message = done.stdout.strip().partition(" ")
    assert len(done.stdout.splitlines()) == 1
    assert "cannot append to" in message and "File too large" in message and "same command again" in message
    (path,) = files_of(tmp_path)
    assert all(decode(line) for line in path.read_bytes().splitlines())
    assert [b["n"] for b in read(tmp_path)] == list(range(int(failed) + 1))


def test_whole_lines_of_a_batch_that_broke_off_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three records the disk takes two and a half: two are committed, and the next append follows them."""
    writer = LedgerWriter(tmp_path)
    writer.append({"n": 0})
    sizes = [len(encode({"n": n})) for n in (1, 2, 3)]
    real, room = os.write, [sizes[0] + sizes[1] + sizes[2] // 2, 0]

    def partial(fd: int, data: bytes) -> int:
        if not (left := room.pop(0)):
            raise OSError(28, "No space left on device")
        return real(fd, data[:left])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", partial)
        with pytest.raises(StorageError, match="No space left"):
            writer.append({"n": 1}, {"n": 2}, {"n": 3})
    (path,) = files_of(tmp_path)
    assert [decode(line) for line in path.read_bytes().splitlines()] == [{"n": n} for n in range(3)]
    writer.append({"n": 4})
    assert [b["n"] for b in read(tmp_path)] == [0, 1, 2, 4] and files_of(tmp_path) == [path]


def test_a_failed_append_that_cannot_be_cut_off_begins_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LedgerWriter(tmp_path)
    writer.append({"n": 1})
    real, calls = os.write, []

    def partial(fd: int, data: bytes) -> int:
        calls.append(fd)
        if len(calls) == 1:
            return real(fd, data[:10])
        raise OSError(28, "No space left on device")

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", partial)
        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(StorageError, match="No space left on device"):
            writer.append({"n": 2})
    writer.append({"n": 3})
    assert [b["n"] for b in read(tmp_path)] == [1, 3]
    assert len(files_of(tmp_path)) == 2


def test_a_forked_child_writes_its_own_file(tmp_path: Path) -> None:
    writer = LedgerWriter(tmp_path)
    writer.append({"n": 1})
    pid = os.fork()
    if not pid:
        writer.append({"n": 2})
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    writer.append({"n": 3})
    assert len(files_of(tmp_path)) == 2
    assert sorted(b["n"] for b in read(tmp_path)) == [1, 2, 3]


def test_killed_at_any_byte_only_the_last_record_is_lost(tmp_path: Path) -> None:
    path = write(tmp_path, *({"n": n, "x": [0.1] * n} for n in range(6)))
    data = path.read_bytes()
    for cut in random.Random(0).sample(range(len(data)), 60):
        path.write_bytes(data[:cut])
        whole = data[:cut].count(b"\n")
        assert len(read(tmp_path)) in (whole, whole + (data[cut : cut + 1] == b"\n"))
