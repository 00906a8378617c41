"""Checkpoints damaged at random: each loads, or is refused in one line, soon, and nothing else happens.

The cases follow from their number, so that a failure names what to try again.
"""

from __future__ import annotations

import json
import pickletools
import random
import struct
import time
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from sdvar_exp.errors import UserError
from sdvar_exp.models.checkpoint import build_var, build_vqvae
from sdvar_exp.models.var import VAR
from sdvar_exp.models.vqvae import VQVAE

SIDES = (1, 2)
SECONDS = 2.0
State = dict[str, Any]
DTYPES = (torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.bfloat16, torch.float64)
NUMBERS = (-1, 0, 1, 255, 2**31 - 1, 2**32, 2**40, 2**63 - 1, 38 * 10**12)


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        var = VAR(SIDES, 16, 4, 3, depth=2, width=16, heads=2)
        return {"var": var.state_dict(), "vae": VQVAE(SIDES, 16, 4, 32, (1, 2), 1).state_dict()}


# --- what a trainer may have done: on names and tensors ------------------------------------------------------------------


def strange(tensor: torch.Tensor, r: random.Random) -> Any:
    """The tensor in another type, shape, layout or state."""
    kinds: list[Callable[[], Any]] = [
        lambda: tensor.to(r.choice(DTYPES)),
        lambda: tensor.flatten(),
        lambda: tensor[None],
        lambda: tensor.flatten()[:0],
        lambda: tensor.to_sparse() if tensor.is_floating_point() else tensor,
        lambda: tensor.to("meta"),
        lambda: torch.zeros(1).expand(r.choice((3, 10**4, 10**7)), 2 ** r.randrange(20)),
        lambda: torch.full_like(tensor, r.choice((float("nan"), float("inf"), 1e38)) if tensor.is_floating_point() else -3),
        lambda: tensor.mT if tensor.ndim > 1 else tensor,
        lambda: torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor,
        lambda: tensor.tolist() if tensor.numel() < 50 else None,
        lambda: torch.zeros([r.randrange(4) for _ in range(r.randrange(5))]),
    ]
    return r.choice(kinds)()


def renamed(state: State, r: random.Random) -> State:
    words = ("module.", "_orig_mod.", "ema.", "model.", "\x1b[31m", "blocks.", "é", "x" * 5000, ".", "")
    if r.random() < 0.5:
        prefix = "".join(r.choices(words, k=r.randrange(1, 4)))
        return {prefix + name: tensor for name, tensor in state.items()}
    some = set(r.sample(sorted(state), min(len(state), r.randrange(1, 4))))
    return {(r.choice(words) + name if name in some else name): tensor for name, tensor in state.items()}


def nested(content: Any, r: random.Random) -> Any:
    key = r.choice(("model", "state_dict", "ema", "trainer", "optimizer", "a.b", 3, "\n", None))
    beside: State = {"epoch": 3, "rng": torch.zeros(3, dtype=torch.uint8), "list": [torch.zeros(2)], "word": "\x1b]0;x\x07"}
    out = {name: beside[name] for name in r.sample(sorted(beside), r.randrange(4))} | {key: content}
    if r.random() < 0.2:
        out["self"] = out
    return out if r.random() < 0.9 else r.choice(([content], (content,), content, 3, "text", None))


def reshaped(state: State, r: random.Random) -> Any:
    content: Any = dict(state)
    for _ in range(r.randrange(1, 4)):
        if not isinstance(content, dict) or not content:
            return content
        name = r.choice(sorted(map(str, content)))
        change = r.randrange(5)
        if change == 0:
            content = renamed({str(k): v for k, v in content.items()}, r)
        elif change == 1:
            content = nested(content, r)
        elif change == 2 and isinstance(content.get(name), torch.Tensor):
            content[name] = strange(content[name], r)
        elif change == 3:
            content.pop(name, None)
        else:
            content[f"blocks.{r.choice((1, 2, 7, 10**9))}.ffn.fc1.weight"] = torch.zeros(r.randrange(3), 2)
    return content


# --- what a disk or a foe may have done: on bytes ------------------------------------------------------------------------


