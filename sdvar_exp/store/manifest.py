"""`manifest.json` (whose study it is, under which fingerprint) and `cells/<id>.json` (what each cell is)."""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdvar_exp import registry
from sdvar_exp.errors import UserError
from sdvar_exp.plan import Timing
from sdvar_exp.store.columns import CHOICES
from sdvar_exp.store.files import atomic_write
from sdvar_exp.store.ledger import canonical, sessions
from sdvar_exp.store.provenance import DECIDING_PACKAGES, code_version, definition, definitions, redact, versions
from sdvar_exp.store.records import CELL, MANIFEST, fault, leave_out, parsed

if TYPE_CHECKING:
    from sdvar_exp.cell import Cell
    from sdvar_exp.plan import Plan, PlannedCell

SCHEMA = 1

Fingerprint = Mapping[str, Any]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, or None if the folder has none. `UserError` if it is of a later version or damaged."""
    path = folder / "manifest.json"
    try:
        manifest = parsed(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it or use another study") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise UserError(f"{path} is not of schema {SCHEMA}; use another study or the version that wrote it")
    if found := fault(manifest, MANIFEST):
        raise UserError(f"{path} is damaged, its {found}; restore it or use another study")
    return manifest


def is_kept(folder: Path) -> bool:
    """Whether a study was kept without its ledger: its tables are then the only record of its rows."""
    return not any((folder / "ledger").glob("*.jsonl")) and (folder / "tables" / "samples.parquet").is_file()


def fingerprint_id(fingerprint: Fingerprint) -> str:
    """Ten hexadecimal digits that stand for a fingerprint on each row."""
    return hashlib.sha256(canonical(fingerprint).encode()).hexdigest()[:10]


def agree(
    manifest: dict[str, Any] | None, study: str, fingerprint: Fingerprint, mixed: bool, folder: Path | None = None
) -> dict[str, Any]:
    """The manifest to write, with the id under which new rows go in `current`.

    A first start makes it. A fingerprint that differs raises `UserError` with the differences, or, where `mixed` allows
    it, is kept beside the first one. folder: of the study, whose ledger knows the commit that it was begun at.
    """
    fingerprint = json.loads(canonical(fingerprint))
    mine = fingerprint_id(fingerprint)
    if manifest is None:
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        first = {"schema": SCHEMA, "study": study, "fingerprint": fingerprint, "fingerprint_id": mine}
        return {**first, "others": {}, "created": created, "current": mine}
    found = differences(manifest["fingerprint"], fingerprint)
    if not found:
        merged = _with_new_models(manifest["fingerprint"], fingerprint)
        return {**manifest, "fingerprint": merged, "current": manifest["fingerprint_id"]}
    if not mixed:
        raise UserError(_refusal(study, manifest["fingerprint"], fingerprint, found, folder))
    others = manifest.get("others", {})
    for known, other in others.items():
        if not differences(other, fingerprint):
            return {**manifest, "others": {**others, known: _with_new_models(other, fingerprint)}, "current": known}
    return {**manifest, "others": {**others, mine: fingerprint}, "current": mine}


def reference_record(reference: Cell | None) -> dict[str, Any]:
    """The study's reference as its manifest has it."""
    return {} if reference is None else {"reference": {"id": reference.id, "config": reference.as_dict()}}


def settle_reference(plan: Plan) -> Plan:
    """The plan with the reference of the study that it goes on with.

    A study that was begun before there were references has none: its cells are compared with their own baselines. Raises
    `UserError` where the command names another reference, or none of the models that the study's needs.
    """
    manifest = read_manifest(plan.folder)
    if manifest is None or plan.reference is None:
        return plan
    kept = manifest.get("reference")
    if kept is not None and kept["id"] == plan.reference.id:
        return plan
    if plan.said:
        found = "; ".join(differences(kept["config"], plan.reference.as_dict())) if kept else "it has none"
        raise UserError(f"study {plan.study} was begun with another reference ({found}); drop reference.…, or use study=NAME")
    if kept is None:
        return replace(plan, reference=None)
    models = (plan.reference.model, *(p.cell.model for p in plan.cells))
    for spec in (one for model in models for one in (model, model.plainly())):
        reference = type(plan.reference).sequential(kept["config"], spec)
        if reference.id == kept["id"]:
            return replace(plan, reference=reference)
    wanted = differences(kept["config"]["model"], plan.reference.model.identity(), "model")
    raise UserError(
        f"study {plan.study} compares with another model ({'; '.join(wanted)}), which this command does not name; "
        "begin it with reference.model=… or use study=NAME"
    )


