"""Commands and studies inside somebody's program: it finds everything as it left it, and they take what it has."""

from __future__ import annotations

import faulthandler
import gc
import io
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings
from hypothesis import strategies as st

from sdvar_exp import Study, load_results
from sdvar_exp.cli import VERBS, main
from sdvar_exp.errors import UserError
from sdvar_exp.guest import expand, guest, own_torch
from sdvar_exp.runner.running.interrupt import interruptible
from sdvar_exp.runner.running.sweep import time_limit

QUICK = ["labels=3", "seeds=1", "timing.units=0", "threads=1", "tracking=none", "images=none", "device=cpu"]
LOOP = ["strategy=parallel_v1", "acceptance=exact", *QUICK]


def state() -> dict[str, Any]:
    """Everything of a program that a library could change behind its back."""
    loggers = [logging.getLogger(name) for name in ("", "hydra", "matplotlib", "sdvar_exp", "wandb", "fontTools")]
    return {
        "torch random state": torch.get_rng_state().tolist(),
        "numpy random state": np.random.get_state()[1].tolist(),  # type: ignore[index]
        "random": random.getstate(),
        "torch threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "backend": matplotlib.get_backend(auto_select=False),
        "rc": dict(matplotlib.rcParams),
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(n) for n in signal.valid_signals()],
        "logging": [(log.level, log.handlers[:], log.propagate, log.disabled) for log in loggers],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "arguments": sys.argv[:],
        "path": sys.path[:],
        "streams": [(s, getattr(s, "errors", None)) for s in (sys.stdin, sys.stdout, sys.stderr)],
        "hydra": GlobalHydra.instance().hydra,
        "locale": locale.setlocale(locale.LC_ALL),
        "recursion": sys.getrecursionlimit(),
        "collector": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "faults": faulthandler.is_enabled(),
        "threads": sorted(t.name for t in threading.enumerate() if "Thread-" not in t.name),
        "hooks": (sys.excepthook, threading.excepthook, sys.displayhook),
        "numpy": (np.geterr(), np.get_printoptions()),
    }


@contextmanager
def unchanged() -> Iterator[None]:
    """Everything of the program is afterwards what it was before."""
    before = state()
    yield
    after = state()
    assert not {name: (before[name], after[name]) for name in before if before[name] != after[name]}


@contextmanager
def unusual() -> Iterator[None]:
    """A program that has set what it can, to values that nobody else would choose."""
    keep = state()
    torch.set_num_threads(2)
    torch.manual_seed(7)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True, warn_only=True)
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    gc.set_threshold(701, 11, 12)
    faulthandler.disable()
    try:
        yield
    finally:
        torch.set_num_threads(keep["torch threads"])
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
        signal.signal(signal.SIGUSR1, before)
        gc.set_threshold(*keep["collector"][1])
        faulthandler.enable(sys.__stderr__)


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take seconds."""
    monkeypatch.setattr("sdvar_exp.runner.running.finish.write_figures", lambda *_, **__: [])
    monkeypatch.setattr("sdvar_exp.runner.running.finish.write_page", lambda folder, **_: folder / "report.html")


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a study `s` of one image in two cells, with its pictures."""
    folder = tmp_path_factory.mktemp("studied")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sdvar_exp.runner.running.finish.write_figures", lambda *_, **__: [])
        patch.setattr("sdvar_exp.runner.running.finish.write_page", lambda folder, **_: folder / "report.html")
        Study([*LOOP, "images=all"], study="s").run()
    return folder


WORDS = {
    "run": ["run", "study=s", *LOOP],
    "plan": ["plan", "study=s", *LOOP],
    "logs": ["logs", "parallel_v1"],
    "diff": ["diff", "s:sequential", "s:parallel_v1"],
    "figures": ["figures", "s", "--only", "target-calls-and-token-forwards"],
    "ls": ["ls", "strategy", "test3"],
    "quality": ["quality", "s", "--extractor", "classifier"],
    "export": ["export", "s", "--cell", "parallel_v1", "--to", "o.npz"],
    "push": ["push", "s", "--mode", "none"],
    "check": ["check", "embedded", "--stages", "2", "threads=1"],
    "doctor": ["doctor"],
    "completion": ["completion", "bash"],
}


