"""Schemas of the files of a study: one for each kind of ledger record, for cells and for the manifest.

Readers take in nothing that does not fit: a checksum says that a line is as it was written, not that it makes sense. What is
left out is named once, counted, and makes a command that shows a study end with exit code 1.

A schema is the name of a kind (`KINDS`), a list of one schema (a list of such values) or a `Shape` (a mapping).
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from sdvar_exp.store.columns import FAILURES, FORMERLY, NOISE, RUNS, SAMPLES, STAGES, TIMINGS

log = logging.getLogger(__name__)

Body = dict[str, Any]
Schema = Any  # str | list[Schema] | Shape

NAMED = 20
"""Things left out that are named one by one; of the rest the number is said."""
LARGEST = 1e12
"""No measured value has this size, and sums and products of smaller ones stay finite."""
MOST_UNITS = 10_000_000
"""Units that a block of a cell's plan may have."""
DEEPEST = 50
"""Lists and mappings inside each other, in values that are kept as they are."""
_ID = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,100}")
_COLUMN = re.compile(r"[A-Za-z]\w{0,99}")
_TRACE = re.compile(r"\d{1,4}(,\d{1,4})*")
_TIME = re.compile(r"[\dTZ:.+ -]{0,40}")
_CODE = re.compile(r"[A-Za-z0-9+/]*={0,2}")


def _is_text(value: Any) -> bool:
    return type(value) is str and (value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value))


