"""A W&B workspace and a report as code, built from a study: trade-off, acceptance by stage, speed-up, images.

Panels read what `push` logs: summaries of the cells' runs and the table `images`. Building needs the extra `dashboards` and
no server; `save` needs one. The only module that imports wandb_workspaces.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from sdvar_exp.errors import UserError
from sdvar_exp.metrics.quantities import OWN, headline, tabled
from sdvar_exp.store.tables import Tables, load_tables
from sdvar_exp.tracking.content import picture_metrics, stage_key
from sdvar_exp.tracking.options import Options
from sdvar_exp.tracking.sink import PushError
from sdvar_exp.words import first_line

WIDE, HALF, HEIGHT = 24, 12, 8


@dataclass(frozen=True)
class Facts:
    """Facts that the panels depend on: the study's name, its stages, whether anything was timed, whether images were kept."""

    study: str
    stages: tuple[int, ...]
    timed: bool
    images: bool
    cells: int
    units: int
    own: tuple[str, ...] = ()
    """Metrics against the cell's own baseline (`_own`), where that is not the reference of all."""


@dataclass(frozen=True)
class Dashboards:
    """A workspace and a report of wandb_workspaces."""

    workspace: Any
    report: Any


def facts_of(folder: Path, tables: Tables | None = None) -> Facts:
    """Read a study; `UserError` if there is none or it has no rows."""
    tables = load_tables(folder) if tables is None else tables
    if tables.samples.empty:
        raise UserError(f"{folder} has no rows yet; run it first")
    accepted = tables.stages.dropna(subset="accepted_share")
    return Facts(
        study=str(tables.runs["study"].iloc[0]),
        stages=tuple(sorted(int(s) for s in accepted["stage"].unique())),
        timed=bool(tables.samples["speedup"].notna().any()),
        images=any((folder / "images").glob("*/*.png")),
        cells=len(tables.runs),
        units=len(tables.samples),
        own=tuple(m.name + OWN for m in tabled() if m.name + OWN in tables.samples),
    )


def panels(facts: Facts) -> dict[str, list[Any]]:
    """Panels by section; a section without data is left out."""
    wr = _module("wandb_workspaces.reports.v2")
    difference, calls = headline("difference"), headline("calls")
    of, left, right = wr.SummaryMetric, wr.Layout(0, 0, HALF, HEIGHT), wr.Layout(HALF, 0, HALF, HEIGHT)
    out: dict[str, list[Any]] = {}
    quality = wr.ScatterPlot(
        title=f"{calls.plain_heading} against {difference.plain_heading}",
        x=of(calls.name),
        y=of(difference.name),
        running_ymin=True,
        legend_template="${run:displayName}",
        layout=right if facts.timed else left,
    )
    pareto = [quality]
    if facts.timed:
        pareto.insert(
            0,
            wr.ScatterPlot(
                title=f"speed-up against {difference.plain_heading}",
                x=of("speedup"),
                y=of(difference.name),
                running_ymin=True,
                legend_template="${run:displayName}",
                layout=left,
            ),
        )
    out["Trade-off"] = pareto
    if facts.stages:
        keys = [of(stage_key(stage)) for stage in facts.stages]
        out["Acceptance by stage"] = [
            wr.BarPlot(
                title="share of accepted tokens, by stage",
                metrics=keys,
                orientation="v",
                range_x=(0.0, 1.0),
                layout=wr.Layout(0, 0, WIDE, HEIGHT),
            )
        ]
    if facts.timed:
        out["Speed-up by strategy"] = [
            wr.BarPlot(
                title="speed-up by strategy",
                metrics=[of("speedup")],
                groupby=wr.Config("strategy.name"),
                groupby_aggfunc="mean",
                groupby_rangefunc="minmax",
                layout=left,
            ),
            wr.BarPlot(title="speed-up by cell", metrics=[of("speedup")], layout=right),
        ]
    if facts.images:
        browser = wr.WeavePanelSummaryTable(table_name="images")
        browser.layout = wr.Layout(0, 0, WIDE, 2 * HEIGHT)
        out["Images"] = [browser]
    return out


def intervals(facts: Facts) -> list[str]:
    """Ends of the interval and n of the numbers that the trade-off shows: columns of the runs table."""
    shown = [headline("difference"), *([headline("speed")] if facts.timed else [])]
    return [f"{m.name}_{end}" for m in shown for end in ("low", "high", "n")]


def build(facts: Facts, options: Options) -> Dashboards:
    """Workspace and report of a study; nothing is sent. `UserError` where the extra is missing."""
    ws, wr = _module("wandb_workspaces.workspaces"), _module("wandb_workspaces.reports.v2")
    where = {"entity": options.entity or "", "project": options.project}
    sections = [ws.Section(name=name, panels=found, is_open=True) for name, found in panels(facts).items()]
    pinned = tuple(dict.fromkeys((*picture_metrics(), "identical_units", "units", *intervals(facts), *facts.own)))
    runs = ws.RunsetSettings(
        filters=ws.And(ws.Metric("Group") == facts.study), pinned_columns=[f"summary:{name}" for name in pinned]
    )
    workspace = ws.Workspace(name=f"sdvar_exp {facts.study}", sections=sections, runset_settings=runs, **where)
    blocks: list[Any] = [wr.H1(text=f"Study {facts.study}"), wr.P(text=about(facts))]
    for name, found in panels(facts).items():
        runset = wr.Runset(name=facts.study, filters=f"Metric('group') == '{facts.study}'")  # of the report's own project
        blocks += [wr.H2(text=name), wr.PanelGrid(runsets=[runset], panels=found)]
    report = wr.Report(title=f"sdvar_exp {facts.study}", description=about(facts), blocks=blocks, width="fluid", **where)
    return Dashboards(workspace, report)


def as_plain(dashboards: Dashboards) -> dict[str, Any]:
    """Both as they would be sent, as plain data without the random ids that each building draws."""
    models = {"workspace": dashboards.workspace, "report": dashboards.report}
    return {
        name: _without_ids(json.loads(it._to_model().model_dump_json(by_alias=True, exclude_none=True)))
        for name, it in models.items()
    }


def _without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_ids(v) for k, v in value.items() if k not in ("__id__", "id", "ref", "createdAt", "updatedAt")}
    return [_without_ids(v) for v in value] if isinstance(value, list) else value


def about(facts: Facts) -> str:
    """One paragraph on what the numbers are."""
    return (
        f"{facts.cells} cells, {facts.units} images. One run per cell; its summary holds means over the cell's images. "
        "Pixel difference: mean |a-b| to the target's own image of the same label, seed and noise, on [0, 1]. "
        "Speed-up: reference time ÷ cell time, paired, without VAE decode."
    )


def save(dashboards: Dashboards, options: Options) -> list[str]:
    """Send both to the server; their addresses. `PushError` where it does not take them."""
    if not options.entity:
        raise UserError("a dashboard needs the user or team that it is for; add --entity NAME, or set WANDB_ENTITY")
    try:
        dashboards.workspace.save()
        dashboards.report.save()
    except Exception as error:  # its transports raise many kinds
        raise PushError(f"W&B did not take the dashboard: {first_line(error)}; try again, or look with --dry-run") from error
    return [str(dashboards.workspace.url), str(dashboards.report.url)]


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"dashboards need wandb-workspaces ({error}); pip install 'sdvar_exp[dashboards]'") from error
