"""Habits of the repository that a reader would stumble on: paths of one machine, devices as constants, large files."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from sdvar_exp import __version__

ROOT = Path(__file__).resolve().parent.parent
BINARY = {".safetensors", ".npz", ".png", ".parquet", ".pdf", ".gz", ".webp"}


def _files() -> list[Path]:
    """Files that git knows or would add; in an unpacked sdist, all files."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        paths = [ROOT / name for name in listed.split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not {".venv", "__pycache__"} & set(path.parts)]
    return sorted(path for path in paths if path.is_file())


FILES = _files()
# what a study recorded of its machine, its torch build included, is data
DATA = tuple(ROOT / "results" / study for study in ("front", "reference"))
TEXTS = [path for path in FILES if path.suffix not in BINARY and not any(map(path.is_relative_to, DATA))]
PACKAGE = [path for path in FILES if path.is_relative_to(ROOT / "sdvar_exp") and path.suffix == ".py"]


def _lines(paths: list[Path], pattern: str) -> list[str]:
    """`file:line: text` of each line that the pattern matches."""
    found = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    return found


def test_there_are_files() -> None:
    """The checks below look at something."""
    assert len(PACKAGE) > 5 and ROOT / "README.md" in TEXTS


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a path of one machine", r"(?<![\w./])/(work|farm|root|home|opt|tmp/venv)/[a-z]"),
        ("an address of a package index", r"--(extra-)?index-url|--find-links|//(files\.)?(pypi|pythonhosted)\."),
        ("a local build", r"[+]cpu\b|@ file:/{2}|[.]{2}/shared"),
        ("a secret", r"(api_key|token|password)\s*[=:]\s*[\"'][A-Za-z0-9]{16,}[\"']"),
        ("a conflict marker", r"^(<{7} |>{7} |={7}$)"),
    ],
)
def test_text_files_name_no(what: str, pattern: str) -> None:
    found = _lines([path for path in TEXTS if path != Path(__file__).resolve()], pattern)
    assert not found, f"{what}: " + "; ".join(found)


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a device as a constant", r"cuda:\d"),
        ("unfinished work", r"\b(TODO|FIXME|XXX|NotImplementedError)\b"),
        ("a literal of the official pyramid", r"(?<![\w.])680(?![\w.])|1, 2, 3, 4, 5, 6, 8, 10, 13, 16"),
    ],
)
def test_package_has_no(what: str, pattern: str) -> None:
    # The pyramid's own file documents it; the official constructors have it as their default.
    code = [path for path in PACKAGE if path.name != "pyramid.py" and "compat" not in path.parts]
    found = _lines(code, pattern)
    assert not found, f"{what}: " + "; ".join(found)


def _calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def test_library_does_not_print() -> None:
    """logging in the library; the console belongs to the command line."""
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path in PACKAGE
        if "cli" not in path.relative_to(ROOT).parts and path.name != "cli.py"
        for call in _calls(path)
        if isinstance(call.func, ast.Name) and call.func.id == "print"
    ]
    assert not found, f"print in library code: {found}"


def test_torch_load_runs_no_code() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path in FILES
        if path.suffix == ".py" and not path.is_relative_to(ROOT / "tests")  # a test shows that it would run
        for call in _calls(path)
        if ast.unparse(call.func) == "torch.load"
        and not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in call.keywords)
    ]
    assert not found, f"torch.load without weights_only=True: {found}"


def test_no_exception_is_dropped() -> None:
    """`except Exception: pass` hides a failure; a narrow exception may be ignored with a reason beside it."""
    found = []
    for path in PACKAGE:
        for node in ast.walk(ast.parse(path.read_text())):
            broad = isinstance(node, ast.ExceptHandler) and (
                node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
            )
            if broad and all(isinstance(line, ast.Pass | ast.Continue) for line in node.body):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found, f"an exception dropped: {found}"


def test_nothing_draws_from_the_global_generator() -> None:
    """Randomness in decoding is keyed, so nothing there may depend on what was drawn before."""
    places = [path for path in PACKAGE if {"decoding", "metrics", "store", "report"} & set(path.parts)]
    pattern = r"torch\.(manual_seed|multinomial|rand|randn|randint)\(|np\.random\.(seed|rand)|\.exponential_\("
    found = _lines(places, pattern)
    assert not found, f"global randomness: {found}"


def test_files_are_small() -> None:
    """Code files hold one idea (400 lines; tests list their cases at length); no file is over 9 MiB, what ships 32 MiB."""
    most = {p: 650 if p.is_relative_to(ROOT / "tests") else 400 for p in FILES if p.suffix == ".py"}
    long = [str(p.relative_to(ROOT)) for p, lines in most.items() if len(p.read_text().splitlines()) > lines]
    assert not long, f"too long for one idea: {long}"
    large = [str(p.relative_to(ROOT)) for p in FILES if p.stat().st_size > 9 * 2**20]
    assert not large, f"over 9 MiB: {large}"
    shipped = sum(p.stat().st_size for p in FILES if p.is_relative_to(ROOT / "sdvar_exp"))
    assert shipped <= 32 * 2**20, f"the package weighs {shipped / 2**20:.1f} MiB, with two pairs of at most 16 each"


def test_relative_links_lead_somewhere() -> None:
    found = []
    for path in (p for p in FILES if p.suffix == ".md"):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text()):
            if "://" not in target and not target.startswith("mailto:") and not (path.parent / target).exists():
                found.append(f"{path.relative_to(ROOT)} -> {target}")
    assert not found, f"dead links: {found}"


def test_constraints_pin_every_dependency() -> None:
    """Exact versions only, within the ranges of pyproject.toml, and one for every requirement."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "a constraint that is no exact version"
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["dev"]]
    for requirement in wanted:
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} does not admit {version}"


def test_version_is_a_release_number() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_readme_and_ci_run_the_same_tests() -> None:
    readme, ci, makefile = ((ROOT / name).read_text() for name in ("README.md", ".ci/run", "Makefile"))
    for target in ("make demo", "make test"):
        assert target in readme
    assert "run test\n" in ci and "run test-full\n" in ci
    assert {"setup", "demo", "test", "test-full", "lint", "clean"} <= set(re.findall(r"^([a-z-]+):", makefile, re.M))


def test_the_readmes_tables_are_those_of_the_kept_studies() -> None:
    import runpy

    script = runpy.run_path(str(ROOT / "scripts" / "readme.py"))
    for page in script["PAGES"]:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert script["render"](text) == text, f"run python scripts/readme.py ({page})"
    assert {len(makers) for makers in script["MAKERS"].values()} == {10}


@pytest.mark.long
def test_the_readmes_pictures_are_those_of_the_kept_studies() -> None:
    import runpy

    from PIL import Image

    script = runpy.run_path(str(ROOT / "scripts" / "readme.py"))
    for file, drawn in ((script["PICTURE"], script["picture"]()), (script["STUDY_PICTURE"], script["study_picture"]())):
        with Image.open(file) as image:
            assert image.info["Description"] == f"data sha256 {drawn.data_hash}", "run python scripts/readme.py"
        assert f"({file.relative_to(ROOT)})" in (ROOT / "README.md").read_text(encoding="utf-8")