def flipped(data: bytes, r: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(r.randrange(1, 6)):
        near = min(len(out), 3000)
        place = r.choice((r.randrange(len(out)), r.randrange(near), len(out) - 1 - r.randrange(near)))
        out[place] = r.randrange(256)
    return bytes(out)


def spliced(data: bytes, r: random.Random) -> bytes:
    a, b = sorted((r.randrange(len(data)), r.randrange(len(data))))
    return r.choice((data[:a], data[b:], data[:a] + data[b:], data[:b] + data[a:], data[:a] + r.randbytes(20) + data[a:]))


def numbers(data: bytes, r: random.Random) -> bytes:
    """A number of eight or four bytes made absurd, at the start or at the end, where headers and directories stand."""
    place = r.choice((0, r.randrange(len(data)), max(0, len(data) - 100 + r.randrange(90))))
    value = struct.pack("<q", r.choice(NUMBERS))[: r.choice((4, 8))]
    return data[:place] + value + data[place + len(value) :]


def headed(data: bytes, r: random.Random) -> bytes:
    """Another list of tensors at the start of a safetensors file."""
    size = struct.unpack("<Q", data[:8])[0]
    entries = json.loads(data[8 : 8 + size])
    for name in r.sample(sorted(entries), 2):
        field = r.choice(("dtype", "shape", "data_offsets"))
        value = {
            "dtype": r.choice(("F99", "I64", "F8_E5M2", "BOOL", 3)),
            "shape": [r.choice(NUMBERS) for _ in range(r.randrange(3))],
            "data_offsets": [r.choice(NUMBERS), r.choice(NUMBERS)],
        }
        entries[name] = r.choice(([], None, {**entries[name], field: value[field]})) if r.random() < 0.9 else "x"
    text = json.dumps(entries).encode()
    return struct.pack("<Q", r.choice((len(text), len(text), r.choice(NUMBERS) % 2**63))) + text + data[8 + size :]


def archived(data: bytes, r: random.Random) -> bytes:
    """An archive of torch.save with parts renamed, packed, lost, doubled, blown up, or with another pickle."""
    out = BytesIO()
    packing = r.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(BytesIO(data)) as old, zipfile.ZipFile(out, "w", packing) as new:
        for name in old.namelist():
            part, chance = old.read(name), r.random()
            if name.endswith("data.pkl") and chance < 0.7:
                part = pickled(part, r)
            elif chance < 0.05:
                part = bytes(r.choice((0, 10, 10**7)))
            if r.random() > 0.03:
                new.writestr(name if r.random() > 0.03 else name[::-1], part)
    return out.getvalue()


def pickled(data: bytes, r: random.Random) -> bytes:
    """A pickle with other names, numbers or operations."""
    places = list(pickletools.genops(data))
    code, argument, place = r.choice(places)
    if code.name == "GLOBAL":
        name = r.choice(
            (b"argparse\nNamespace", b"os\nsystem", b"builtins\nbytearray", b"torch\nTensor", b"posix\nsystem", b"a\nb")
        )
        old = str(argument).replace(" ", "\n").encode()
        return data.replace(b"c" + old + b"\n", b"c" + name + b"\n", 1)
    if isinstance(argument, int) and r.random() < 0.8:
        end = next((p for _, _, p in places if p is not None and place is not None and p > place), len(data))
        return data[:place] + b"\x8a\x08" + struct.pack("<q", r.choice(NUMBERS)) + data[end:]
    assert place is not None
    return data[:place] + r.choice((b"R", b"b", b"}", b"N", b"0", b"2", b"(", b"\x81", r.randbytes(1))) + data[place + 1 :]


def mutant(number: int, states: dict[str, State]) -> tuple[str, str, bytes]:
    """Role, ending and bytes of a case."""
    r = random.Random(number)
    role, form = r.choice(("var", "var", "vae")), r.choice(("pth", "legacy.pth", "safetensors"))
    content: Any = states[role]
    changed = r.random() < 0.5 and form != "safetensors"
    if changed:
        content = reshaped(content, r)
    out = BytesIO()
    if form == "safetensors":
        data = save(content)
    else:
        torch.save(content, out, _use_new_zipfile_serialization=form == "pth")
        data = out.getvalue()
    if changed and r.random() < 0.8:
        return role, form, data
    ways = [flipped, spliced, numbers, *{"pth": [archived, archived], "safetensors": [headed, headed]}.get(form, [])]
    return role, form, r.choice(ways)(data, r)


def check(numbers: range, states: dict[str, State], folder: Path) -> dict[str, int]:
    """Build a model of every case; counts of what came of it."""
    seen = {"loaded": 0, "refused": 0}
    random_state, safe = torch.get_rng_state(), torch.serialization.get_safe_globals()
    for number in numbers:
        role, form, data = mutant(number, states)
        path = folder / f"x.{form}"
        path.write_bytes(data)
        start = time.process_time()
        try:
            build_var(path) if role == "var" else build_vqvae(path, SIDES)
            seen["loaded"] += 1
        except UserError as error:
            assert str(error).isprintable() and len(str(error)) < 700, f"case {number}: {error}"
            assert str(path) in str(error) and "weights_only" not in str(error), f"case {number}: {error}"
            seen["refused"] += 1
        except Exception as error:
            raise AssertionError(f"case {number}: {type(error).__name__}: {error}") from error
        assert time.process_time() - start < SECONDS, f"case {number} took too long"
        path.unlink()
        assert list(folder.iterdir()) == [], f"case {number} wrote {list(folder.iterdir())}"
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.serialization.get_safe_globals() == safe
    return seen


def test_a_hundred_damaged_checkpoints(states: dict[str, State], tmp_path: Path) -> None:
    seen = check(range(100), states, tmp_path)
    assert seen["loaded"] > 5 and seen["refused"] > 50


@pytest.mark.long
@pytest.mark.parametrize("part", range(10))
def test_thousands_of_damaged_checkpoints(states: dict[str, State], tmp_path: Path, part: int) -> None:
    seen = check(range(1000 * part + 100, 1000 * (part + 1)), states, tmp_path)
    assert seen["loaded"] > 50 and seen["refused"] > 500
