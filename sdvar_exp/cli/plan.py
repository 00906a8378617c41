"""`sdvar-exp plan`: cells, units and duplicates of a command, and what is left of it; touches no model.

PyTorch is asked only where the arithmetic of a command is unusual.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sdvar_exp.cli.options import MACHINES, Parser, help_wanted, run_help, say_json, tell
from sdvar_exp.cli.studies import folder_notices
from sdvar_exp.config.arguments import words_parser
from sdvar_exp.config.folder import nearest_folder
from sdvar_exp.errors import UserError
from sdvar_exp.models.files import model_files
from sdvar_exp.plan import Plan, PlannedCell
from sdvar_exp.runner.running.until import present
from sdvar_exp.runner.running.work import timings as missing_timings
from sdvar_exp.store.files import studies_in
from sdvar_exp.store.manifest import refusal_of, settle_reference
from sdvar_exp.store.state import LedgerState
from sdvar_exp.words import count, roughly, size

GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Device files of a GPU that torch may use: NVIDIA's driver, the same under WSL, AMD's."""


def with_remarks(plan: Plan) -> Plan:
    """The plan with what is worth saying of its arithmetic on its device; PyTorch is asked only where something is unusual.

    Raises `UserError` for arithmetic that the device has not.
    """
    usual = plan.settings.dtype in ("float32", "float64")
    cells = [planned.cell for planned in plan.cells]
    unusual = [c for c in cells if not usual or c.model.arithmetic() or hasattr(c.proposer and c.proposer.params, "precision")]
    if not unusual:
        return plan
    from sdvar_exp.models.products import remarks

    found = (note for cell in unusual for note in remarks(cell, plan.settings.dtype, plan.settings.device))
    return replace(plan, notices=(*plan.notices, *dict.fromkeys(found)))


def parser() -> Parser:
    known = words_parser("sdvar-exp plan")
    known.add_argument("--json", action="store_true", help=MACHINES)
    return known


def main(argv: list[str]) -> int:
    if help_wanted(argv):
        print(run_help(parser(), argv))
        return 0
    from sdvar_exp.config import compose, passthrough

    if passthrough.wants_hydra(argv):
        return passthrough.answer(argv, "sdvar-exp plan")
    as_json = parser().parse_known_args(argv)[0].json
    plan = compose([word for word in argv if word != "--json"])
    plan = settle_reference(with_remarks(plan))
    plan = replace(plan, notices=(*plan.notices, *folder_notices(plan)))
    plan = replace(plan, notices=(*plan.notices, *(f"`run` will refuse: {why}" for why in refusals(plan))))
    until = plan.until
    plan, look = present(plan) if until else (plan, "")
    left = whats_left(plan)
    if as_json:
        more = {"until": {**dict(until.widths), "most": until.most, "looks": until.looks, "look": look}} if until else {}
        say_json({**as_dict(plan, left), **more})
        return 0
    tell("note", plan.notices)
    print(text(plan, left))
    if until:
        print(f"seeds until {until}\n{look}" + ("; the counts are those of the most seeds" if left.pending else ""))
    return 0


@dataclass(frozen=True)
class Left:
    """The units that are left to do. by_cell: pending units of the plan's cells and of the baselines that are added.

    seconds: estimate from the rates of this study or, where it has none, of another one with the same models, device and
    dtype; None: nothing was measured. measured: over how many units. images, image_bytes: PNGs to be written; bytes are
    None without a measure.
    """

    units: int
    cached: int
    failed: int
    timings: int
    by_cell: dict[str, int]
    seconds: float | None
    measured: int
    rate_of: str
    images: int
    image_bytes: float | None
    free_bytes: int

    @property
    def pending(self) -> int:
        return self.units - self.cached


def whats_left(plan: Plan) -> Left:
    """Compare the plan with the ledger on disk."""
    ledger = LedgerState(plan.folder).update()
    own = {p.cell.id: p.cell.batch for p in plan.cells}
    baselines = {p.cell.compared_with(plan.reference).id for p in plan.cells}
    cells = {**dict.fromkeys((cell.id for cell in plan.added()), 1), **own}
    wanted = [(cell, unit.label, unit.seed) for cell in cells for unit in plan.units]
    pending = [key for key in wanted if key not in ledger.units]
    failed = set(ledger.failed)
    by_cell = {**dict.fromkeys(cells, 0), **Counter(cell for cell, _, _ in pending)}
    per_cell = len(plan.units)
    full = replace(plan, cells=(*(PlannedCell(cell, "") for cell in plan.added()), *plan.cells))
    alone = {key: {r for r, body in repeats.items() if not body.get("contended")} for key, repeats in ledger.timings.items()}
    timings = sum(len(timed.repeats) for _, tasks in missing_timings(full, set(wanted), alone) for timed in tasks)
    kept = {"all": per_cell, "none": 0}.get(str(plan.settings.images), plan.settings.images)
    kept = min(per_cell, int(kept))
    images = sum((1 if cell in baselines else 2) * round(left * kept / per_cell) for cell, left in by_cell.items())
    images += sum(min(plan.settings.stage_images, kept) for left in by_cell.values() if left)
    seconds, measured, rate_of = _estimate(plan, ledger, by_cell, timings)
    average = _image_bytes(plan)
    return Left(
        units=len(wanted),
        cached=len(wanted) - len(pending),
        failed=len(failed.intersection(wanted)),
        timings=timings,
        by_cell=by_cell,
        seconds=seconds,
        measured=measured,
        rate_of=rate_of,
        images=images,
        image_bytes=None if average is None else average * images,
        free_bytes=shutil.disk_usage(nearest_folder(plan.folder)).free,
    )


