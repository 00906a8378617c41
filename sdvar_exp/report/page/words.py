"""The summary in words: sentences with their numbers, intervals and n."""

from __future__ import annotations

from typing import Any

import pandas as pd

from sdvar_exp.metrics.quantities import headline
from sdvar_exp.report.console import legend, number, with_interval
from sdvar_exp.report.page.cells import few_of
from sdvar_exp.report.page.markup import part
from sdvar_exp.report.soundness import alarm, sound, unsteady
from sdvar_exp.report.source import Tables
from sdvar_exp.words import count, span


def lead(tables: Tables, summary: pd.DataFrame, manifest: dict[str, Any]) -> str:
    """One line under the title."""
    made = manifest["fingerprint"]
    models = ", ".join(sorted(made.get("checkpoints", {})))
    counts = _span(summary["n"])
    labels = int(summary["labels"].max())
    words = [f"{count(len(summary), 'cell')}", f"{counts} images a cell from {count(labels, 'label')}"]
    words += [f"models {models}"] if models else []
    words += [f"{made.get('dtype', '')} on {made.get('device_kind', '')}".strip()]
    return " · ".join(words)


def facts(summary: pd.DataFrame) -> str:
    """A few numbers to see first."""
    others = summary[~summary["is_baseline"].astype(bool)]
    found: list[tuple[str, str, str]] = []
    checked = others[pd.to_numeric(others["committed_per_call"]) > 0]  # what the draft makes alone is fast, and says nothing
    timed = checked[sound(checked)].dropna(subset=["speedup"])
    if len(timed):
        row = timed.loc[timed["speedup"].astype(float).idxmax()].to_dict()
        m = headline("difference")
        how = f"{row['name']}, {m.plain_heading} {number(row[m.name], m.digits)}"
        found.append((f"{number(row['speedup'], 2)}×", "fastest cell whose stages the target verifies", how))
    near = others[(others["target_calls"].astype(float) > 0) & others[headline("difference").name].notna()]
    if len(near) and not len(timed):
        row = near.loc[near["target_calls"].astype(float).idxmin()].to_dict()
        found.append((number(row["target_calls"], 1), "fewest target calls, of cells that make any", str(row["name"])))
    lossy = checked[(checked["lossless"] == "no") & checked[headline("difference").name].notna()]
    if len(lossy):
        m = headline("difference")
        row = lossy.loc[lossy[m.name].astype(float).idxmin()].to_dict()
        how = f"{row['name']}, {number(row['target_token_forwards'], 2)} of the reference's rows"
        found.append((number(row[m.name], m.digits), f"least {m.plain_heading} of a lossy cell that verifies", how))
    exact = others[others["lossless"] == "tokens"]
    if len(exact):
        same, of = int(exact["identical"].sum()), int(exact["compared"].sum())
        found.append((f"{same}/{of}", "images identical, of cells that claim it", count(len(exact), "cell")))
    if other := another_seed(summary):
        found.append((other, f"another seed: {headline('difference').plain_heading} of an unrelated draw", ""))
    return part("facts", found=found)


def another_seed(summary: pd.DataFrame) -> str:
    """Distance of two seeds of each baseline, from the least to the greatest; empty where that was not measured."""
    m = headline("difference")
    floors = sorted(summary.drop_duplicates("baseline")[f"noise_{m.name}"].dropna().astype(float))
    return " to ".join(dict.fromkeys(number(v, m.digits) for v in (floors[:1] + floors[1:][-1:])))


def paragraphs(tables: Tables, summary: pd.DataFrame) -> str:
    """Findings of the study, sentence by sentence; then the meaning of the numbers."""
    sentences = [*_speed(summary), *_closeness(summary), *_exactness(summary), *_missing(tables, summary)]
    warning = alarm(summary)
    loud = f"{warning[0].upper()}{warning[1:]}." if warning else ""
    if doubt := unsteady(summary):
        sentences.append(f"{doubt[0].upper()}{doubt[1:]}.")
    return part("prose", warning=loud, sentences=sentences, notes=[*legend(summary), *getattr(tables, "notes", ())])


def _speed(summary: pd.DataFrame) -> list[str]:
    timed = summary[summary["speedup"].notna() & ~summary["is_baseline"].astype(bool)]
    if timed.empty:
        return ["Nothing was timed alone on the device, so there are no speed-ups."]
    if alarm(summary):
        return []
    faster = timed[pd.to_numeric(timed["speedup_low"]) > 1]
    slower = timed[pd.to_numeric(timed["speedup_high"]) < 1]
    out = [
        f"Of {count(len(timed), 'timed cell')}, {len(faster)} are faster than the baseline and {len(slower)} slower, by "
        f"95 % intervals; {len(timed) - len(faster) - len(slower)} cannot be told from it."
    ]
    front = [str(name) for name in summary.loc[summary["front"].astype(bool), "name"]]
    if front:
        out.append(f"No other cell is both faster and closer to the baseline than {few_of(front)}.")
    return out


def _closeness(summary: pd.DataFrame) -> list[str]:
    m = headline("difference")
    lossy = summary[(summary["lossless"] == "no") & summary[m.name].notna()]
    if lossy.empty:
        return []
    difference = pd.to_numeric(lossy[m.name])
    best, worst = (lossy.loc[at].to_dict() for at in (difference.idxmin(), difference.idxmax()))
    out = [
        f"Of the lossy cells, {best['name']} stays closest to the reference's images, {m.plain_heading} "
        f"{with_interval(best, m.name, m.digits)}, n = {best['compared']}; {worst['name']} is farthest, "
        f"{with_interval(worst, m.name, m.digits)}, n = {worst['compared']}."
    ]
    if other := another_seed(summary):
        pairs = int(summary.drop_duplicates("baseline")["noise_pairs"].fillna(0).sum())
        out.append(
            f"Two images of one baseline and label that differ in the seed alone differ by {other}, {count(pairs, 'pair')}."
        )
    return out


def _exactness(summary: pd.DataFrame) -> list[str]:
    exact = summary[(summary["lossless"] == "tokens") & ~summary["is_baseline"].astype(bool)]
    if exact.empty:
        return []
    same, of, ties = (int(exact[c].sum()) for c in ("identical", "compared", "near_ties"))
    claims = f"{count(len(exact), 'cell')} claim{'s' if len(exact) == 1 else ''}"
    text = f"{claims} the baseline's own tokens: {same} of {of} images are identical"
    if ties:
        text += f", {ties} of the others differ only where rounding decides"
    bound = pd.to_numeric(exact["different_bound"]).max()
    where = "the share that differs" + (" of the cell with the fewest images" if len(exact) > 1 else "")
    return [f"{text}. The 95 % upper bound on {where} is {bound:.2g}."]


def _missing(tables: Tables, summary: pd.DataFrame) -> list[str]:
    out = []
    if failed := int(summary["failed"].sum()):
        out.append(f"{count(failed, 'image')} failed and have no row; sdvar-exp logs says why.")
    if {"planned", "units"} <= set(tables.runs):
        left = int((tables.runs["planned"] - tables.runs["units"]).clip(lower=0).sum())
        if left:
            out.append(f"{count(left, 'image')} planned and not decoded yet: numbers may change.")
    return out


def _span(values: pd.Series) -> str:
    return span(values.astype(int))
