"""Provenance of a result: versions, code, machine, command line. Versions are read from metadata, without torch."""

from __future__ import annotations

import ast
import hashlib
import inspect
import logging
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from sdvar_exp import registry
from sdvar_exp.cell import Cell
from sdvar_exp.guest import cores, processor
from sdvar_exp.store.files import StorageError, atomic_write
from sdvar_exp.store.ledger import canonical

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parents[1]
ROOTS = ("decoding/api.py", "models/pair.py", *(f"runner/measuring/{name}.py" for name in ("results", "pictures", "features")))
"""Files that begin what decides a result: decoding, models, pixels, what a classifier sees."""
DECIDING = ("pyramid.py", "cell.py", "models", "decoding")
DECIDING_PACKAGES = ("torch", "numpy", "safetensors")
RECORDED_PACKAGES = (
    *DECIDING_PACKAGES,
    *("sdvar-exp", "hydra-core", "omegaconf", "pandas", "pyarrow", "matplotlib", "wandb", "pillow", "rich", "scipy"),
)

HIDDEN = "***"
_SECRET_NAME = re.compile(r"(?i)(api[-_]?keys?|(?<![a-z])token|secrets?|passw(or)?d|credentials?|private[-_]?key)$")
_SECRET_VALUE = re.compile(r"\b(wandb_v\d_|hf_|gh[pousr]_|github_pat_|sk-|AKIA)[\w-]{12,}")
_ASSIGNED_SECRET = re.compile(
    r"(?i)((?:api[-_]?key|(?<![a-z])token|secret|passw(?:or)?d|credential|private[-_]?key)s?[\"']?\s*[:=]\s*)(?:\"[^\"]+\"|'[^']+'|[\w./+-]{6,})"
)
_ARITHMETIC = re.compile(
    r"(ONEDNN|DNNL|MKL|MKLDNN)_\w+|ATEN_CPU_CAPABILITY|NVIDIA_TF32_OVERRIDE|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE|CUBLAS_WORKSPACE_CONFIG"
    r"|TORCH_CUDNN_\w+|TORCH_BLAS_PREFER_\w+"
)
"""Variables of the environment that change what PyTorch, oneDNN, MKL and cuBLAS compute."""
_QUIET = re.compile(r"VERBOSE|PROFILE|JIT_DUMP|NUM_THREADS|DYNAMIC|PRIMITIVE_CACHE")
"""Those of their names that change no number."""
_URL_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")


def fingerprint(checkpoints: Mapping[str, Any], device_kind: str, dtype: str, threads: int, **more: Any) -> dict[str, Any]:
    """All that may change a result: code that decides, checkpoint hashes, packages, device kind, dtype, threads.

    checkpoints: {"vae": hash, …} of the one pair of a study, or {model name: {"vae": hash, …}} where there may be more.
    more: further facts that are to agree before a study goes on, e.g. attention backend, TF32 and cuDNN flags.
    """
    known = {"code": code_version(), "checkpoints": dict(checkpoints), "packages": versions(DECIDING_PACKAGES)}
    return {**known, "device_kind": device_kind, "dtype": dtype, "threads": threads, **more}


@cache
def code_version(package: Path = PACKAGE) -> str:
    """Sixteen hexadecimal digits over the code that decides tokens, fidelity or features.

    Comments, docstrings and layout do not count. Read are `ROOTS` and all that they import from `DECIDING`. Registered entries
    are left out: each counts for its own cells (`definition`).
    """
    entry_folders = {package.joinpath(*name.split(".")[1:]) for name in registry.PACKAGES.values()}
    found: dict[str, list[str]] = {}
    left = [package / root for root in ROOTS]
    while left:
        path = left.pop()
        name = path.relative_to(package).as_posix()
        if name in found or (path.parent in entry_folders and path.name != "__init__.py"):
            continue
        source = _source(path.read_bytes())
        found[name] = [text for entry, text in source.statements if entry is None]
        left += [p for p in source.files(package) if p.relative_to(package).parts[0] in DECIDING]
    return _digest(sorted(found.items()))


