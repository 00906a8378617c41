"""The ledger: append-only JSON lines, one file per writing process, each line with its own checksum.

A line is `{"crc": "<8 hex digits>", "body": {…}}`; crc is the CRC-32 of the canonical JSON of the body. A line is
written whole and fsync'd before `append` returns. What a kill can leave is a torn last line, which readers pass over; a
later process writes another file. A bad line elsewhere, or a record that does not fit the schema of its kind (`records.py`),
is damage: it is reported and ignored, so that its unit is pending again.

Files are named `<host>-<pid>-<n>.jsonl`, n counting the files of a ledger. Their order is that of n, then of the name:
it decides which of two rows of one unit is the first, and no clock takes part in it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import socket
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sdvar_exp.store.files import StorageError, atomic_write, storage_errors, sync_folder
from sdvar_exp.store.records import Body, admitted, leave_out, parsed, usual_sample

log = logging.getLogger(__name__)

_HEAD, _MIDDLE, _TAIL = b'{"crc": "', b'", "body": ', b"}"
_BODY_AT = len(_HEAD) + 8 + len(_MIDDLE)


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces, ASCII only, shortest round-trip floats. NaN is null; numpy values are plain."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a ledger record cannot hold {type(value).__name__}: {value!r}")


def encode(body: Mapping[str, Any]) -> bytes:
    """One line of the ledger, with its newline."""
    text = canonical(body).encode("ascii")
    return b"%s%08x%s%s%s\n" % (_HEAD, zlib.crc32(text), _MIDDLE, text, _TAIL)


def decode(line: bytes, keys_only: bool = False) -> Body | None:
    """The body of a line, or None where the checksum or the form is wrong. keys_only: of a usual unit what `brief` has."""
    try:
        text = checked(line)
        body = None if text is None else (keys_only and brief(text)) or parsed(text)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def checked(line: bytes) -> bytes | None:
    """The JSON of a line's body if its checksum is right, else None."""
    line = line.rstrip(b"\r\n")
    try:
        if line.startswith(_HEAD) and line[len(_HEAD) + 8 : _BODY_AT] == _MIDDLE and line.endswith(_TAIL):
            text = line[_BODY_AT : -len(_TAIL)]
            if int(line[len(_HEAD) : len(_HEAD) + 8], 16) == zlib.crc32(text):
                return text
        whole = parsed(line)  # the same data written by another tool, with other spaces or order
        text = canonical(whole["body"]).encode("ascii")
        return text if int(whole["crc"], 16) == zlib.crc32(text) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


_UNIT = re.compile(
    rb'\{"cell":"([^"\\]*)","fingerprint":"[^"\\]*","label":(-?\d{1,18}),"sample":(\{[^{}]*\}),"seed":(-?\d{1,18}),.*"type":"unit"\}'
)
_WHO = re.compile(rb'"finished_at":"([^"\\]*)",(?:[^{}]*,)?"host":"([^"\\]*)",(?:[^{}]*,)?"pid":(\d+)[,}]')


def brief(text: bytes) -> Body | None:
    """The unit of a canonical JSON, its process and its time, without parsing the rest, which is most of a ledger.

    None for other records, and for units that do not look as usual or whose row does not fit. Keys: type, cell, label,
    seed, sample with finished_at, host and pid.
    """
    found = _UNIT.fullmatch(text)
    who = found and _WHO.search(found[3])
    if not found or not who or not usual_sample(found[3]):
        return None
    sample = {"finished_at": who[1].decode(), "host": who[2].decode(), "pid": int(who[3])}
    return {"type": "unit", "cell": found[1].decode(), "label": int(found[2]), "seed": int(found[4]), "sample": sample}


def files_of(folder: Path) -> list[Path]:
    """Ledger files in the order in which they were begun."""
    return sorted(folder.glob("*.jsonl"), key=_order)


def _order(path: Path) -> tuple[int, str]:
    number = path.stem.rpartition("-")[2]
    return (int(number) if number.isdecimal() else 0, path.name)


def sessions(folder: Path) -> Iterator[Body]:
    """Records of the starts that added to a ledger, in order."""
    return (body for body in LedgerReader(folder).read(containing=b'"session"') if body.get("type") == "session")


