"""`sdvar-exp doctor`: what this machine has and lacks, and how to mend each problem."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from sdvar_exp import __version__
from sdvar_exp.cli.options import MACHINES, Parser, say_json
from sdvar_exp.errors import UserError
from sdvar_exp.guest import cores, expand, kept_random_state, own_torch
from sdvar_exp.words import size

OK, NOTE, PROBLEM = "ok", "note", "problem"
LOW_DISK = 2e9
IMPORT_S = 60.0
FONT = "DejaVu Sans"
NEEDED_GLYPHS = "γτεδα≤"


@dataclass(frozen=True)
class Finding:
    """state: ok, note (works, but worth knowing) or problem. fix: what to do, empty where all is well."""

    what: str
    state: str
    text: str
    fix: str = ""


def parser() -> Parser:
    known = Parser(
        prog="sdvar-exp doctor", description="Check this machine; exit code 1 if something will not work.", json=MACHINES
    )
    known.add_argument("--results-dir", type=expand, default="results", help="where results go (default: results)")
    return known


def main(argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    findings = [finding for check in checks(asked.results_dir) for finding in _safely(check)]
    if asked.json:
        say_json([asdict(finding) for finding in findings])
    else:
        print("\n".join(_line(finding) for finding in findings))
    return int(any(finding.state == PROBLEM for finding in findings))


def checks(results: Path) -> list[Callable[[], Iterator[Finding]]]:
    """The checks, in order."""
    return [
        python,
        packages,
        torch_and_gpu,
        threads,
        lambda: disk(results),
        shipped,
        checkpoints,
        git,
        wandb_import,
        wandb_login,
        fonts,
    ]


def _safely(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """A check that cannot be made is a finding of its own."""
    try:
        return list(check())
    except Exception as error:
        name = getattr(check, "__name__", "check")
        return [Finding(name, PROBLEM, f"{type(error).__name__}: {error}", "reinstall: make setup")]


def _line(finding: Finding) -> str:
    mark = {OK: "ok     ", NOTE: "note   ", PROBLEM: "PROBLEM"}[finding.state]
    return f"{mark}  {finding.what}: {finding.text}" + (f"\n         fix: {finding.fix}" if finding.fix else "")


def python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    yield Finding(
        "python",
        OK if good else PROBLEM,
        f"{version}; sdvar_exp {__version__}",
        "" if good else "use Python 3.11, 3.12 or 3.13",
    )


def packages() -> Iterator[Finding]:
    """Every dependency against the range that the project asks for."""
    from packaging.requirements import Requirement  # a dependency of hydra-core and matplotlib

    try:
        wanted = [Requirement(line) for line in metadata.requires("sdvar_exp") or ()]
    except metadata.PackageNotFoundError:
        yield Finding("packages", PROBLEM, "sdvar_exp is not installed here", "pip install -e . in the project's folder")
        return
    wrong = []
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            have = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(have, prereleases=True):
            wrong.append(f"{requirement.name} {have} is not {requirement.specifier}")
    if wrong:
        yield Finding("packages", PROBLEM, "; ".join(wrong), "make setup, or pip install -c constraints.txt -e .")
    else:
        yield Finding("packages", OK, "all in the ranges of pyproject.toml")


def torch_and_gpu() -> Iterator[Finding]:
    import torch

    yield Finding("torch", OK, torch.__version__)
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            yield Finding(f"cuda:{i}", OK, f"{torch.cuda.get_device_name(i)}, {size(free)} of {size(total)} free")
    elif shutil.which("nvidia-smi"):
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
        yield Finding(
            "gpu",
            PROBLEM,
            f"there is an NVIDIA driver, but PyTorch ({built}) sees no GPU",
            "install the CUDA build of torch that fits the driver (nvidia-smi shows its CUDA version)",
        )
    else:
        yield Finding("gpu", NOTE, "none; everything runs on the CPU")


def threads() -> Iterator[Finding]:
    import torch

    count, most = torch.get_num_threads(), cores()
    if count > most:
        yield Finding("threads", NOTE, f"PyTorch uses {count} threads on {most} cores", f"threads={most}")
    else:
        yield Finding("threads", OK, f"{count} of {most} cores")


def disk(results: Path) -> Iterator[Finding]:
    from sdvar_exp.cli.run import check_writable
    from sdvar_exp.config.folder import nearest_folder
    from sdvar_exp.errors import UserError

    try:
        check_writable(results)
    except UserError as error:
        yield Finding("results", PROBLEM, str(error), "results_dir=<a folder that you may write to>")
        return
    place = nearest_folder(results).absolute()
    free = shutil.disk_usage(place).free
    low = free < LOW_DISK
    yield Finding(
        "disk",
        NOTE if low else OK,
        f"{size(free)} free at {place}",
        "free space, choose another results_dir, or keep fewer pictures with images=none" if low else "",
    )


def shipped() -> Iterator[Finding]:
    """The shipped pairs: their files are read, names and shapes checked."""
    from sdvar_exp.cell import ModelSpec
    from sdvar_exp.models.pair import load_pair, resolve_device

    for name in ("embedded", "emoji"):
        with own_torch(), kept_random_state():
            pair = load_pair(ModelSpec(name), resolve_device("cpu"), "float32")
        yield Finding(f"{name} pair", OK, f"loads; {pair.pyramid.stages} stages, {pair.num_classes} classes")


def checkpoints() -> Iterator[Finding]:
    """Files of the official models, where any are looked for."""
    from sdvar_exp.config import folder
    from sdvar_exp.models.pair import checkpoint_folder

    place = checkpoint_folder()
    missing, broken, spoilt = dict[str, list[str]](), dict[str, str](), set[str]()
    for name in folder.names("model"):
        path = folder.find("model", name)
        text = path.read_text(encoding="utf-8") if path else ""
        files = re.findall(r"^(?:vae|draft|target): *([\w.-]+\.(?:pth|safetensors))", text, re.MULTILINE)
        if files:
            missing[name] = [file for file in files if not (place / file).is_file()]
            found = {file: why for file in files if file not in missing[name] and (why := _no_checkpoint(place / file))}
            broken |= found
            spoilt |= {name} if found else set()
    for why in broken.values():
        yield Finding("checkpoints", PROBLEM, why, "fetch the file again")
    there = sorted(name for name, files in missing.items() if not files and name not in spoilt)
    if there:
        yield Finding("checkpoints", OK, f"{', '.join(there)} in {place}")
    partly = {name: files for name, files in missing.items() if files and place.is_dir()}
    if partly or not (there or spoilt):
        wanted = ", ".join(f"{name} lacks {' '.join(files)}" for name, files in list(partly.items())[:3])
        what = wanted or f"no folder {place}; only the shipped pairs can be run"
        yield Finding(
            "checkpoints", NOTE, what, "put the files there, or set SDVAR_CHECKPOINTS; the sources stand in conf/model/"
        )


def _no_checkpoint(path: Path) -> str:
    """Name the kind of a file that by its first bytes is no checkpoint; empty for one that may be."""
    from sdvar_exp.models.files import beginning

    try:
        beginning(path)
    except UserError as error:
        return str(error)
    return ""


def git() -> Iterator[Finding]:
    """Whether a run can note the commit of its code."""
    from sdvar_exp.store.provenance import git_state

    if not shutil.which("git"):
        yield Finding("git", NOTE, "missing; runs note no commit of their code", "install git (Debian package git)")
    elif (state := git_state()) is None:
        yield Finding("git", NOTE, "the code lies in no checkout; runs note its hash alone")
    else:
        changes = ", with changes that runs keep as a difference" if state["dirty"] else ""
        yield Finding("git", OK, f"commit {str(state['commit'])[:12]}{changes}")


def wandb_import() -> Iterator[Finding]:
    """Whether wandb can be imported, in a process of its own, as a run does it."""
    command = [sys.executable, "-c", "import wandb; print(wandb.__version__)"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_S)
    except subprocess.TimeoutExpired:
        yield Finding(
            "wandb", PROBLEM, f"its import took more than {IMPORT_S:.0f} s", "tracking=none, or look at the file system"
        )
        return
    if done.returncode == 0:
        yield Finding("wandb", OK, f"{done.stdout.strip()} can be imported")
    else:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        yield Finding(
            "wandb", PROBLEM, f"cannot be imported: {why}", "pip install -c constraints.txt wandb, or use tracking=none"
        )


def wandb_login() -> Iterator[Finding]:
    """Whether a key is known; nothing is sent, so that it is not known whether the server takes it."""
    from sdvar_exp.tracking import resolve

    options = resolve({}, {})
    host = re.sub(r"^https?://|/.*$", "", options.base_url or "https://api.wandb.ai")
    if os.environ.get("WANDB_API_KEY"):
        yield Finding("W&B", OK, "key from WANDB_API_KEY (not tried)")
        return
    netrc = expand(os.environ.get("NETRC") or "~/.netrc")
    names = [netrc, netrc.with_name("_netrc")]
    known = any(host in path.read_text(encoding="utf-8", errors="replace") for path in names if path.is_file())
    if known:
        yield Finding("W&B", OK, f"logged in at {host} (not tried)")
    elif options.mode == "online":
        yield Finding(
            "W&B",
            PROBLEM,
            f"WANDB_MODE asks for online, but no key for {host} is known",
            "wandb login, or set WANDB_API_KEY, or WANDB_MODE=offline",
        )
    else:
        yield Finding(
            "W&B", NOTE, f"not logged in at {host}; tracking=offline needs no login", "for tracking=online: wandb login"
        )


def fonts() -> Iterator[Finding]:
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    try:
        path = font_manager.findfont(FONT, fallback_to_default=False)
    except ValueError:
        yield Finding(
            "fonts", PROBLEM, f"{FONT} is missing", "it comes with matplotlib: pip install --force-reinstall matplotlib"
        )
        return
    lacking = [c for c in NEEDED_GLYPHS if not FT2Font(path).get_char_index(ord(c))]
    if lacking:
        yield Finding("fonts", PROBLEM, f"{path} lacks {' '.join(lacking)}", "remove that file; matplotlib brings its own")
    else:
        yield Finding("fonts", OK, f"{FONT} for figures")