@pytest.mark.needs("weights")
@pytest.mark.parametrize("verb", VERBS)
def test_a_command_leaves_the_program_as_it_was(verb: str, studied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it succeeds or refuses; once before, so that what importing libraries does is not counted."""
    monkeypatch.chdir(studied)
    words = WORDS.get(verb, [verb, "s"])
    main(words)
    with unusual(), unchanged():
        assert main(words) in (0, 1, 2)


@pytest.mark.needs("weights")
@pytest.mark.usefixtures("in_tmp")
def test_a_study_leaves_the_program_as_it_was() -> None:
    Study(LOOP, study="warm").run()
    with unusual(), unchanged():
        study = Study([*LOOP, "objective=pixel_mae"], study="s")
        study.run()
        study.results()
        study.stable_csv()
        assert study.objective() == 0.0
        load_results("results/s")


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _default(dtype: torch.dtype) -> Callable[[], Any]:
    @contextmanager
    def within() -> Iterator[None]:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        yield
        torch.set_default_dtype(before)

    return within


@contextmanager
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@contextmanager
def _default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


AROUND: dict[str, Callable[[], Any]] = {
    "float64": _default(torch.float64),
    "bfloat16": _default(torch.bfloat16),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "deterministic": _deterministic,
    "device": lambda: torch.device("meta"),
    "default device": _default_device,
}


@pytest.mark.needs("weights")
@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize("name", AROUND)
def test_settings_of_the_program_change_no_row(name: str, studied: Path) -> None:
    with AROUND[name]():
        study = Study(LOOP, study="s")
        study.run()
    kept = Study(LOOP, study="s", results_dir=studied / "results")
    for table in ("samples", "stages"):
        assert study.stable_csv(table) == kept.stable_csv(table)


@pytest.mark.needs("weights")
@pytest.mark.usefixtures("in_tmp")
def test_studies_in_several_threads() -> None:
    """They compose and run one after the other: signals reach none of them, and threads keep their number."""
    said: dict[str, Any] = {}

    def go(name: str) -> None:
        said[name] = len(Study(["strategy=draft_only", *QUICK], study=name).run())

    threads = [threading.Thread(target=go, args=(name,)) for name in "abc"]
    with unchanged():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert said == {"a": 1, "b": 1, "c": 1}


class Plain:
    """A stream that can be written to, and nothing else."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


def _closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.needs("weights")
@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize("stream", [io.StringIO, Plain, _closed, lambda: None], ids=["text", "plain", "closed", "none"])
@pytest.mark.parametrize("words", [["run", "strategy=draft_only", *QUICK], ["ls", "strategy"], ["runn"]], ids=" ".join)
def test_streams_that_are_no_files(stream: Callable[[], Any], words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream())
    wanted = sys.stdout, sys.stderr
    assert main(words) == (2 if words == ["runn"] else 0)
    assert (sys.stdout, sys.stderr) == wanted


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_stream_of_few_characters(errors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors=errors)
    monkeypatch.setattr(sys, "stdout", stream)
    with guest():
        print("γ × –", "\udcff")
        with guest():
            print("…")
    stream.flush()
    assert raw.getvalue().decode() == r"\u03b3 \u00d7 \u2013 \udcff" + "\n" + r"\u2026" + "\n"
    assert stream.errors == errors


def test_a_backend_that_is_not_installed(repository: Path, in_tmp: Path) -> None:
    """A notebook's kernel hands its backend to every command; where it can be had, the program gets it afterwards."""
    code = (
        "import os\nfrom sdvar_exp.guest import guest\nwith guest():\n    import matplotlib.figure\n"
        "print(os.environ['MPLBACKEND'], matplotlib.get_backend(auto_select=False))"
    )
    for backend, wanted in (("module://matplotlib_inlin.backend", None), ("nonsense", None), ("svg", "svg")):
        said = _python(repository, code, MPLBACKEND=backend).split()
        assert said[0] == backend and (wanted is None or said[1] == wanted)


def _python(repository: Path, code: str, **environment: str) -> str:
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(repository), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@settings(max_examples=6, deadline=None)
@given(st.text(st.sampled_from("ab'\"\\${}[],:= ~γ#%()@+*?!&|<>"), min_size=1, max_size=9))
def test_any_path_is_a_results_folder(text: str) -> None:
    path = Path("x") / text
    study = Study(["strategy=draft_only"], study="s", results_dir=path)
    assert study.folder == path / "s"
    assert Study(study.argv).folder == path / "s", "its words mean the same"


@pytest.mark.parametrize("name", ["1e3", "007", "true", "null", "off", "a=b"])
def test_any_name_of_a_study(name: str) -> None:
    assert Study(["strategy=draft_only"], study=name).folder == Path("results") / name


def test_home_folders(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HOME", "/h")
    assert expand("~/x") == Path("/h/x") and expand("a/~") == Path("a/~")
    assert Study(["strategy=draft_only"], results_dir="~/x").folder == Path("/h/x/default")
    for call in (lambda: expand("~nobody-here/x"), lambda: load_results("~nobody-here/x")):
        with pytest.raises(UserError, match=r"~nobody-here.*write the whole path"):
            call()
    for words in (["status", "--results-dir", "~nobody-here"], ["doctor", "--results-dir", "~nobody-here"]):
        assert main(words) == 2 and "write the whole path" in capsys.readouterr().err


def test_a_working_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["run", "strategy=draft_only", f"results_dir={tmp_path}", *QUICK]) in (1, 2)
    assert capsys.readouterr().err == "error: the working folder was removed; go to one that exists: cd\n"


def test_handlers_and_alarms_that_are_not_ours_stay() -> None:
    """A handler that Python did not set cannot be given back, so it is not taken; nor is an alarm that is set already."""
    before = signal.getitimer(signal.ITIMER_REAL)
    signal.setitimer(signal.ITIMER_REAL, 1000)
    with interruptible(), time_limit(0.001):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 900
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 900
    signal.setitimer(signal.ITIMER_REAL, *before)


@pytest.mark.parametrize("broken", [False, True])
def test_what_is_set_aside_comes_back_after_an_error_too(broken: bool) -> None:
    with unusual(), unchanged(), pytest.raises(KeyError) if broken else nullcontext(), guest(), own_torch():
        assert torch.get_default_dtype() == torch.float32 and not torch.are_deterministic_algorithms_enabled()
        torch.set_num_threads(1)
        if broken:
            raise KeyError