def _is_int(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 2**53


def _is_float(value: Any) -> bool:
    return type(value) in (float, int) and -LARGEST <= value <= LARGEST


def _is_ms(value: Any) -> bool:
    return type(value) in (float, int) and (value == 0 or 1e-6 <= value <= LARGEST)


def _is_scalar(value: Any) -> bool:
    return value is None or type(value) is bool or _is_int(value) or _is_float(value) or _is_text(value)


def _is_data(value: Any, depth: int = 0) -> bool:
    if isinstance(value, dict | list) and depth < DEEPEST:
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        return all(_is_data(v, depth + 1) for v in inner)
    return _is_scalar(value)


def _is_block(value: Any) -> bool:
    if not isinstance(value, dict) or not {"labels", "seeds"} <= value.keys():
        return False
    labels, seeds = value["labels"], value["seeds"]
    if not isinstance(labels, list) or not isinstance(seeds, list) or len(labels) * len(seeds) > MOST_UNITS:
        return False
    return all(map(_is_int, labels)) and all(map(_is_int, seeds))


def _is_config(text: str) -> bool:
    try:
        return not fault(parsed(text), CONFIG)
    except ValueError:
        return False


def _matching(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: type(value) is str and pattern.fullmatch(value) is not None


KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "str": (_is_text, "text"),
    "line": (lambda v: _is_text(v) and v == "".join(v.splitlines()), "line of text"),
    "id": (_matching(_ID), "id"),
    "trace": (_matching(_TRACE), "list of numbers like 3,3,2"),
    "when": (_matching(_TIME), "time"),
    "base64": (lambda v: type(v) is str and len(v) % 4 == 0 and _CODE.fullmatch(v) is not None, "base64 text"),
    "int": (_is_int, "whole number of 64 bits"),
    "count": (_is_count, "count"),
    "place": (lambda v: type(v) is int and 0 <= v < 10_000, "place in a sequence"),
    "size": (lambda v: type(v) is int and 0 < v < 2**31, "number of images"),
    "float": (_is_float, f"number up to {LARGEST:g}"),
    "divergence": (lambda v: _is_float(v) or v == math.inf, "divergence"),
    "ms": (_is_ms, "time in milliseconds"),
    "bool": (lambda v: type(v) is bool, "true or false"),
    "scalar": (_is_scalar, "text or number"),
    "lossless": (lambda v: v in ("tokens", "distribution", "no"), "one of tokens, distribution, no"),
    "block": (_is_block, f"block of at most {MOST_UNITS:,} units"),
    "data": (_is_data, "data"),
    "config": (lambda v: type(v) is str and _is_config(v), "configuration of a cell"),
    "text or data": (lambda v: _is_text(v) or (isinstance(v, dict) and _is_data(v)), "text or mapping"),
}
"""Kinds of single values: whether a value is of the kind, and how the kind is called."""


@dataclass(frozen=True)
class Shape:
    """A mapping. must: keys that it has to have; may: keys that may be missing or null; rest: the schema of all others."""

    must: Mapping[str, Schema] = field(default_factory=dict)
    may: Mapping[str, Schema] = field(default_factory=dict)
    rest: Schema = "data"
    keys: re.Pattern[str] | None = None


def fault(value: Any, schema: Schema, where: str = "it") -> str:
    """Reason why a value does not fit a schema, e.g. `label is no whole number of 64 bits: "three"`; empty where it does."""
    if isinstance(schema, str):
        fits, called = KINDS[schema]
        return "" if fits(value) else f"{where} is no {called}: {_shown(value)}"
    if isinstance(schema, list):
        if not isinstance(value, list):
            return f"{where} is no list: {_shown(value)}"
        return next((found for i, v in enumerate(value) if (found := fault(v, schema[0], f"{where}[{i}]"))), "")
    if not isinstance(value, dict):
        return f"{where} is no mapping: {_shown(value)}"
    inside = "" if where == "it" else f"{where}."
    for name, inner in schema.must.items():
        if name not in value:
            return f"{inside}{name} is missing"
        if found := fault(value[name], inner, f"{inside}{name}"):
            return found
    must, may, rest = schema.must, schema.may, schema.rest
    for name, one in value.items():
        if name in must or (one is None and name in may):
            continue
        if name not in may and not (_is_text(name) and (schema.keys is None or schema.keys.fullmatch(name))):
            return f"{inside}{_shown(name)} is no name of a value"
        if found := fault(one, may.get(name, rest), f"{inside}{name}"):
            return found
    return ""


def _shown(value: Any) -> str:
    """A value, short and on one line."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 40 else text[:37] + "…"


def _times(table: Mapping[str, str]) -> dict[str, str]:
    return {name: "ms" for name in table if name.endswith("_ms")}


UNIT = {"cell": "id", "label": "int", "seed": "int"}
COUNTS = {name: "count" for name, kind in SAMPLES.items() if kind == "int" and name not in UNIT}
ROWS: Mapping[str, Shape] = {
    "samples": Shape(UNIT, SAMPLES | COUNTS | _times(SAMPLES) | {"gamma_trace": "trace", "finished_at": "when"}),
    "stages": Shape({**UNIT, "stage": "place"}, STAGES | {"kl": "divergence"} | dict.fromkeys(FORMERLY["stages"], "float")),
    "timings": Shape({**UNIT, "repeat": "place", "baseline_ms": "ms", "cell_ms": "ms"}, TIMINGS | _times(TIMINGS)),
    "noise": Shape({**UNIT, "other_seed": "int"}, NOISE),
    "failures": Shape({**UNIT, "error": "str"}, FAILURES | {"attempt": "count"}),
    "runs": Shape(
        {"cell": "id", "name": "line", "lossless": "lossless", "order": "count", "baseline": "id", "config": "config"},
        RUNS | dict.fromkeys(("units", "planned", "failures", "timing_units", "timing_repeats"), "count"),
    ),
}
"""Rows of the tables: `columns.py`, where needed more particularly."""
CHOICE = Shape({"name": "line"})
CONFIG = Shape(
    may={**dict.fromkeys(("strategy", "model", "mask", "acceptance", "gamma", "cfg_schedule"), CHOICE), "batch": "size"}
)
FINGERPRINT = Shape(
    may={
        "code": "text or data",
        "checkpoints": Shape(),
        "entries": Shape(),
        "arithmetic": Shape(),
        "packages": Shape(),
        "device_kind": "str",
        "dtype": "str",
        "threads": "int",
    }
)


def _record(table: str, more: Mapping[str, Schema] | None = None) -> Shape:
    return Shape(ROWS[table].must, {**ROWS[table].may, **(more or {})}, "scalar", _COLUMN)


RECORDS: Mapping[str, Shape] = {
    "unit": Shape(UNIT, {"fingerprint": "str", "sample": Shape({}, ROWS["samples"].may, "scalar", _COLUMN)}),
    "timing": _record("timings", {"breakdown": Shape(rest="ms", keys=re.compile(r"\w{1,90}_ms"))}),
    "noise": _record("noise"),
    "failure": _record("failures"),
    "session": Shape(
        may={
            "argv": ["str"],
            "cells": ["line"],
            "host": "line",
            "pid": "count",
            "started_at": "when",
            "git": Shape(may={"commit": "line", "dirty": "bool"}),
        }
    ),
}
"""Ledger records by `type`. Records of other types pass, unless they name a unit: nobody reads them."""
SAMPLE = RECORDS["unit"].may["sample"]
PARTS: Mapping[str, Mapping[str, Schema]] = {
    "unit": {
        "stages": [Shape({"stage": "place"}, ROWS["stages"].may, "scalar", _COLUMN)],
        "seen": Shape(
            {
                "classifier": "str",
                "predicted": "int",
                "features": "base64",
                "baseline_predicted": "int",
                "baseline_features": "base64",
            }
        ),
    }
}
"""Parts that are left out alone where they do not fit, so that the row of the unit stays."""
CELL = Shape(
    {"id": "id", "order": "count", "name": "line", "config": CONFIG, "planned": ["block"]},
    {
        "lossless": "lossless",
        "baseline": "id",
        "overrides": ["str"],
        "timing": Shape(may={"units": "count", "repeats": "place", "band": ["float"]}),
    },
)
MANIFEST = Shape(
    {"study": "line", "fingerprint": FINGERPRINT, "fingerprint_id": "line"},
    {"others": Shape(rest=FINGERPRINT), "created": "when"},
)


def admitted(body: Body) -> tuple[Body | None, str]:
    """A ledger record, without parts that do not fit, or None where it does not fit itself; and what is wrong with it."""
    kind = body.get("type", "")
    if not isinstance(kind, str):
        return None, f"type is no text: {_shown(kind)}"
    schema = RECORDS.get(kind)
    if schema is None:
        return (None, f"record of no known type: {_shown(kind)}") if UNIT.keys() <= body.keys() else (body, "")
    parts = PARTS.get(kind, {})
    if found := fault({k: v for k, v in body.items() if k not in parts} if parts else body, schema):
        return None, f"{kind} record whose {found}"
    for name, part in parts.items():
        if body.get(name) is not None and (found := fault(body[name], part, name)):
            body = {k: v for k, v in body.items() if k != name}
            return admitted(body)[0], f"{kind} record whose {found}; the row stays without its {name}"
    return body, ""


def usual_sample(text: bytes) -> bool:
    """Whether the JSON of a unit's `sample` fits."""
    return not fault(json.loads(text), SAMPLE)


_left_out: ContextVar[dict[str, None] | None] = ContextVar("left_out", default=None)
_of_process: dict[str, None] = {}


@contextmanager
def watched() -> Iterator[Mapping[str, None]]:
    """Collect what readers leave out inside: one line each, named anew."""
    found: dict[str, None] = {}
    token = _left_out.set(found)
    try:
        yield found
    finally:
        _left_out.reset(token)


def leave_out(text: str) -> None:
    """Name something that a reader leaves out: once, however often it is met."""
    known = _left_out.get()
    known = _of_process if known is None else known
    if text in known:
        return
    known[text] = None
    if len(known) <= NAMED:
        log.warning("%s", text)
    elif len(known) == NAMED + 1:
        log.warning("more is left out and not named here")


def left_out() -> int:
    """Number of things that readers have left out so far: inside the innermost `watched`, else in this process."""
    known = _left_out.get()
    return len(_of_process if known is None else known)


def parsed(data: bytes | str) -> Any:
    """JSON; ValueError also where it is nested too deeply."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
