"""`sdvar-exp check PAIR`: the invariants of decoding on a pair of models, in words."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sdvar_exp.cli.options import MACHINES, Parser, say_json
from sdvar_exp.errors import UserError
from sdvar_exp.guest import kept_random_state, own_torch

if TYPE_CHECKING:
    from sdvar_exp.cell import ModelSpec
    from sdvar_exp.diagnosis.result import Result
    from sdvar_exp.models.pair import Pair
    from sdvar_exp.plan import Settings

SMALL = 5e7  # weights up to which a pair is checked in float64 unless said otherwise

EPILOG = """examples:
  sdvar-exp check embedded
  sdvar-exp check var_d16_d30 model.folder=checkpoints device=cuda
  sdvar-exp check files model.vae=vae.pth model.draft=a.pth model.target=b.pth --stages 4

Each line is one invariant of one model; the first failure is the cause, what stands below may follow from it.
Two images, codes drawn at random: a few dozen forwards. On a CPU large models are checked on their first stages.
Exit code: 0 all hold, 1 one does not, 2 the pair cannot be loaded."""


def models(asked: argparse.Namespace) -> list[str]:
    """Choices of the group model."""
    from sdvar_exp.config.folder import names

    return names("model", asked.config_dir)


def parser() -> Parser:
    known = Parser(
        prog="sdvar-exp check", description="Run the invariants of decoding on a pair of models.", epilog=EPILOG, json=MACHINES
    )
    known.add_argument(
        "pair", help="a choice of the group model (sdvar-exp ls model); files: checkpoints of your own", source=models
    )
    known.add_argument("overrides", nargs="*", help="model.KEY=…, device=…, dtype=float64|float32, threads=…")
    known.add_argument("--stages", type=int, help="how many stages to check (default: all that are affordable)")
    known.add_argument("--seed", type=int, default=0, help="of the codes and the noise")
    return known


def main(argv: list[str]) -> int:
    asked = parser().parse_intermixed_args(argv)
    with own_torch():
        pair = load(asked.pair.removeprefix("model="), asked.overrides, asked.config_dir)
        return report(pair, asked.stages, asked.seed, asked.json)


def load(name: str, overrides: list[str], config_dir: Path | None) -> Pair:
    """The pair that the words mean, in float64 where it is small and nothing else is said."""
    import torch

    from sdvar_exp.models.pair import load_pair, resolve_device

    spec, settings = read_words(name, overrides, config_dir)
    if "int8" in spec.dtypes.values():
        raise UserError("check compares with float weights: leave out dtype=int8 of a role")
    if spec.execution == "auto":
        raise UserError("check compares with float weights: leave out model.execution=auto, which prepares them")
    device = resolve_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with kept_random_state():
        pair = load_pair(spec, device, settings.dtype)
    said = any(word.startswith("dtype=") for word in overrides)
    if not said and sum(p.numel() for p in pair.target.parameters()) <= SMALL:
        pair.to(device, "float64")
    return pair


def read_words(name: str, overrides: list[str], config_dir: Path | None) -> tuple[ModelSpec, Settings]:
    """Model and settings as `run` reads them; of checkpoints, classes and stages stand in the files."""
    from sdvar_exp.config import compose

    wrong = [word for word in overrides if word.split(".")[0].split("=")[0] not in ("model", "device", "dtype", "threads")]
    if wrong:
        raise UserError(f"{wrong[0]}: check takes model.KEY=…, device=…, dtype=… and threads=…; see sdvar-exp check --help")
    words = [f"model={name}", "strategy=sequential", "labels=[0]", "seeds=1", *overrides]
    if name == "files":
        words += [f"model.{key}=1" for key in ("classes", "stages") if not any(w.startswith(f"model.{key}=") for w in words)]
    plan = compose([*(["--config-dir", str(config_dir)] if config_dir else []), *words])
    if len(plan.cells) != 1:
        raise UserError("check takes one pair at a time")
    return plan.cells[0].cell.model, plan.settings


def report(pair: Pair, stages: int | None, seed: int, as_json: bool) -> int:
    """Run everything, print as it goes, return the exit code."""
    from sdvar_exp.diagnosis.check import AREAS, run_checks, subject_of

    subject = subject_of(pair, stages, seed)
    total, what = pair.pyramid.stages, {area.name: area.what for area in AREAS}
    dtype = str(pair.target.dtype).removeprefix("torch.")
    if not as_json:
        some = "" if subject.stages == total else f" (the first {subject.stages} of {total}; --stages {total} for all)"
        print(f"{pair.name}: {subject.stages} stages{some}, {dtype} on {pair.target.device}", flush=True)
    results, area, start = [], "", time.perf_counter()
    for result in run_checks(subject):
        results.append(result)
        if not as_json:
            if result.area != area:
                area = result.area
                print(f"\n{area}: {what[area]}")
            print(_line(result), flush=True)
    failed = [r for r in results if not r.passed]
    if as_json:
        say_json(
            {
                "pair": pair.name,
                "dtype": dtype,
                "device": str(pair.target.device),
                "stages": subject.stages,
                "of": total,
                "passed": not failed,
                "results": [asdict(r) for r in results],
            }
        )
    else:
        seconds = f"{time.perf_counter() - start:.0f} s"
        skipped = len(results) - sum(r.checked for r in results)
        partly = (
            ""
            if subject.stages == total
            else f" on the first {subject.stages} of {total} stages; nothing is said of the others"
        )
        not_made = f", {skipped} were not made" if skipped else ""
        print(
            f"\n{len(results) - skipped} checks hold{partly}{not_made}, {seconds}"
            if not failed
            else f"\n{len(failed)} of {len(results)} checks fail, {seconds}; begin with {failed[0].test_name}"
        )
    return int(bool(failed))


def _line(result: Result) -> str:
    role = result.test_name.partition(": ")[2]
    state = "FAIL" if not result.passed else "ok  " if result.checked else "not checked:"
    return f"  {state}  {role + ': ' if role and result.passed else ''}{result.message}"
