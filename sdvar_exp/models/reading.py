"""Reading checkpoint files: what a file is by its content, whether it is whole, and the weights that it holds.

No code of a file runs: `.pth` files go through `torch.load(weights_only=True)`, after their pickle has been looked through
for objects that only code could make; safetensors hold none. Nothing is allocated that the file's own size does not cover.
Trainers wrap weights in containers, in names of wrappers, beside optimizers and averages: `weights_in` finds them there.
"""

from __future__ import annotations

import logging
import pickletools
import re
import struct
import threading
import warnings
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from sdvar_exp.errors import UserError
from sdvar_exp.models.files import DAMAGED, LEGACY, beginning, unopened, unreadable
from sdvar_exp.models.files import shown as shown
from sdvar_exp.words import count

log = logging.getLogger(__name__)

State = dict[str, torch.Tensor]
Role = Literal["VAR", "VQVAE"]

# names by which a set of weights is known, whatever stands before them
ANCHORS: dict[Role, tuple[str, ...]] = {
    "VAR": ("head.weight", "word_embed.weight", "class_emb.weight", "pos_1LC", "lvl_embed.weight", "head_nm.ada_lin.1.weight"),
    "VQVAE": ("quantize.embedding.weight", "encoder.conv_in.weight", "decoder.conv_out.weight", "post_quant_conv.weight"),
}
# where trainers of VAR-like models put the weights; of several sets the first of these is taken, averages (ema) last
NESTS = ("trainer", "var_wo_ddp", "model", "state_dict")
WRAPPERS = re.compile(r"(?:(?<=^)|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# objects of a run's settings that trainers keep beside the weights; read as `Setting`, which holds nothing
SETTINGS = re.compile(
    r"argparse\.Namespace|pathlib\.(?:_local\.)?\w*Path|numpy\.(?:_?core\.multiarray\.scalar|dtype|dtypes\.\w+|\w*int\d+|float\d+)"
)
READABLE = re.compile(
    r"torch\.(?:cuda\.|storage\.|nn\.parameter\.|_utils\._rebuild|_tensor\._rebuild|serialization\._get_layout)?\w*"
    r"|collections\.(?:OrderedDict|Counter)|(?:builtins|__builtin__)\.(?:set|frozenset|complex)|_codecs\.encode"
)
_loading = threading.Lock()  # the list of objects that torch.load lets pass belongs to the process


class Setting:
    """Stands in for an object of a run's settings: takes what it is given and keeps nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_state(path: Path, role: Role) -> State:
    """Names and tensors of one model in a checkpoint file, as the model calls them; runs no code from it.

    Raises:
        UserError: missing, damaged, not a checkpoint, or holding objects that only code could make.
    """
    return weights_in(read_file(path), role, path)


def read_file(path: Path) -> Any:
    """All that a checkpoint file holds."""
    start = beginning(path)
    try:
        return _read(path, start, path.stat().st_size)
    except OSError as error:
        raise unopened(path, error) from None
    except (MemoryError, RecursionError):
        raise unreadable(path, "it asks for more memory than there is") from None


def _read(path: Path, start: bytes, size: int) -> Any:
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(path, size)
    if start.startswith(LEGACY):
        with path.open("rb") as f:
            outlines = [outline(f) for _ in range(4)]  # magic number, version, machine, content
        return _torch_load(path, outlines[-1], size, mmap=False)
    return _read_safetensors(path, size)


def _read_safetensors(path: Path, size: int) -> State:
    try:
        with safe_open(path, framework="pt") as f:
            return {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError, OverflowError, AttributeError):
        raise unreadable(path, f"the list of tensors at its start does not fit its {size:,} bytes: {DAMAGED}") from None


@dataclass
class Outline:
    """The requests of a pickle: full names of objects in order, the largest number of values of a storage, its protocol."""

    names: dict[str, None] = field(default_factory=dict)
    elements: int = 0
    protocol: int = 2


def outline(pickle: IO[bytes] | bytes) -> Outline:
    """Look through one pickle without running it, as far as it can be read."""
    out, numbers = Outline(), [0]
    try:
        for code, argument, _ in pickletools.genops(pickle):
            if code.name in ("GLOBAL", "INST"):
                out.names[str(argument).replace(" ", ".")] = None
            elif code.name == "PROTO" and argument is not None:
                out.protocol = argument
            elif code.name == "MARK":
                numbers = [0]
            elif code.name == "BINPERSID":  # a storage: type, key, device, number of elements
                out.elements = max(out.elements, *numbers)
            elif isinstance(argument, int):
                numbers.append(argument)
    except (ValueError, IndexError, OverflowError):
        return out  # damaged from here on, which its reader will say
    return out


def _read_zip(path: Path, size: int) -> Any:
    """The content of an archive of torch.save; its parts are stored as they are, so that they are no larger than the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {part.filename.partition("/")[2]: part for part in archive.infolist()}
            packed = any(part.compress_type for part in parts.values())
            total = sum(part.file_size for part in archive.infolist())
            if total > size * (8 if packed else 1) + (1 << 20):
                raise unreadable(path, f"its {size:,} bytes would unpack to {total:,}: it is no checkpoint")
            if "constants.pkl" in parts:
                raise unreadable(path, "it is a TorchScript program: save its weights with torch.save(model.state_dict(), …)")
            if "data.pkl" not in parts:
                raise unreadable(path, "it is a zip archive, but not of torch.save: unpack it and name the file in it")
            pickle = outline(archive.read(parts["data.pkl"]))
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, RuntimeError, struct.error, zlib.error):
        raise unreadable(path, DAMAGED) from None
    return _torch_load(path, pickle, max(total, size), mmap=not packed)


