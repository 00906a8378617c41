"""A unit that takes its process with it: in the command's own process, and in a pool that gets past it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = '''"""A rule that ends its process."""
import os, signal
from sdvar_exp.registry import register

@register("acceptance", "deadly")
def deadly(_, view):
    """A segmentation fault."""
    os.kill(os.getpid(), signal.SIGSEGV)
'''


@pytest.mark.needs("weights")
def test_a_segmentation_fault_says_where_and_a_pool_gets_past_it(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "deadly_rule.py").write_text(PLUGIN)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{repository}"}
    words = ["run", "plugins=[deadly_rule]", "strategy=sequential,parallel_v1", "acceptance=deadly", "labels=1", "seeds=1",
             "timing.units=0", "tracking=none", "images=none"]

    def call(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "sdvar_exp", *argv], cwd=tmp_path, env=environment, capture_output=True,
                              text=True, timeout=300)

    done = call(*words)
    assert done.returncode == -11 and "Segmentation fault" in done.stderr and "deadly_rule.py" in done.stderr
    assert json.loads(call("status", "--json").stdout)[0]["done"] == 1, "what was decoded before it stays"
    assert call(*words, "engine=pool", "engine.workers=1", "engine.retries=0").returncode == 1
    records = map(json.loads, call("logs", "parallel_v1", "--json").stdout.splitlines())
    assert ["killed by SIGSEGV" in body["error"] for body in records if body["type"] == "failure"] == [True]