def definition(entry: registry.Entry) -> str:
    """Sixteen hexadecimal digits over the code of an entry: its file without other entries, and what it uses beside it."""
    place = inspect.getsourcefile(entry.function)
    if place is None or not Path(place).is_file():
        return hashlib.sha256(entry.function.__code__.co_code).hexdigest()[:16]
    file = Path(place)
    source = _source(file.read_bytes())
    found = {"": [text for of, text in source.statements if of in (None, f"{entry.kind}={entry.name}")]}
    left = source.files(PACKAGE)
    while left:
        path = left.pop()
        if path.parent == file.parent and path != file and path.name not in found:
            used = _source(path.read_bytes())
            found[path.name] = [text for _, text in used.statements]
            left += used.files(PACKAGE)
    return _digest(sorted(found.items()))


def definitions(cells: Iterable[Cell], metrics: bool = True) -> dict[str, str]:
    """`definition` of every entry that these cells use, and of every metric that is computed with the rows, by `kind=name`."""
    normal = [cell.normalised() for cell in cells]
    chosen = [choice for cell in normal for kind in registry.KINDS if (choice := getattr(cell, kind)) is not None]
    entries = {f"{choice.kind}={choice.name}": choice.entry for choice in chosen}
    if metrics:
        from sdvar_exp.metrics.quantities import EVIDENCE

        for name in registry.names("metric"):
            entry = registry.get("metric", name)
            if any(parameter in EVIDENCE for parameter in inspect.signature(entry.function).parameters):
                entries[f"metric={name}"] = entry
    return {name: definition(entry) for name, entry in sorted(entries.items())}


@dataclass(frozen=True)
class _Source:
    """A module: its top-level statements, each with the entry (`kind=name`) that it registers, and the modules it imports."""

    statements: tuple[tuple[str | None, str], ...]
    imports: tuple[str, ...]

    def files(self, package: Path) -> list[Path]:
        """Files of the package that are imported, lazily or not."""
        places = [package.joinpath(*name.split(".")[1:]) for name in self.imports]
        return [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()]


@cache
def _source(content: bytes) -> _Source:
    """Read a module from its syntax tree: no comments, no docstrings, nothing that is for a type checker only.

    What an entry declares beside its code (a heading, a range) is no part of it either.
    """
    tree = ast.parse(content)
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [n for n in node.body if not _says_only(n)]
    statements = []
    for node in tree.body:
        entry = _registered(node)
        if entry:
            node.decorator_list = []  # type: ignore[attr-defined]
        statements.append((entry, ast.unparse(node)))
    return _Source(tuple(statements), tuple(sorted(name for name in names if name.startswith("sdvar_exp."))))


def _registered(node: ast.stmt) -> str | None:
    """`kind=name` of the entry that a top-level function defines, None for anything else."""
    for decorator in getattr(node, "decorator_list", ()):
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).rpartition(".")[2] == "register":
            words = [str(arg.value) for arg in decorator.args[:2] if isinstance(arg, ast.Constant)]
            return "=".join(words) if len(words) == 2 else None
    return None


def _says_only(node: ast.stmt) -> bool:
    """Whether a statement does nothing when the program runs: a docstring, or imports for a type checker."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _digest(parts: object) -> str:
    return hashlib.sha256(canonical(parts).encode()).hexdigest()[:16]


def versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of the installed packages among `names`."""
    out = {}
    for name in names:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out


def session_record(argv: Iterable[str], **more: Any) -> dict[str, Any]:
    """The ledger record of one invocation: command line without secrets, machine, versions, state of the checkout."""
    return {
        "type": "session",
        "argv": redact(argv),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "hardware": hardware(),
        "python": platform.python_version(),
        "packages": versions(RECORDED_PACKAGES),
        "code": code_version(),
        "git": git_state(),
        "arithmetic": _switches(),
        **more,
    }


