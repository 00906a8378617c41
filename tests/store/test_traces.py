"""What a run leaves behind to be traced by: the difference from the commit, switches of the arithmetic, hints on a refusal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from sdvar_exp.errors import UserError
from sdvar_exp.report.figures import _command, _made
from sdvar_exp.report.style import Drawn, save
from sdvar_exp.store import keep_diff, load_tables, session_record
from sdvar_exp.store.provenance import PACKAGE, git_state, redact_line
from tests.store.making import make_plan, opened


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package in a checkout of its own, committed."""
    package = tmp_path / "checkout" / "sdvar_exp"
    package.mkdir(parents=True)
    (package.parent / "conf").mkdir()
    (package / "__init__.py").write_text("VALUE = 1\n")
    (package.parent / "conf/config.yaml").write_text("a: 1\n")
    git = ["git", "-C", str(package.parent), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    return package


def test_the_difference_from_the_commit_is_kept_without_secrets(package: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    assert keep_diff(study, package) is None and not study.exists(), "nothing differs"
    (package / "__init__.py").write_text('VALUE = 2\napi_key = "5ecret5ecret"\n')
    (package.parent / "conf/config.yaml").write_text("a: 2\n")
    (package / "new.py").write_text("")
    path = keep_diff(study, package)
    state = git_state(package)
    assert path is not None and state is not None and path.name == f"{state['diff_sha256'][:12]}.diff"
    text = path.read_text()
    assert "-VALUE = 1\n+VALUE = 2\n" in text and "+a: 2" in text and "5ecret" not in text and "+api_key =***" in text
    assert state["dirty"] and [Path(p).name for p in state["untracked"]] == ["new.py"]
    assert keep_diff(study, package) == path and len(list(path.parent.iterdir())) == 1


def test_a_folder_that_cannot_be_written_stops_nothing(package: Path, tmp_path: Path) -> None:
    (package / "__init__.py").write_text("VALUE = 2\n")
    (tmp_path / "study").write_text("a file")
    assert keep_diff(tmp_path / "study", package) is None


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("+password: hunter22", "+password: ***"),
        ("-TOKEN='abc'", "-TOKEN=***"),
        ('+  "api_key": "x y z",', '+  "api_key": ***,'),
        ("+tokens = tokens_Bl.sum()", None),
        ("+    token = codes[0]", None),
        ("+top_k: 600", None),
        ("+x = 'hf_abcdefghijklmnopqr'", "+x = '***'"),
        ("+https://me:pw@host/x", "+https://***@host/x"),
    ],
)
def test_lines_of_code(line: str, shown: str | None) -> None:
    """Secrets go; code that merely speaks of tokens may lose a word, but no line."""
    seen = redact_line(line)
    if shown is not None:
        assert seen == shown
    assert seen[:4] == line[:4]


def test_switches_are_recorded_where_torch_is_loaded() -> None:
    import torch

    flags = session_record(["run"])["arithmetic"]
    assert flags["matmul_precision"] == torch.get_float32_matmul_precision()
    older = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)  # PyTorch's former names of the same
    assert (flags["tf32_matmul"], flags["tf32_cudnn"]) == older
    assert {"tf32_matmul", "tf32_cudnn", "cudnn_benchmark", "cudnn_deterministic", "threads"} <= set(flags)
    code = (
        "import sys\nfrom sdvar_exp.store import session_record\n"
        "assert session_record([])['arithmetic'] == {} and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=True, timeout=60)


def test_a_refusal_names_the_settings_that_bring_it_back(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    opened(plan).close()
    with pytest.raises(UserError, match=r"\(threads 2 → 1\); go on as it was made with threads=2, use another study"):
        opened(plan, threads=1)
    with pytest.raises(UserError, match=r"go on as it was made, use another study"):
        opened(plan, code="changed")
    with pytest.raises(UserError, match=r"with threads=2 dtype=float32 device=cpu, use"):
        opened(plan, threads=1, dtype="float64", device_kind="cuda")


def test_a_figure_names_the_code_of_its_data(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    opened(plan).close()
    tables = load_tables(plan.folder)
    command = _command(tables) + _made(tables)
    assert command == (
        "sdvar-exp figures made_up (code c0de; embedded: draft b2, target c3, vae a1; "
        "numpy 2.4.0, torch 2.13.0; cpu float32, threads 2)"
    )
    figure = plt.figure(figsize=(1, 1))
    paths = save(Drawn("f", "a figure", figure, "d1e5"), tmp_path, command)
    plt.close(figure)
    (png,) = [p for p in paths if p.suffix == ".png"]
    with Image.open(png) as image:
        assert image.info["Comment"] == command and "d1e5" in image.info["Description"]