def refusal(folder: Path, known: Fingerprint) -> str | None:
    """Reason of a run to refuse to go on with a study, as far as what is known beforehand says; None where it would not.

    known: the parts of a fingerprint that need no model to be loaded.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    first = manifest["fingerprint"]
    new = {**first, **json.loads(canonical(known))}
    found = differences(first, new)
    return _refusal(manifest["study"], first, new, found, folder) if found else None


def refusal_of(plan: Plan) -> str | None:
    """`refusal` of the study that a plan goes on with."""
    settings = plan.settings
    known: dict[str, Any] = {**_today(), "dtype": settings.dtype, "entries": definitions(p.cell for p in plan.cells)}
    known |= {"threads": settings.threads} if settings.threads else {}
    known |= {"device_kind": settings.device.partition(":")[0]} if settings.device != "auto" else {}
    return None if settings.allow_mixed else refusal(plan.folder, known)


def refusal_today(folder: Path) -> str | None:
    """`refusal` of a study whatever is asked of it: its code, packages and the project's own entries are no more the same."""
    manifest = read_manifest(folder)
    entries = (manifest or {}).get("fingerprint", {}).get("entries", {})
    kinds = registry.PACKAGES.keys() & {key.partition("=")[0] for key in entries}
    own = {f"{e.kind}={e.name}": e for kind in kinds for e in registry.own(kind)}
    return refusal(folder, {**_today(), "entries": {key: definition(own[key]) for key in entries if key in own}})


def _today() -> dict[str, Any]:
    return {"code": code_version(), "packages": versions(DECIDING_PACKAGES)}


def _refusal(study: str, old: Fingerprint, new: Fingerprint, found: list[str], folder: Path | None) -> str:
    """The message of a refused start: why, and what to do."""
    commit = _commit_of(folder) if folder is not None and any(text.startswith(("code", "entries")) for text in found) else ""
    at = f" at commit {commit[:10]}" if commit else ""
    if "entries" in new and "entries" not in old:
        return (
            f"study {study} was begun{at} by an earlier version of sdvar_exp, whose code decides otherwise or says less of "
            "itself; it can be read, but not gone on with: use another study=NAME, or add allow_mixed=true to tag the new rows"
        )
    return (
        f"study {study} was made under another fingerprint ({'; '.join(found)}){f', begun{at}' if at else ''}; "
        f"go on as it was made{_settings_of(old, new)}, use another study=NAME, or add allow_mixed=true to tag the new rows"
    )


def _commit_of(folder: Path) -> str:
    """The commit of the first session that knew one; empty where none did."""
    commits = ((body.get("git") or {}).get("commit") for body in sessions(folder / "ledger"))
    return next((str(commit) for commit in commits if commit), "")


def _settings_of(old: Fingerprint, new: Fingerprint) -> str:
    """` with threads=2 dtype=float32`: the settings that bring the study's own circumstances back, where settings do."""
    keys = {"threads": "threads", "dtype": "dtype", "device_kind": "device"}
    words = [f"{word}={old[key]}" for key, word in keys.items() if key in old and old[key] != new.get(key)]
    return f" with {' '.join(words)}" if words else ""


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """The differences, e.g. "packages.torch 2.13.0 → 2.14.0". A model or an entry that only one side uses is no difference."""
    found = sorted(registry.changes(old, new, path), key=lambda change: change[0])
    return [f"{where} {_short(a)} → {_short(b)}" for where, a, b in found if not _one_sided(where, a, b)]


def _one_sided(where: str, old: Any, new: Any) -> bool:
    """Whether a change is a whole entry, or a whole model, that one fingerprint has and the other has not."""
    part, dot, _ = where.partition(".")
    whole = part == "entries" or (part == "checkpoints" and isinstance(old or new, dict))
    return bool(dot) and whole and (old is None or new is None)


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:12] + "…" if len(text) > 24 else text


