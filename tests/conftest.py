"""What all tests share: parts a machine may lack, one thread per worker, a working directory of its own per test."""

from __future__ import annotations

import os
import tempfile

# Before torch, numpy and matplotlib are imported: parallel workers must not each start a thread per core.
if "PYTEST_XDIST_WORKER" in os.environ:
    for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[_variable] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")
# Tests beside each other are no workers beside each other: times are not marked as contended for them.
os.environ.setdefault("SDVAR_PRESENCE", os.path.join(tempfile.gettempdir(), f"sdvar-exp-presence-{os.getpid()}"))

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

# Examples take as long as the machine is busy, and are the same every time unless SDVAR_RANDOM asks for fresh ones.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(REPOSITORY / ".hypothesis"))
settings.register_profile("sdvar", deadline=None, derandomize=not os.environ.get("SDVAR_RANDOM"))
settings.load_profile("sdvar")


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _command(*names: str) -> Callable[[], bool]:
    return lambda: any(shutil.which(name) for name in names)


def _module(name: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(name) is not None


PARTS: dict[str, tuple[str, Callable[[], bool]]] = {
    "chromium": (
        "Chromium with its driver, and selenium (Debian packages chromium and chromium-driver)",
        lambda: (
            _command("chromium", "chromium-browser", "google-chrome")() and _command("chromedriver")() and _module("selenium")()
        ),
    ),
    "cuda": ("a CUDA device", _cuda),
    "dataset": (
        "Fashion-MNIST (Debian package dataset-fashion-mnist)",
        lambda: (FASHION_MNIST / "train-images-idx3-ubyte.gz").is_file(),
    ),
    "datasets": ("the datasets package", _module("datasets")),
    "fish": ("the fish shell", _command("fish")),
    "latex": ("LaTeX, for figures in its fonts", _command("pdflatex", "lualatex")),
    "slurm": ("a Slurm controller", _command("sbatch")),
    "submitit": ("the submitit package", _module("submitit")),
    "trackio": ("the trackio package", _module("trackio")),
    "weights": (
        "the weights of the embedded pair",
        lambda: any((REPOSITORY / "sdvar_exp/models/weights").glob("*.safetensors")),
    ),
    "zsh": ("the Z shell", _command("zsh")),
}


def require_part(name: str) -> None:
    """Skip the test if this machine lacks the part; fail if SDVAR_REQUIRE (comma-separated, or `all`) names it."""
    what, present = PARTS[name]
    if present():
        return
    required = {word.strip() for word in os.environ.get("SDVAR_REQUIRE", "").split(",")}
    if required & {name, "all"}:
        pytest.fail(f"SDVAR_REQUIRE names {name!r}, but this machine lacks {what}", pytrace=False)
    pytest.skip(f"needs {what}")


@pytest.fixture
def need() -> Callable[[str], None]:
    """`need("dataset")` inside a test; `@pytest.mark.needs("dataset")` does the same for a whole test."""
    return require_part


def pytest_configure(config: pytest.Config) -> None:
    unknown = {word.strip() for word in os.environ.get("SDVAR_REQUIRE", "").split(",")} - {*PARTS, "all", ""}
    if unknown:
        raise pytest.UsageError(f"SDVAR_REQUIRE names {', '.join(sorted(unknown))}; known are {', '.join(PARTS)}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            require_part(name)


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of this test's own: what the test registers is gone after it, and no other test lacks what it loads."""
    from sdvar_exp import registry

    for kind in registry.PACKAGES:
        registry.load(kind)
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working tree."""
    return REPOSITORY


@pytest.fixture(autouse=True)
def _own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty working directory for every test: a stray relative path shows, and nothing lands in the repository."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("cwd"))
    yield
    os.chdir(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where the tests of the pages ran: how many of their command blocks are run, and why the others are not."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    if any(getattr(report, "nodeid", "").startswith("tests/docs/") for report in reports):
        from tests.docs.pages import tally

        terminalreporter.write_line("\n".join(tally()))
