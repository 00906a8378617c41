"""`debug=trace`: the plan's units decoded once more and written down. Rows, times and tables know nothing of it."""

from __future__ import annotations

import json

import torch
from rich.console import Console
from rich.text import Text

from sdvar_exp.decoding.api import make_noise
from sdvar_exp.diagnosis import lines
from sdvar_exp.diagnosis.trace import Record, trace_decode
from sdvar_exp.runner.measuring.units import Job
from sdvar_exp.runner.running.progress import say, shown
from sdvar_exp.runner.running.work import Task, batches
from sdvar_exp.store.files import storage_errors
from sdvar_exp.words import count

FOLDER = "trace"
TABLES = 8
"""Traces that are also shown on the terminal, the first of each cell."""


def trace_plan(job: Job, console: Console, added: tuple[str, ...] = ()) -> int:
    """Trace every task of the plan but those of baselines that were only added; the number that failed.

    Each goes to trace/<cell>-<label>-<seed>.jsonl in the study, written anew, line by line as it happens.
    """
    plan, failed, decodes, tables = job.prepared.plan, 0, 0, 0
    for planned in plan.cells:
        if planned.name in added:
            continue
        for i, units in enumerate(batches(plan.units, planned.cell.batch)):
            records, error = _trace(job, Task(planned, units))
            failed += error is not None
            if (i == 0 and tables < TABLES) or error is not None:
                tables += 1
                console.print()
                for line in lines.table(records):
                    console.print(Text(line), soft_wrap=True, highlight=False)
            decodes += 1
    more = f"; {tables} are shown" if decodes > tables else ""
    console.print()
    say(console, f"traces   {shown(job.study.folder / FOLDER)}  ({count(decodes, 'decode')}{more})")
    return failed


def _trace(job: Job, task: Task) -> tuple[list[Record], Exception | None]:
    """The records of one task, written to its file, and what it failed with."""
    pair, first = job.prepared.pairs[task.cell.model], task.units[0]
    path = job.study.folder / FOLDER / f"{task.cell.id}-{first.label}-{first.seed}.jsonl"
    records: list[Record] = []
    with storage_errors(path):
        path.parent.mkdir(exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:

            def write(record: Record) -> None:
                records.append(record)
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                file.flush()

            try:
                with torch.inference_mode():
                    trace_decode(
                        pair, task.cell, task.units, make_noise(pair, task.units, [task.cell]), write, task.planned.name
                    )
            except Exception as error:
                return records, error
    return records, None