def redact(words: Iterable[str], environ: Mapping[str, str] | None = None) -> list[str]:
    """Command-line words with secrets replaced by `***`.

    A secret is the value of a key whose name says so (`api_key=…`, `--token …`), the value of an environment variable
    with such a name (WANDB_API_KEY, …) wherever it appears, a login in a URL, and what has the form of a known key. The home
    folder, whose name is often the user's, is `~`.
    """
    environ = os.environ if environ is None else environ
    hidden = sorted((v for k, v in environ.items() if _SECRET_NAME.search(k) and len(v) >= 6), key=len, reverse=True)
    out: list[str] = []
    after_flag = False
    for word in map(str, words):
        key, equals, _ = word.partition("=")
        secret_key = bool(_SECRET_NAME.search(key.lstrip("+~-").strip()))
        if after_flag and not word.startswith("-"):
            out.append(HIDDEN)
        elif equals and secret_key:
            out.append(f"{key}={HIDDEN}")
        else:
            for value in hidden:
                word = word.replace(value, HIDDEN)
            out.append(without_home(_URL_LOGIN.sub(f"{HIDDEN}@", _SECRET_VALUE.sub(HIDDEN, word)), environ))
        after_flag = word.startswith("-") and secret_key and not equals
    return out


def without_home(text: str, environ: Mapping[str, str] | None = None) -> str:
    """A text in which paths below the home folder begin with `~`."""
    home = (os.environ if environ is None else environ).get("HOME", "").rstrip("/")
    return re.sub(rf"(?<![\w.~-]){re.escape(home)}(?=/|$|[\s\"',:;)\]])", "~", text) if len(home) > 1 else text