def _with_new_models(old: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint with the models and entries that another one uses beside its own."""
    more = {key: {**new.get(key, {}), **old.get(key, {})} for key in ("checkpoints", "entries")}
    return {**old, **{key: value for key, value in more.items() if value}}


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest so that it survives a power failure; `current` belongs to the process, not to the file."""
    kept = {k: v for k, v in manifest.items() if k != "current"}
    if kept != read_manifest(folder):
        atomic_write(folder / "manifest.json", (json.dumps(kept, indent=1) + "\n").encode(), durable=True)


def read_cells(folder: Path) -> dict[str, dict[str, Any]]:
    """All cells of a study by id, in plan order. A damaged file is passed over: the next start writes it again."""
    cells = []
    for path in (folder / "cells").glob("*.json"):
        try:
            cell = parsed(path.read_bytes())
            if found := fault(cell, CELL) or ("" if cell["id"] == path.stem else "id is not the file's name"):
                raise ValueError(found)
            unsaid = {"lossless": "no", "baseline": cell["id"], "overrides": [], "timing": {}}
            cell |= {k: v for k, v in unsaid.items() if cell.get(k) is None}
            cells.append((cell["order"], cell["id"], cell))
        except (ValueError, OSError) as error:
            leave_out(f"{path} is damaged and its cell left out; a run that has the cell writes it again ({error})")
    return {cell_id: cell for _, cell_id, cell in sorted(cells, key=lambda c: c[:2])}


def superseded(folder: Path) -> dict[str, str]:
    """Cells that differ from a later one in the source of an entry of one's own alone: id of each, and of the one instead.

    Later is the one of the last command, else the one that was planned last. A cell that others are compared with stays.
    """
    cells = read_cells(folder)
    versions: dict[str, list[str]] = {}
    for cell, about in cells.items():
        versions.setdefault(canonical(_without_source(about["config"])), []).append(cell)
    several = [group for group in versions.values() if len(group) > 1]
    if not several:
        return {}
    last = {cell for body in deque(sessions(folder / "ledger"), maxlen=1) for cell in body.get("cells", ())}
    latest = {cell: max(group, key=lambda c: (c in last, cells[c]["order"])) for group in several for cell in group}
    old = {cell: new for cell, new in latest.items() if cell != new}
    needed = {about.get(key) for cell, about in cells.items() if cell not in old for key in ("baseline", "own_baseline")}
    return {cell: new for cell, new in old.items() if cell not in needed}


def _without_source(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_source(inner) for key, inner in value.items() if key != "source"}
    return value


def write_cells(folder: Path, plan: Plan) -> None:
    """Add the plan's cells and units. A cell that is there keeps order and name; new ones follow in plan order."""
    known = read_cells(folder)
    following = 1 + max((int(c["order"]) for c in known.values()), default=-1)
    units = {"labels": list(plan.labels), "seeds": list(plan.seeds)}
    asked = plan.settings.timing
    timing = {"units": asked.units, "repeats": asked.repeats, "band": list(asked.band)}
    seen: set[str] = set()
    for planned in plan.cells:
        cell_id = planned.cell.id
        if cell_id in seen:
            continue
        seen.add(cell_id)
        old = known.get(cell_id)
        new = dict(old) if old else _describe(planned, cell_id, following, plan.reference)
        following += old is None
        new["timing"] = timing
        if not set(_product(units)) <= set(planned_units(new)):
            new["planned"] = [*new["planned"], units]
        if new != old:
            atomic_write(folder / "cells" / f"{cell_id}.json", (json.dumps(new, indent=1) + "\n").encode())


def _describe(planned: PlannedCell, cell_id: str, order: int, reference: Cell | None) -> dict[str, Any]:
    from sdvar_exp.decoding.guarantees import lossless

    cell = planned.cell.normalised()
    return {
        "id": cell_id,
        "order": order,
        "name": planned.name,
        "lossless": lossless(cell),
        "baseline": cell.compared_with(reference).id,
        "own_baseline": cell.baseline().id,
        "config": cell.as_dict(),
        "overrides": redact(planned.overrides),
        "planned": [],
    }


def planned_units(cell: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(label, seed) of every unit that was ever planned for a cell, sorted."""
    return sorted({unit for block in cell.get("planned", []) for unit in _product(block)})


def timings_of(cell: Mapping[str, Any]) -> int:
    """Number of timings that a cell is to have."""
    timing, batch = cell.get("timing") or {}, cell.get("config", {}).get("batch") or 1
    asked = Timing(timing.get("units") or 0, timing.get("repeats") or 0)
    return asked.batches(len(planned_units(cell)), batch) * asked.repeats


def _product(block: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    return ((int(label), int(seed)) for label in block["labels"] for seed in block["seeds"])


def choice_texts(config: Mapping[str, Any]) -> dict[str, str | None]:
    """A cell's choices for the tables: the name of each, so that rows can be selected by it, and as `…_spec` its parameters
    with it: "match_rate(tau=0.5, …)", "fixed(2)". None where the strategy does not read it."""
    out: dict[str, str | None] = {}
    for kind in CHOICES:
        choice = config.get(kind)
        out[kind] = (choice or {}).get("name")
        out[f"{kind}_spec"] = registry.choice_text(choice) if choice else None
    return out