def _estimate(plan: Plan, own: LedgerState, pending: dict[str, int], timings: int) -> tuple[float | None, int, str]:
    """Seconds for what is pending, from how many measured units, of which study."""
    for folder in _studies(plan):
        ledger = own if folder == plan.folder else LedgerState(folder).update()
        rate = ledger.unit_seconds()
        if rate is None:
            continue
        timing = ledger.timing_seconds() or 2 * rate[0]
        return (ledger.seconds_for(pending) or 0.0) + timings * timing, rate[1], folder.name
    return None, 0, ""


def _studies(plan: Plan) -> list[Path]:
    """This study and then the others of the results folder, the newest first: those whose models, device and dtype are the
    plan's, as a rate measured elsewhere tells nothing."""
    found = [folder for folder in studies_in(plan.results_dir) if _alike(plan, folder / "manifest.json")]
    found.sort(key=lambda folder: (folder != plan.folder, -(folder / "manifest.json").stat().st_mtime))
    return found


def _alike(plan: Plan, manifest: Path) -> bool:
    """Whether a study was made with all models of the plan, on its kind of device, in its dtype."""
    try:
        made = json.loads(manifest.read_bytes())["fingerprint"]
        models = {p.cell.model.key for p in plan.cells}
        alike = made["device_kind"] == device_kind(plan.settings.device) and made["dtype"] == plan.settings.dtype
        return bool(alike and models <= made["checkpoints"].keys())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def device_kind(device: str) -> str:
    """`cpu` or `cuda`, as a run would choose; without torch, by whether the system has a GPU that its build may use."""
    return ("cuda" if gpu_here() else "cpu") if device == "auto" else device.partition(":")[0]


def gpu_here() -> bool:
    """Whether there is a GPU's device file, and torch is not built for the CPU alone."""
    try:
        built = version("torch").partition("+")[2] != "cpu"
    except PackageNotFoundError:
        built = False
    return built and any(Path(place).exists() for place in GPU_FILES)


def refusals(plan: Plan) -> list[str]:
    """Reasons to refuse a run of the plan, as far as it can be told without loading models: study, device, files."""
    out = [refused] if (refused := refusal_of(plan)) else []
    device = plan.settings.device
    if device_kind(device) == "cuda" and not gpu_here():
        out.append(f"device={device}: there is no CUDA GPU here; use device=cpu or device=auto")
    for spec in dict.fromkeys(p.cell.model for p in plan.cells):
        try:
            model_files(spec)
        except UserError as error:
            out.append(str(error))
    return out


def _image_bytes(plan: Plan) -> float | None:
    """Mean size of PNGs that lie in this study or one like it; None where there are none."""
    for folder in _studies(plan):
        sizes = [path.stat().st_size for path, _ in zip(folder.glob("images/*/*.png"), range(200), strict=False)]
        if sizes:
            return sum(sizes) / len(sizes)
    return None


def text(plan: Plan, left: Left) -> str:
    """The plan for people."""
    lines = []
    for number, planned in enumerate(plan.cells, 1):
        pending = left.by_cell[planned.cell.id]
        state = "" if pending == len(plan.units) else ("  done" if not pending else f"  {pending} pending")
        lines.append(f"{planned.cell.id}  {planned.name}{state}  #{number}")
    extra = len(plan.added())
    cells = count(len(plan.cells), "cell") + (f" + {count(extra, 'baseline')} to compare with" if extra else "")
    lines += ["", f"{cells} × {count(len(plan.labels), 'label')} × {count(len(plan.seeds), 'seed')} = {left.units} units"]
    lines += [f"labels {_numbers(plan.labels)}; seeds {_numbers(plan.seeds)}; results go to {plan.folder}"]
    lines += [f"design: {plan.design}"] if plan.design != "product" else []
    failed = f", {left.failed} of them failed before" if left.failed else ""
    lines.append(f"cached {left.cached}, pending {left.pending}{failed}; {count(left.timings, 'timing')} to measure")
    return "\n".join([*lines, _time(left), _disk(left)])


def _time(left: Left) -> str:
    if not left.pending and not left.timings:
        return "time: nothing left to do"
    if left.seconds is None:
        return "time: unknown, nothing was measured yet with these models, device and dtype"
    return f"time: about {roughly(left.seconds)}, from {count(left.measured, 'unit')} of {left.rate_of}"


def _disk(left: Left) -> str:
    bytes_ = "" if left.image_bytes is None or not left.images else f", about {size(left.image_bytes)}"
    return f"disk: {count(left.images, 'image')} to write{bytes_}; {size(left.free_bytes)} free"


def _numbers(values: tuple[int, ...]) -> str:
    if len(values) > 3 and values == tuple(range(values[0], values[-1] + 1)):
        return f"{values[0]} … {values[-1]}"
    return ", ".join(str(v) for v in values)


def as_dict(plan: Plan, left: Left) -> dict[str, object]:
    """The plan for machines."""
    return {
        "study": plan.study,
        "results_dir": str(plan.results_dir),
        "labels": list(plan.labels),
        "seeds": list(plan.seeds),
        "units": plan.rows,
        "baselines_added": len(plan.added()),
        "design": plan.design,
        "notices": list(plan.notices),
        "units_with_baselines": left.units,
        "cached": left.cached,
        "pending": left.pending,
        "failed": left.failed,
        "timings": left.timings,
        "eta_seconds": left.seconds,
        "eta_from_units": left.measured,
        "images": left.images,
        "image_bytes": left.image_bytes,
        "free_bytes": left.free_bytes,
        "cells": [
            {
                "id": p.cell.id,
                "name": p.name,
                "pending": left.by_cell[p.cell.id],
                "overrides": list(p.overrides),
                "config": p.cell.as_dict(),
            }
            for p in plan.cells
        ],
    }
