"""Workspace and report as they would be sent, and that their panels read what `push` logs. No server."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdvar_exp.cli import main
from sdvar_exp.errors import UserError
from sdvar_exp.store import load_tables
from sdvar_exp.tracking import Options, PushError, dashboard
from sdvar_exp.tracking.content import contents
from tests.store.making import all_units, make_plan, opened, timing_body

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")
SNAPSHOT = Path(__file__).with_name("dashboard.json")
OPTIONS = Options("online", "project", "team")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three cells, timed, with one picture."""
    plan = make_plan(tmp_path / "results", timing=2)
    with opened(plan) as opened_study:
        for body in all_units(plan):
            opened_study.append({**body, "sample": {**body["sample"], "token_agreement": 0.5}})
        for planned in plan.cells:
            for seed in (0, 1, 2):
                opened_study.append(timing_body(planned.cell.id, 3, seed, 0, baseline=100.0, ms=50.0 + seed))
        picture = opened_study.image_path(plan.cells[0].cell.id, 3, 0)
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"")
    return plan.folder


def test_the_built_objects_are_those_of_the_snapshot(study: Path) -> None:
    """After a deliberate change: SDVAR_UPDATE=1 writes the snapshot anew; look at the difference."""
    built = dashboard.as_plain(dashboard.build(dashboard.facts_of(study), OPTIONS))
    text = json.dumps(built, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if os.environ.get("SDVAR_UPDATE"):
        SNAPSHOT.write_text(text, encoding="utf-8")
    assert json.loads(text) == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def test_building_twice_gives_the_same(study: Path) -> None:
    facts = dashboard.facts_of(study)
    one, other = (dashboard.as_plain(dashboard.build(facts, OPTIONS)) for _ in range(2))
    assert one == other


def test_panels_read_what_push_logs(study: Path) -> None:
    """Every summary key, configuration key and table of a panel is one of the runs'."""
    sent = contents(study, load_tables(study))
    logged = {key for content in sent for key in content.summary}
    built = json.dumps(dashboard.as_plain(dashboard.build(dashboard.facts_of(study), OPTIONS)))
    read = set(re.findall(r'"summary(?::|_metrics\.)(\w+)"', built))
    assert {"speedup", "pixel_mae", "target_calls", "acceptance_stage_00", "acceptance_stage_02"} <= read <= logged
    assert '"groupBy": "strategy.value.name"' in built and all("name" in content.config["strategy"] for content in sent)
    assert '"value": "made_up"' in built and {content.group for content in sent} == {"made_up"}


def test_columns_of_the_runs_table(study: Path) -> None:
    """Intervals and n of what the trade-off shows, and numbers against the own baseline where that is another cell."""
    tables = load_tables(study)
    with_own = replace(tables, samples=tables.samples.assign(pixel_mae_own=tables.samples["pixel_mae"] / 2))
    built = dashboard.build(dashboard.facts_of(study, with_own), OPTIONS).workspace.runset_settings.pinned_columns
    wanted = {f"{name}_{end}" for name in ("pixel_mae", "speedup") for end in ("low", "high", "n")} | {"pixel_mae_own"}
    assert wanted <= {column.removeprefix("summary:") for column in built}
    (content, *_) = contents(study, with_own)
    assert wanted | {"pixel_mae_own_low"} <= set(content.summary)
    assert not any(
        "_own" in column
        for column in dashboard.build(dashboard.facts_of(study), OPTIONS).workspace.runset_settings.pinned_columns
    )


def test_acceptance_is_the_mean_by_stage(study: Path) -> None:
    tables = load_tables(study)
    for content in contents(study, tables):
        rows = tables.stages[(tables.stages["cell"] == content.cell) & (tables.stages["stage"] == 1)]
        assert content.summary["acceptance_stage_01"] == pytest.approx(rows["accepted_share"].mean())


def sections(study: Path) -> list[str]:
    return list(dashboard.panels(dashboard.facts_of(study)))


def test_sections_follow_the_data(study: Path, tmp_path: Path) -> None:
    assert sections(study) == ["Trade-off", "Acceptance by stage", "Speed-up by strategy", "Images"]
    plan = make_plan(tmp_path / "untimed")
    with opened(plan) as untimed:
        with pytest.raises(UserError, match="has no rows yet"):
            dashboard.facts_of(plan.folder)
        untimed.append(*all_units(plan))
    assert sections(plan.folder) == ["Trade-off", "Acceptance by stage"]


def test_dry_run(study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    assert main(["dashboard", str(study), "--dry-run", "--project", "p"]) == 0
    assert json.loads(capsys.readouterr().out)["workspace"]["project"] == "p"
    assert main(["dashboard", str(study)]) == 2
    assert "add --entity NAME, or set WANDB_ENTITY" in capsys.readouterr().err


def refuse() -> None:
    raise ConnectionError("no server\nmore")


@pytest.mark.parametrize(("workspace", "report"), [(refuse, lambda: None), (lambda: None, refuse)])
def test_a_server_that_refuses(workspace: Callable[[], None], report: Callable[[], None]) -> None:
    objects: Any = dashboard.Dashboards(SimpleNamespace(save=workspace, url="w"), SimpleNamespace(save=report, url="r"))
    with pytest.raises(PushError, match=r"^W&B did not take the dashboard: ConnectionError: no server; try again"):
        dashboard.save(objects, OPTIONS)
    fine: Any = dashboard.Dashboards(*(SimpleNamespace(save=lambda: None, url=url) for url in ("w", "r")))
    assert dashboard.save(fine, OPTIONS) == ["w", "r"]


def test_without_the_extra(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(UserError, match=r"pip install 'sdvar_exp\[dashboards\]'"):
        dashboard.build(dashboard.facts_of(study), OPTIONS)
