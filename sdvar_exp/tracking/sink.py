"""Send a study to Weights & Biases from its ledger: one run per cell, group = study, id = hash of study and cell id.

Once figures or page are there, a push of the whole study also sends one run for it, with table, figures and page.

A run holds the cell's configuration, one history step per sample with every metric, the means as summary, and a table
`images` of sample, baseline and difference (in tables of at most 200,000 rows, where W&B would cut silently).

When a study grows, or timings arrive after the rows:
- offline, `resume` is ignored and a run folder is a run of its own. The whole cell is written again, under the same id,
  and its earlier folder is removed unless it was synced. `wandb sync` of a run that the server has replaces its history.
- online, history is append-only. The run is continued: new rows get further steps, a row that changed is logged again
  behind the others (its later step counts), the summary is replaced, the image table gets a new version. Steps are
  written down before they are sent, so that a push that broke off repeats them and W&B drops what it has.

What a real server makes of a continued run cannot be tested without one; calls, steps and files are.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from sdvar_exp import registry
from sdvar_exp.errors import UserError
from sdvar_exp.registry import register
from sdvar_exp.store.tables import load_tables
from sdvar_exp.tracking.content import Content, Picture, contents, picture_metrics, study_content
from sdvar_exp.tracking.options import Options, child_environment
from sdvar_exp.tracking.pushed import Pushed, Rows, Steps, only_one, plan_steps
from sdvar_exp.words import first_line

log = logging.getLogger(__name__)

TABLE_ROWS = 200_000
MOST_FAILURES = 3
"""Cells that are tried before a push gives up: one that fails loses only itself, a server that refuses costs little."""
INIT_TIMEOUT_S = 30.0


class PushError(UserError):
    """W&B did not take a run: no server, no login, refused. What was sent before stays sent."""


@dataclass(frozen=True)
class Report:
    """Ids of the cells that were sent and of those that needed nothing."""

    sent: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()


def push(folder: Path | str, options: Options | str = "offline", cells: Collection[str] | None = None) -> Report:
    """Send every cell that has rows and is not sent as it is now. Imports wandb only if there is one.

    options: a mode (`offline`, `online`, `none`) or `Options`. cells: only these.
    Raises `PushError` where W&B does not take a run, `UserError` where there is no study or another push is running.
    """
    folder = Path(folder).resolve()
    options = Options(options) if isinstance(options, str) else options
    if options.mode == "none":
        return Report()
    sent: list[str] = []
    unchanged: list[str] = []
    failed: list[UserError] = []
    tables = load_tables(folder, cells)
    tracker = registry.get("tracker", options.tracker)
    with only_one(folder):
        pushed = Pushed(folder, options.place)
        wanted = contents(folder, tables)
        whole = study_content(folder, wanted) if cells is None and tracker.meta.get("whole_study") else None
        for content in (*wanted, *([whole] if whole else [])):
            if pushed.has(content):
                unchanged.append(content.cell)
                continue
            try:
                _deliver(tracker.function, folder, options, content, pushed)
            except UserError as error:
                failed.append(error)
                if len(failed) >= MOST_FAILURES:
                    break
                continue
            sent.append(content.cell)
    if failed:
        lost = f" ({len(failed)} cells were not sent, {len(sent)} were)" if sent or len(failed) > 1 else ""
        raise PushError(f"{failed[0]}{lost}")
    return Report(tuple(sent), tuple(unchanged))


def _deliver(tracker: Callable[..., None], folder: Path, options: Options, content: Content, pushed: Pushed) -> None:
    """Give one cell to the tracker and remember it; whatever it raises is a `UserError`."""
    try:
        tracker(folder, options, content, pushed)
    except UserError:
        raise
    except Exception as error:  # trackers raise many kinds, of their own and of their transports
        name = "W&B" if options.tracker == "wandb" else options.tracker
        raise PushError(f"{name} did not take {content.name!r}: {first_line(error)}; `sdvar-exp push` tries again") from error
    pushed.remember(content)


@register("tracker", "wandb", whole_study=True)
def _send(folder: Path, options: Options, content: Content, pushed: Pushed) -> None:
    """Weights & Biases: one run per cell with history, summary and a table of images; offline files or a server."""
    online = options.mode == "online"
    steps, rows = plan_steps(content, pushed.steps(content.cell) if online else Steps())
    pictures_at = steps.following
    steps = replace(steps, following=pictures_at + 1)
    if online:
        pushed.remember_steps(content.cell, steps)
    else:
        _remove_earlier(folder / "wandb", content.run_id)
    with _environment(folder, content.run_id):
        _log_run(folder, options, content, rows, pictures_at)
    if online:
        pushed.remember_steps(content.cell, replace(steps, confirmed=steps.following))
    log.info("sent %s (%d rows) as run %s", content.name, len(rows), content.run_id)


def _log_run(folder: Path, options: Options, content: Content, rows: Rows, pictures_at: int) -> None:
    """One W&B run from init to finish."""
    wandb = _wandb()
    run = wandb.init(
        project=options.project,
        entity=options.entity,
        group=content.group,
        job_type=content.job_type,
        tags=list(content.tags),
        name=content.name,
        id=content.run_id,
        resume="allow" if options.mode == "online" else None,
        mode=options.mode,
        dir=str(folder),
        config=dict(content.config),
        reinit="finish_previous",  # a second init without finish would return the previous run
        settings=_settings(wandb, options),
    )
    finished = False
    try:
        for step, row in rows:
            run.log(dict(row), step=step, commit=True)
        if content.pictures:
            run.log(dict(_tables(wandb, content.pictures)), step=pictures_at, commit=True)
        if content.table:
            run.log(_whole(wandb, content), step=pictures_at, commit=True)
        run.summary.update(dict(content.summary))
        run.finish(exit_code=0)
        finished = True
    finally:
        if not finished:
            run.finish(exit_code=1)


@contextmanager
def _environment(folder: Path, run_id: str) -> Iterator[None]:
    """The process's environment while W&B works: see `child_environment`; put back afterwards."""
    before = dict(os.environ)
    inside = child_environment(folder) | {"WANDB_DATA_DIR": str(_staging(folder / "wandb", run_id))}
    try:
        os.environ.clear()
        os.environ.update(inside)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _wandb() -> Any:
    try:
        return import_module("wandb")
    except ImportError as error:
        raise PushError(f"W&B cannot be imported ({error}); install wandb, or use tracking=none") from error


