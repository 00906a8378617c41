"""trackio as a second tracker: one run per cell in a local project, group = study. Needs the extra `trackio`.

A cell that has changed is logged as a whole under a new run name, as trackio's history is append-only: `NAME #2`, `#3`, …
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

from sdvar_exp.registry import register
from sdvar_exp.tracking.content import Content
from sdvar_exp.tracking.options import Options
from sdvar_exp.tracking.pushed import Pushed
from sdvar_exp.tracking.sink import PushError


@register("tracker", "trackio")
def send(folder: Path, options: Options, content: Content, pushed: Pushed) -> None:
    """Metrics of every image, the cell's configuration and its means as a trackio run; pictures stay in the study."""
    os.environ.setdefault("TRACKIO_DIR", str(folder / "trackio"))
    try:
        trackio = import_module("trackio")
    except ImportError as error:
        raise PushError(f"trackio cannot be imported ({error}); pip install 'sdvar_exp[trackio]'") from error
    times = int(pushed.cells.get(content.cell, {}).get("times", 0)) + 1
    name = content.name if times == 1 else f"{content.name} #{times}"
    run = trackio.init(project=options.project, name=name, group=content.group, config=dict(content.config))
    for step, (_, row) in enumerate(content.rows):
        run.log(dict(row), step=step)
    run.log({f"summary/{key}": value for key, value in content.summary.items()}, step=len(content.rows))
    run.finish()
