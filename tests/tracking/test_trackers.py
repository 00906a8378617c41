"""Trackers are registered: one of a user's own gets each cell once, trackio what it can read back, a faulty cell loses only itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdvar_exp import registry
from sdvar_exp.store.tables import load_tables
from sdvar_exp.tracking import Options, PushError, push, push_in_child
from sdvar_exp.tracking.content import Content, contents
from tests.tracking.test_push import all_units, make_plan, opened


@pytest.fixture
def studied(tmp_path: Path) -> Path:
    plan = make_plan(tmp_path)
    with opened(plan) as study:
        study.append(*all_units(plan))
    return plan.folder


@pytest.fixture
def mine(entries: None) -> list[Content]:
    """What a tracker of one function was given; it refuses the second cell at first."""
    got: list[Content] = []

    @registry.register("tracker", "mine")
    def mine(folder: Path, options: Options, content: Content, pushed: Any) -> None:
        """Keeps what it is given."""
        if len(got) == 1 and not any(one.name == "refused" for one in got):
            got.append(SimpleNamespace(name="refused"))  # type: ignore[arg-type]
            raise ValueError("too long a name")
        got.append(content)

    return got


def test_a_users_own_tracker_gets_each_cell_and_one_that_fails_loses_only_itself(studied: Path, mine: list[Content]) -> None:
    with pytest.raises(PushError, match=r"mine did not take .*ValueError: too long a name.*1 cells were not sent, 2 were"):
        push(studied, Options("online", tracker="mine"))
    assert len(push(studied, Options("online", tracker="mine")).sent) == 1, "the one that was lost"
    assert not push(studied, Options("online", tracker="mine")).sent
    names = [one.name for one in mine if one.name != "refused"]
    assert len(names) == len(set(names)) == 3


def test_trackio_that_is_missing_or_at_work_elsewhere_is_told(studied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options("online", project="p", tracker="trackio")
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(PushError, match=r"pip install 'sdvar_exp\[trackio\]'"):
        push(studied, options)
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(TRACKIO_DIR=Path("other")))
    with pytest.raises(
        PushError, match=r"in this process writes to other; send \S*/trackio with `sdvar-exp push --to trackio`"
    ):
        push(studied, options)


READ = """
import json, trackio
from trackio.sqlite_storage import SQLiteStorage
runs = [(run, SQLiteStorage.get_logs("p", run.name, run_id=run.id)) for run in trackio.Api().runs("p")]
print(json.dumps([(run.name, run.config, [{k: v for k, v in row.items() if k != "timestamp"} for row in rows]) for run, rows in runs]))
"""


@pytest.mark.long
@pytest.mark.needs("trackio")
def test_trackio_holds_every_image_and_the_means_and_past_runs_too(studied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_none")  # a login: its name would be asked of a server
    options = Options("online", project="p", tracker="trackio")
    outcome = push_in_child(studied, options, 120)
    folder = studied / "trackio"
    assert outcome.ok and outcome.message.startswith("trackio: 3 runs in project p; see them: TRACKIO_DIR="), outcome
    environment = {**os.environ, "TRACKIO_DIR": str(folder)}
    found = subprocess.run([sys.executable, "-c", READ], env=environment, capture_output=True, text=True, check=True)
    read = {name: (config, rows) for name, config, rows in json.loads(found.stdout)}
    wanted = contents(studied, load_tables(studied))
    assert list(read) == [content.name for content in wanted]
    for content in wanted:
        config, rows = read[content.name]
        assert config["cell"] == content.cell and config["_Group"] == "made_up"
        assert config["strategy"] == content.config["strategy"]
        *images, means = rows
        assert images == [{**row, "step": step} for step, (_, row) in enumerate(content.rows)]
        assert means == {**{f"summary/{k}": v for k, v in content.summary.items()}, "step": len(content.rows)}
    before = sorted(folder.iterdir())
    assert push_in_child(studied, options, 120).ok and sorted(folder.iterdir()) == before, "nothing is sent twice"


def test_the_summary_has_intervals_and_n_and_no_mean_of_classes(studied: Path) -> None:
    tables = load_tables(studied)
    counts = {"target_rows": 2, "target_rows_alone": 4, "committed_by_verify": 3, "predicted_class": 7}
    for content in contents(studied, replace(tables, samples=tables.samples.assign(**counts))):
        summary = content.summary
        assert summary["target_calls_n"] == summary["units"] == 6
        assert summary["target_calls_low"] <= summary["target_calls"] <= summary["target_calls_high"]
        assert not {"label", "seed", "predicted_class", "first_divergent_stage"} & set(summary)
        assert summary["target_token_forwards"] == 0.5 and summary["target_token_forwards_n"] == 6
        assert summary["committed_per_call"] == pytest.approx(3 / summary["target_calls"])