def _settings(wandb: Any, options: Options) -> Any:
    """Nothing but the cell: no console, system metrics, code or git of the process that happens to push."""
    wanted: dict[str, Any] = {"console": "off", "silent": True, "init_timeout": INIT_TIMEOUT_S}
    wanted |= {"disable_git": True, "save_code": False}
    private = {"x_disable_stats": True, "x_disable_meta": True, "x_save_requirements": False}  # may go with a version
    wanted |= {k: v for k, v in private.items() if k in getattr(wandb.Settings, "model_fields", {})}
    return wandb.Settings(**wanted, **({"base_url": options.base_url} if options.base_url else {}))


def _tables(wandb: Any, pictures: Sequence[Picture]) -> Iterator[tuple[str, Any]]:
    """`images`, `images_2`, …: W&B keeps at most 200,000 rows of a table."""
    for start in range(0, len(pictures), TABLE_ROWS):
        table = wandb.Table(columns=["label", "seed", "sample", "baseline", "diff", *picture_metrics()])
        for picture in pictures[start : start + TABLE_ROWS]:
            files = [p and wandb.Image(str(p)) for p in (picture.sample, picture.baseline, picture.diff)]
            table.add_data(picture.label, picture.seed, *files, *(picture.metrics[name] for name in picture_metrics()))
        yield f"images_{start // TABLE_ROWS + 1}" if start else "images", table


def _whole(wandb: Any, content: Content) -> dict[str, Any]:
    """The study's table, its figures and its page as media."""
    columns = list(dict.fromkeys(name for row in content.table for name in row))
    table = wandb.Table(columns=columns, data=[[row.get(name) for name in columns] for row in content.table])
    figures = {f"figures/{file.stem}": wandb.Image(str(file)) for file in content.files if file.suffix == ".png"}
    pages = {file.stem: wandb.Html(str(file), inject=False) for file in content.files if file.suffix == ".html"}
    return {"table": table, **figures, **pages}


def _staging(wandb_folder: Path, run_id: str) -> Path:
    """The folder of W&B for the pictures of a run's tables until they are synced; each run its own, so that it can go."""
    return wandb_folder / "data" / run_id


def _remove_earlier(wandb_folder: Path, run_id: str) -> None:
    """Remove offline folders of a run that the next one replaces; a synced one stays, it is the user's to clean."""
    synced = False
    for path in wandb_folder.glob(f"offline-run-*-{run_id}"):
        if any(path.glob("*.synced")):
            synced = True
        else:
            shutil.rmtree(path, ignore_errors=True)
    if not synced:
        shutil.rmtree(_staging(wandb_folder, run_id), ignore_errors=True)