def forget(folder: Path, cell: str) -> None:
    """Remove the records of a cell from a ledger that nobody writes to; what cannot be read stays."""
    for path in files_of(folder):
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if cell.encode() not in line or (decode(line) or {}).get("cell") != cell]
        if len(kept) < len(lines):
            atomic_write(path, b"".join(kept), durable=True)


class LedgerWriter:
    """Appends records to a file of its own, begun with the first record. Threads may share it, processes do not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._fd: int | None = None
        self._path = folder
        self._size = 0
        self._pid = 0
        self._lock = threading.Lock()

    def append(self, *bodies: Mapping[str, Any]) -> None:
        """Write records and wait until they are on disk: when this returns, they are committed.

        Raises `StorageError` where they cannot be written, after cutting off what was written in part.
        """
        data = b"".join(map(encode, bodies))
        if not data:
            return
        with self._lock:
            if self._fd is None or self._pid != os.getpid():  # a forked child begins its own file
                self._begin()
            assert self._fd is not None
            written = 0
            try:
                while written < len(data):
                    written += os.write(self._fd, data[written:])
                os.fsync(self._fd)
            except OSError as error:
                self._cut(data[:written])
                raise StorageError(
                    f"cannot append to {self._path}: {error.strerror or error}; nothing recorded so far is lost: "
                    "free space and run the same command again"
                ) from error
            self._size += written

    def _begin(self) -> None:
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            host = re.sub(r"[^A-Za-z0-9_.]", "_", socket.gethostname()) or "host"
            number = 1 + max((_order(p)[0] for p in self.folder.glob("*.jsonl")), default=0)
            while True:
                self._path = self.folder / f"{host}-{os.getpid()}-{number}.jsonl"
                try:
                    self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
                    break
                except FileExistsError:
                    number += 1
            sync_folder(self.folder)
        self._pid, self._size = os.getpid(), 0

    def _cut(self, written: bytes) -> None:
        """Drop the partial line; where even that fails, leave the file and begin another next time."""
        assert self._fd is not None
        whole = written.rfind(b"\n") + 1
        try:
            os.ftruncate(self._fd, self._size + whole)
            self._size += whole
        except OSError as error:
            log.warning("%s: the partial last line stays: %s", self._path, error)
            self.close()

    def close(self) -> None:
        """Close the file; a later `append` begins another."""
        if self._fd is not None:
            with suppress(OSError):
                os.close(self._fd)
            self._fd = None


class LedgerReader:
    """Hands out every good record of a ledger once, in the order of files and lines; call `read` again for new ones.

    `damage` lists bad lines, and records and parts of them that do not fit, as "file line n: reason". It reads while others
    write: an unfinished last line is left for the next time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damage: list[str] = []
        self._at: dict[str, tuple[int, int]] = {}  # by file: bytes and lines that were read

    def read(self, containing: bytes | None = None, keys_only: bool = False) -> Iterator[Body]:
        """Records since the last call. containing: lines without these bytes are checked but not parsed.

        keys_only: of units no more than `brief` has, which is several times as fast.
        """
        for path in files_of(self.folder):
            yield from self._read_file(path, containing, keys_only)

    def _read_file(self, path: Path, containing: bytes | None, keys_only: bool) -> Iterator[Body]:
        offset, number = self._at.get(path.name, (0, 0))
        with open(path, "rb") as file:
            file.seek(offset)
            for line in file:
                whole = line.endswith(b"\n")
                wanted = containing is None or containing in line
                body = decode(line, keys_only) if wanted else None
                good = body is not None or line == b"\n" or (not wanted and checked(line) is not None)
                if not good and not whole:
                    log.debug("%s: unfinished last line", path)
                    return
                offset, number = offset + len(line), number + 1
                self._at[path.name] = (offset, number)
                why = "" if good else "bad checksum, the record is ignored and its unit is pending again"
                if body is not None:
                    body, why = admitted(body)
                if why:
                    self.damage.append(f"{path.name} line {number}: {why}")
                    leave_out(f"{path.parent}: {self.damage[-1]}")
                if body is not None:
                    yield body