def _torch_load(path: Path, pickle: Outline, room: int, mmap: bool) -> Any:
    foreign = [name for name in pickle.names if not READABLE.fullmatch(name)]
    opaque = [name for name in foreign if not SETTINGS.fullmatch(name)]
    if opaque:
        raise _opaque(path, opaque)
    if pickle.protocol > 2:
        raise unreadable(
            path, f"it is pickled with protocol {pickle.protocol}: save it with torch.save's own, pickle_protocol=2"
        )
    if pickle.elements > room:
        raise unreadable(path, f"it asks for a tensor of {pickle.elements:,} values, which {room:,} bytes cannot hold")
    with _loading, torch.serialization.safe_globals([(Setting, name) for name in foreign]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if path.suffix == ".safetensors":  # by whose name torch.load would take it for one
                with path.open("rb") as f:
                    return torch.load(f, map_location="cpu", weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except (MemoryError, RecursionError):
            raise
        except Exception as error:  # a damaged pickle can raise nearly anything
            refused = re.search(r"(?:GLOBAL|class) ([\w.]+) ", str(error))
            raise _opaque(path, [refused[1]]) if refused else unreadable(path, DAMAGED) from None


def _opaque(path: Path, names: list[str]) -> UserError:
    more = f" and {count(len(names) - 1, 'more kind')} of objects" if len(names) > 1 else ""
    return unreadable(
        path,
        f"beside tensors it holds {shown(names[0])}{more}, which only running its code could make; where it comes from, "
        f"save the weights alone with torch.save(model.state_dict(), …)",
    )


def weights_in(content: Any, role: Role, path: Path) -> State:
    """The weights of one model in what a file holds, by its own names for them.

    Mappings and lists are searched to any depth for names that only this model has. Of several sets the one in the place that
    stands first in `NESTS` is taken, an average (ema) last, and the choice is logged.

    Raises:
        UserError: no tensors at all, one name twice, or more values than the file has bytes for.
    """
    sets: dict[str, State] = {}
    plain: State | None = None
    for place, tensors in _tensors(content):
        found = _sets(tensors, role, path)
        sets |= {place + prefix: state for prefix, state in found.items()}
        plain = tensors if plain is None else plain
    if not sets:
        return _nothing(content, plain, path)
    order = sorted(sets, key=_preference)
    if len(order) > 1:
        others = ", ".join(shown(place.rstrip(".") or "the top") for place in order[1:])
        log.warning(
            "checkpoint %s holds several sets of weights: taken is %s, not %s; to use another, save it alone",
            shown(path, 4096),
            shown(order[0].rstrip(".") or "the top"),
            others,
        )
    return sets[order[0]]


def _nothing(content: Any, plain: State | None, path: Path) -> State:
    """The tensors of a file without a known set of weights: who builds a model of them says what is missing."""
    if plain is not None:
        return plain
    if not isinstance(content, Mapping):
        raise UserError(f"checkpoint {shown(path, 4096)} holds a {type(content).__name__}, not names and tensors")
    raise UserError(f"checkpoint {shown(path, 4096)} holds no tensors under {', '.join(NESTS)}")


def _preference(place: str) -> tuple[bool, list[int]]:
    parts = [part for part in place.split(".") if part]
    known = [NESTS.index(part) if part in NESTS else len(NESTS) for part in parts]
    return any("ema" in part.lower() for part in parts), known


def _tensors(content: Any) -> Iterator[tuple[str, State]]:
    """Every mapping that holds tensors, with the names of its place, the outermost first; references may go round."""
    queue, seen = deque([("", content)]), set[int]()
    while queue:
        place, node = queue.popleft()
        if isinstance(node, list | tuple) and not all(isinstance(v, torch.Tensor | int | float | str) for v in node):
            node = {i: v for i, v in enumerate(node)}
        if not isinstance(node, Mapping) or id(node) in seen:
            continue
        seen.add(id(node))
        # detached as a function: attributes that a file sets on a tensor stay behind
        tensors = {k: torch.Tensor.detach(v) for k, v in node.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
        tensors = {k: v for k, v in tensors.items() if not v.is_nested}
        if tensors:
            yield place, tensors
        queue += ((f"{place}{k}.", v) for k, v in node.items() if isinstance(k, str | int))


def _sets(tensors: State, role: Role, path: Path) -> dict[str, State]:
    """Sets of weights among the tensors of one mapping by the prefix of their names; wrappers' names are taken out."""
    names: dict[str, str] = {}
    anchors = [raw for raw in tensors if raw.endswith(ANCHORS[role])]
    wrapped = bool(anchors) and all(map(WRAPPERS.match, anchors))
    for raw in tensors:
        if wrapped and not WRAPPERS.match(raw):
            continue  # a wrapper's own, such as the count of torch.optim.swa_utils.AveragedModel
        name = WRAPPERS.sub("", raw)
        if name in names:
            raise UserError(
                f"checkpoint {shown(path, 4096)} holds {shown(name)} twice: as {shown(names[name])} and {shown(raw)}"
            )
        names[name] = raw
    prefixes = {of: _prefixes(names, anchors) for of, anchors in ANCHORS.items()}
    longest = sorted({p for found in prefixes.values() for p in found}, key=len, reverse=True)
    sets: dict[str, State] = {prefix: {} for prefix in prefixes[role]}
    for name, raw in names.items():
        prefix = next((p for p in longest if name.startswith(p)), None)
        if prefix in sets:
            sets[prefix][name.removeprefix(prefix)] = tensors[raw]
    return sets


def _prefixes(names: Mapping[str, str], anchors: tuple[str, ...]) -> list[str]:
    """Prefixes that stand before at least two of the anchors."""
    counts = Counter(
        name.removesuffix(anchor) for anchor in anchors for name in names if name == anchor or name.endswith(f".{anchor}")
    )
    return [prefix for prefix, count in counts.items() if count > 1]
