"""Provenance of the numbers: configuration of each cell, fingerprint and commands of the study, links to its files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from sdvar_exp.metrics.quantities import metrics
from sdvar_exp.report.console import number, spread_text
from sdvar_exp.report.page.markup import part
from sdvar_exp.store.columns import TABLES
from sdvar_exp.store.ledger import sessions


def cards(summary: pd.DataFrame, about: Mapping[str, Mapping[str, Any]], base: str) -> str:
    """One card per cell; the page shows the one that is chosen."""
    return part("cards", cells=[_card(row, about.get(row["cell"], {}), base) for row in summary.to_dict("records")])


def _card(row: dict[str, Any], about: Mapping[str, Any], base: str) -> dict[str, Any]:
    facts = {
        "id": f"{row['cell']}",
        "images": f"{row['n']}, {row['failed']} failed",
        "timed": f"{int(row['timed'] or 0)} images, {int(row['contended'] or 0)} left out beside other work",
        "milliseconds of the baseline": number(row["baseline_latency_ms"], 1),
        "spread of one repeat's speed-up": spread_text(row),
        **{m.plain_heading: number(row[m.name], m.digits) for m in metrics() if m.summarised and not m.tabled},
        "another seed": ", ".join(
            f"{m.plain_heading} {number(row[f'noise_{m.name}'], m.digits)}" for m in metrics() if m.has_floor
        ),
    }
    return {
        **{key: row[key] for key in ("cell", "number", "name")},
        "facts": list(facts.items()),
        "command": shlex.join(["sdvar-exp", "run", *map(str, about.get("overrides", ()))]),
        "config": "\n".join(_choices(about.get("config", {}))),
        "file": f"{base}/cells/{quote(row['cell'])}.json",
    }


def study(folder: Path, manifest: Mapping[str, Any], base: str) -> str:
    """Fingerprint, commands and links of the whole study."""
    links = [(f"tables/{name}.{kind}", folder / "tables" / f"{name}.{kind}") for name in TABLES for kind in ("csv", "parquet")]
    links += [(name, folder / name) for name in ("manifest.json", "ledger", "images", "figures")]
    return part(
        "study",
        manifest={"fingerprint_id": manifest["fingerprint_id"], "created": manifest.get("created")},
        made="\n".join(_yaml(manifest["fingerprint"])),
        others=[(tag, "\n".join(_yaml(other))) for tag, other in manifest.get("others", {}).items()],
        commands=list(dict.fromkeys(_commands(folder))),
        links=[(name, f"{base}/{quote(name)}") for name, path in links if path.exists()],
    )


def _commands(folder: Path) -> Iterator[str]:
    """Command line, code and machine of every start that added to the study."""
    for body in sessions(folder / "ledger"):
        git = body.get("git") or {}
        commit = f"  # commit {str(git['commit'])[:12]}" if git.get("commit") else ""
        changed = " and changes" if commit and git.get("dirty") else ""
        yield shlex.join(["sdvar-exp", "run", *map(str, body.get("argv", ()))]) + commit + changed


def _choices(config: Mapping[str, Any]) -> Iterator[str]:
    """One line per factor: `acceptance: match_rate (mode=coupled, tau=0.5)`."""
    for key, value in config.items():
        if not isinstance(value, Mapping):
            yield f"{key}: {_text(value)}"
            continue
        more = ", ".join(f"{k}={_text(v)}" for k, v in value.items() if k != "name" and v != "")
        name = str(value.get("name", ""))
        yield f"{key}: {name}{f' ({more})' if name and more else more}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _yaml(value: Any, indent: int = 0) -> Iterator[str]:
    """A nested mapping line by line, for reading."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield f"{'  ' * indent}{key}:"
            yield from _yaml(inner, indent + 1)
        else:
            yield f"{'  ' * indent}{key}: {_text(inner)}"