def hardware() -> dict[str, Any]:
    """Machine type, processor, cores that this process may use, memory in bytes, names of NVIDIA GPUs."""
    out: dict[str, Any] = {"machine": platform.machine(), "system": platform.platform(), "cores": cores()}
    out["processor"] = processor()
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        out["memory_bytes"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if shutil.which("nvidia-smi"):
        listing = _output(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
        out["gpus"] = listing.splitlines() if listing else []
    return out


def git_state(package: Path = PACKAGE) -> dict[str, Any] | None:
    """Commit, whether the sources differ from it, and a hash of how; None where the package is in no checkout."""
    git = ["git", "-C", str(package)]
    if not shutil.which("git") or _output([*git, "ls-files", "--error-unmatch", "__init__.py"]) is None:
        return None  # an environment inside somebody's checkout is not tracked by it
    commit = _output([*git, "rev-parse", "HEAD"])
    status = _output([*git, "status", "--porcelain", "--", ".", ":/conf"])
    diff = _diff(package)
    state: dict[str, Any] = {"commit": commit, "dirty": bool(status)}
    if diff:
        state["diff_sha256"] = hashlib.sha256(diff.encode()).hexdigest()
    untracked = sorted(line[3:] for line in (status or "").splitlines() if line.startswith("??"))
    return {**state, "untracked": untracked} if untracked else state


def _diff(package: Path) -> str | None:
    """Difference of the sources and conf/ from the commit; None where git cannot tell."""
    return _output(["git", "-C", str(package), "diff", "HEAD", "--", ".", ":/conf"])


def keep_diff(folder: Path, package: Path = PACKAGE) -> Path | None:
    """Write the difference from the commit to `<folder>/provenance/<first digits of its hash>.diff`; None if there is none.

    The name is that of the unredacted text, `diff_sha256` of the session; the text has secrets replaced. What cannot be
    written is only missing: results do not depend on it.
    """
    state = git_state(package)
    diff = _diff(package) if state and "diff_sha256" in state else None
    if state is None or diff is None:
        return None
    path = folder / "provenance" / f"{state['diff_sha256'][:12]}.diff"
    try:
        if not path.exists():
            atomic_write(path, ("\n".join(map(redact_line, diff.splitlines())) + "\n").encode())
    except StorageError as error:
        log.warning("%s", error)
        return None
    return path


def redact_line(line: str) -> str:
    """A line of text with secrets replaced: assignments to names that say so, values of the environment, known forms."""
    return _ASSIGNED_SECRET.sub(rf"\1{HIDDEN}", redact([line])[0])


def arithmetic(device_kind: str) -> dict[str, Any]:
    """Switches of the program and its environment that change float results on a kind of device; empty without PyTorch.

    A precision is what applies in the end, `ieee` where nothing lowers it. Default dtype, autocast and deterministic mode are
    not among them: a run sets these aside.
    """
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "backends"):
        return {}
    backends = torch.backends
    out: dict[str, Any] = {"matmul_precision": _matmul_precision(torch), "flush_denormal": _flushes(torch)}
    if device_kind == "cpu":
        out |= {
            "onednn": backends.mkldnn.enabled,
            "onednn_matmul": _precision(backends.mkldnn.matmul, backends.mkldnn, backends),
            "onednn_conv": _precision(backends.mkldnn.conv, backends.mkldnn, backends),
            "fp16_sums_on_cpu": torch._C._get_cpu_allow_fp16_reduced_precision_reduction(),
        }
    else:
        matmul, cudnn = backends.cuda.matmul, backends.cudnn
        attention = ("flash", "mem_efficient", "math", "cudnn")
        out |= {
            "tf32_matmul": _precision(matmul, backends.cuda, backends) == "tf32",
            "tf32_cudnn": _precision(cudnn.conv, cudnn, backends) == "tf32",
            "cudnn": cudnn.enabled,
            "cudnn_benchmark": cudnn.benchmark,
            "cudnn_deterministic": cudnn.deterministic,
            "reduced_fp16_sums": matmul.allow_fp16_reduced_precision_reduction,
            "reduced_bf16_sums": matmul.allow_bf16_reduced_precision_reduction,
            "fp16_sums": matmul.allow_fp16_accumulation,
            "reduced_attention_sums": backends.cuda.fp16_bf16_reduction_math_sdp_allowed(),
            "attention": [name for name in attention if getattr(backends.cuda, f"{name}_sdp_enabled")()],
        }
    said = {name: value for name, value in os.environ.items() if _ARITHMETIC.fullmatch(name) and not _QUIET.search(name)}
    return {**out, **dict(sorted(said.items()))}


def _switches() -> dict[str, Any]:
    """The arithmetic of both kinds of device, for the record; empty without PyTorch."""
    both = {**arithmetic("cuda"), **arithmetic("cpu")}
    torch = sys.modules.get("torch")
    if not both or torch is None:
        return {}
    built = {"cudnn_version": torch.backends.cudnn.version(), "cuda": torch.version.cuda}
    return {**both, **built, "threads": torch.get_num_threads()}


def _matmul_precision(torch: Any) -> str:
    """`set_float32_matmul_precision`; `mixed` where other switches contradict it, and PyTorch does not say."""
    try:
        return str(torch.get_float32_matmul_precision())
    except RuntimeError:
        return "mixed"


def _precision(*places: Any) -> str:
    """The float32 precision of an operation: that of the first place, from the operation up to all, that names one."""
    named = [place.fp32_precision for place in places if getattr(place, "fp32_precision", "none") != "none"]
    return str(named[0]) if named else "ieee"


def _flushes(torch: Any) -> bool:
    """Whether this thread takes numbers that are too small for a normal float as zero."""
    return bool((torch.full((1,), 1e-39, dtype=torch.float32, device="cpu") * 1).item() == 0)


def _output(command: list[str]) -> str | None:
    """Standard output without the last newline; None if the command fails or takes longer than 10 s."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()
