"""`run --json`: a record once the study is open, one for every failure, one at the end; a JSON object a line.

`launch`: everything is bound (cells, models, device) and what is left is known. `failure`: of `KINDS`. `done`: the exit code; a
reader that meets the end of the output without it knows that the process died.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sdvar_exp.errors import UserError
from sdvar_exp.runner.running.failures import KILLED
from sdvar_exp.store import StorageError
from sdvar_exp.store.ledger import LedgerReader

KINDS = {
    "oom": "out_of_memory",
    "UnitTimeout": "timeout",
    "NotFiniteError": "not_finite",
    "BaselineError": "baseline",
    "AcceleratorError": "device",
}
"""Kinds of failures, by how the record begins. Others: `killed`, `error`; `usage`, `storage` of the command."""


def kind_of(error: str) -> str:
    """The kind of a failure in the ledger."""
    known = KINDS.get(error.partition(":")[0])
    return known or ("killed" if KILLED in error else "error")


def announced(run: Callable[[Callable[[Mapping[str, Any]], None]], int]) -> int:
    """Run something that says what it launches, print records on standard output, and return its exit code.

    run: gets a function for the launch record, which names the study's folder.
    """
    readers: list[LedgerReader] = []
    failures = 0

    def launch(record: Mapping[str, Any]) -> None:
        reader = LedgerReader(Path(record["folder"]) / "ledger")
        for _ in reader.read(keys_only=True):
            pass  # what earlier commands left is not this one's
        readers.append(reader)
        say({"record": "launch", **record})

    def fail(kind: str, **more: Any) -> None:
        nonlocal failures
        failures += 1
        say({"record": "failure", "kind": kind, **more})

    try:
        code = run(launch)
    except UserError as error:
        fail("storage" if isinstance(error, StorageError) else "usage", error=str(error))
        say({"record": "done", "exit_code": error.exit_code, "units": 0, "failures": failures})
        raise
    units = 0
    for body in readers[0].read() if readers else ():
        units += body["type"] == "unit"
        if body["type"] == "failure":
            fail(kind_of(body["error"]), **{k: body[k] for k in ("cell", "label", "seed", "attempt", "error")})
    say({"record": "done", "exit_code": code, "units": units, "failures": failures})
    return code


def say(record: Mapping[str, Any]) -> None:
    """One record, at once."""
    sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
    sys.stdout.flush()
