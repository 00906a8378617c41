"""trackio as a second tracker: one run per cell in a project on this machine, group = study. Needs the extra `trackio`.

A cell that has changed is logged as a whole under a new run name, as trackio's history is append-only: `NAME #2`, `#3`, …
Nothing leaves the machine unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL says where to.
"""

from __future__ import annotations

import os
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

from sdvar_exp.registry import register
from sdvar_exp.tracking.content import Content
from sdvar_exp.tracking.options import Options
from sdvar_exp.tracking.pushed import Pushed
from sdvar_exp.tracking.sink import PushError

REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


def home(folder: Path) -> Path:
    """The folder of trackio's files: TRACKIO_DIR, else `trackio/` of the study."""
    return Path(os.environ.get("TRACKIO_DIR") or folder / "trackio")


def where(folder: Path, options: Options) -> str:
    """The place of the runs and the command that shows them."""
    command = f"TRACKIO_DIR={shlex.quote(str(home(folder)))} trackio show --project {shlex.quote(options.project)}"
    return f"in project {options.project}; see them: {command}"


@register("tracker", "trackio", where=where)
def send(folder: Path, options: Options, content: Content, pushed: Pushed) -> None:
    """Metrics of every image, the cell's configuration and its means as a trackio run; pictures stay in the study."""
    remote = any(os.environ.get(name) for name in REMOTE)
    trackio = _trackio(home(folder), remote)
    times = int(pushed.cells.get(content.cell, {}).get("times", 0)) + 1
    name = content.name if times == 1 else f"{content.name} #{times}"
    run = trackio.init(project=options.project, name=name, group=content.group, config=dict(content.config))
    for step, (_, row) in enumerate(content.rows):
        run.log(dict(row), step=step)
    run.log({f"summary/{key}": value for key, value in content.summary.items()}, step=len(content.rows))
    run.finish()
    if not remote and run.id not in [found.id for found in trackio.Api().runs(options.project)]:  # it only warns
        raise PushError(f"trackio did not keep {name!r}; is {home(folder)} writable?")


def _trackio(wanted: Path, remote: bool) -> Any:
    """The module; it reads where its files lie at its first import, and a process has one such place."""
    before = dict(os.environ)
    os.environ["TRACKIO_DIR"] = str(wanted)
    if not remote:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else the user's name is asked of Hugging Face, where there is a login
    try:
        trackio = import_module("trackio")
    except ImportError as error:
        raise PushError(f"trackio cannot be imported ({error}); pip install 'sdvar_exp[trackio]'") from error
    finally:
        os.environ.clear()
        os.environ.update(before)
    if Path(getattr(trackio, "TRACKIO_DIR", wanted)) != wanted:
        raise PushError(
            f"trackio in this process writes to {trackio.TRACKIO_DIR}; send {wanted} with `sdvar-exp push --to trackio`"
        )
    return trackio
