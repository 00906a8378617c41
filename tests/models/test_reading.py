"""Checkpoints as people have them: trainers' files, wrappers' names, foreign objects, and files that are something else."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import logging
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sdvar_exp.cell import ModelSpec
from sdvar_exp.errors import UserError
from sdvar_exp.models.checkpoint import build_var, build_vqvae
from sdvar_exp.models.files import LEGACY
from sdvar_exp.models.pair import load_pair
from sdvar_exp.models.var import VAR
from sdvar_exp.models.vqvae import VQVAE

SIDES = (1, 2)
State = dict[str, torch.Tensor]


def make_var(seed: int = 0) -> VAR:
    """A model of about 20 kB."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VAR(SIDES, 16, 4, 3, depth=1, width=16, heads=2)


@pytest.fixture(scope="module")
def var_state() -> State:
    return make_var().state_dict()


@pytest.fixture(scope="module")
def vae_state() -> State:
    return VQVAE(SIDES, 16, 4, 32, (1, 2), 1).state_dict()


def saved(path: Path, content: Any, **how: Any) -> Path:
    torch.save(content, path, **how)
    return path


def refused(path: Path, build: Any = build_var) -> str:
    with pytest.raises(UserError) as caught:
        build(path)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 600
    return message.replace(str(path), "FILE").replace(
        "checkpoint FILE cannot be read (truncated, or not a checkpoint of tensors): ", "unreadable: "
    )


# --- containers and names ------------------------------------------------------------------------------------------------


def trainer(var: State, vae: State) -> dict[str, Any]:
    """The layout in which VAR's own training script saves."""
    optimizer = {"state": {0: {"exp_avg": torch.ones(3), "step": torch.tensor(2.0)}}, "param_groups": [{"lr": 1e-4}]}
    inner = {"config": {"depth": 1}, "var_wo_ddp": var, "vae_local": vae, "var_opt": {"optimizer": optimizer}}
    return {"epoch": 7, "iter": 0, "args": {"bs": 8}, "trainer": inner}


def test_one_file_of_a_trainer_holds_transformer_and_vqvae(tmp_path: Path, var_state: State, vae_state: State) -> None:
    path = saved(tmp_path / "ar-ckpt-best.pth", trainer(var_state, vae_state))
    assert torch.equal(build_var(path).head.weight, var_state["head.weight"])
    assert torch.equal(build_vqvae(path, SIDES).decoder.conv_out.weight, vae_state["decoder.conv_out.weight"])


def test_a_whole_pair_from_one_trainers_file(tmp_path: Path, var_state: State, vae_state: State) -> None:
    path = saved(tmp_path / "all.pth", trainer(var_state, vae_state))
    pair = load_pair(ModelSpec("files", vae="all.pth", draft="all.pth", target="all.pth", folder=str(tmp_path)))
    assert pair.hashes["vae"] == pair.hashes["target"] and pair.num_classes == 3
    assert path.is_file()


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "model.", "net.var.", "ema_model."],
)
@pytest.mark.parametrize("nest", [None, "model", "ema"])
def test_names_behind_prefixes(tmp_path: Path, var_state: State, prefix: str, nest: str | None) -> None:
    content: Any = {prefix + name: tensor for name, tensor in var_state.items()}
    path = saved(tmp_path / "x.pth", content if nest is None else {nest: content})
    assert torch.equal(build_var(path).head.weight, var_state["head.weight"])


def test_wrappers_within_the_names(tmp_path: Path, var_state: State, vae_state: State) -> None:
    inside = {
        name.replace("blocks.0.", "blocks.0._orig_mod.").replace("head.", "head.module."): t for name, t in var_state.items()
    }
    assert torch.equal(build_var(saved(tmp_path / "x.pth", inside)).head.weight, var_state["head.weight"])
    both = {"var._orig_mod." + k: t for k, t in var_state.items()} | {"vae." + k: t for k, t in vae_state.items()}
    path = saved(tmp_path / "lightning.ckpt", {"state_dict": both | {"loss.weight": torch.ones(2)}, "global_step": 3})
    assert torch.equal(build_var(path).head.weight, var_state["head.weight"])
    assert torch.equal(build_vqvae(path, SIDES).quant_conv.bias, vae_state["quant_conv.bias"])
    twice = var_state | {"module.head.weight": var_state["head.weight"]}
    assert refused(saved(tmp_path / "y.pth", twice)) == (
        "checkpoint FILE holds head.weight twice: as head.weight and module.head.weight"
    )


@pytest.mark.parametrize("nest", ["state_dict", "model", "var", "weights"])
def test_other_tensors_beside_the_weights(tmp_path: Path, var_state: State, nest: str) -> None:
    beside = {
        "ema_decay": torch.tensor(0.999),
        "rng": torch.zeros(5, dtype=torch.uint8),
        "loss": [torch.ones(2)],
        3: torch.ones(1),
    }
    path = saved(tmp_path / "x.pth", {**beside, nest: var_state})
    assert torch.equal(build_var(path).head.weight, var_state["head.weight"])


def test_containers_that_are_lists_or_count_their_models(tmp_path: Path, var_state: State) -> None:
    averaged = {"module." + k: t for k, t in var_state.items()} | {"n_averaged": torch.tensor(3)}
    for content in ([var_state], (var_state, {"lr": 1}), {"models": [{"loss": 1}, var_state]}, {0: var_state}, averaged):
        assert torch.equal(build_var(saved(tmp_path / "x.pth", content)).head.weight, var_state["head.weight"])


def test_a_part_of_a_checkpoint(tmp_path: Path, var_state: State) -> None:
    part = dict(list(var_state.items())[: len(var_state) // 2])
    for name in ("model-00001-of-00002.safetensors", "pytorch_model-00001-of-00002.bin"):
        save_file(part, tmp_path / name)
        assert refused(tmp_path / name).endswith("; its name says part 1 of 2: join the parts into one safetensors file")


def test_of_several_sets_one_is_taken_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain, ema, other = (make_var(seed).state_dict() for seed in range(3))
    path = saved(tmp_path / "x.pth", {"ema": ema, "weights": other, "model": plain})
    with caplog.at_level(logging.WARNING):
        assert torch.equal(build_var(path).head.weight, plain["head.weight"])
    assert "taken is model, not weights, ema; to use another, save it alone" in caplog.text


def test_references_that_go_round(tmp_path: Path, var_state: State) -> None:
    loop: dict[str, Any] = {"epoch": 3}
    loop["model"] = {"state_dict": loop}
    assert refused(saved(tmp_path / "x.pth", loop)) == (
        "checkpoint FILE holds no tensors under trainer, var_wo_ddp, model, state_dict"
    )
    loop["weights"] = var_state
    assert build_var(saved(tmp_path / "y.pth", loop)).depth == 1


# --- foreign objects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_settings_beside_the_weights_are_left_out(tmp_path: Path, var_state: State, zipped: bool) -> None:
    args = argparse.Namespace(lr=1e-4, folder=Path("/data"), best=np.float64(0.5))
    path = saved(tmp_path / "x.pth", {"model": var_state, "args": args}, _use_new_zipfile_serialization=zipped)
    assert torch.equal(build_var(path).head.weight, var_state["head.weight"])
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


class Trainer:
    """An object of somebody's program."""


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("thing", [Trainer(), make_var(), np.zeros(3), torch.nn.ReLU(), bytearray(3)])
def test_other_objects_are_named(tmp_path: Path, var_state: State, thing: Any, zipped: bool) -> None:
    path = saved(tmp_path / "x.pth", {"model": var_state, "thing": thing}, _use_new_zipfile_serialization=zipped)
    message = refused(path)
    name = {np.ndarray: "_reconstruct", VAR: "sdvar_exp.models"}.get(type(thing), type(thing).__name__)
    assert message.startswith("unreadable: beside tensors it holds ") and name in message
    assert message.endswith("save the weights alone with torch.save(model.state_dict(), …)")


def test_protocols_of_pickle_that_cannot_be_read_safely(tmp_path: Path, var_state: State) -> None:
    message = "unreadable: it is pickled with protocol 4: save it with torch.save's own, pickle_protocol=2"
    assert refused(saved(tmp_path / "x.pth", var_state, pickle_protocol=4)) == message


# --- types ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_of_any_floating_type(tmp_path: Path, var_state: State, dtype: torch.dtype, suffix: str) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in var_state.items()}
    path = tmp_path / f"x.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    model = build_var(path)
    assert model.head.weight.dtype == torch.float32
    assert torch.equal(model.head.weight, state["head.weight"].float())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_weights_of_other_types_are_refused(tmp_path: Path, var_state: State, dtype: torch.dtype) -> None:
    path = saved(tmp_path / "x.pth", var_state | {"head.weight": var_state["head.weight"].to(dtype)})
    kind = str(dtype).removeprefix("torch.")
    assert refused(path) == (
        f"checkpoint FILE: head.weight is {kind}, weights are floating-point: save them in float32, bfloat16 or float16"
    )
    if dtype in (torch.bool, torch.complex64):
        stages = saved(tmp_path / "x.pth", var_state | {"lvl_1L": var_state["lvl_1L"].to(dtype)})
        assert f"lvl_1L is {kind}, which counts no stages" in refused(stages)


def test_tensors_without_values_of_their_own(tmp_path: Path, var_state: State) -> None:
    head = var_state["head.weight"]
    strange = {
        "without values": head.to("meta"),
        "in the layout torch.sparse_coo": head.to_sparse(),
        "is qint8": torch.quantize_per_tensor(head, 0.1, 0, torch.qint8),
    }
    for what, tensor in strange.items():
        assert what in refused(saved(tmp_path / "x.pth", var_state | {"head.weight": tensor}))
    stages = saved(tmp_path / "x.pth", var_state | {"lvl_1L": var_state["lvl_1L"].to("meta")})
    assert "lvl_1L is saved without values" in refused(stages)


# --- sizes ---------------------------------------------------------------------------------------------------------------


def header(entries: dict[str, Any], body: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


@pytest.mark.parametrize(
    "content",
    [
        header({"x": {"dtype": "F32", "shape": [10**13], "data_offsets": [0, 4 * 10**13]}}),
        header({"x": {"dtype": "F32", "shape": [10**13], "data_offsets": [0, 4]}}, b"1234"),
        header({}, length=38 * 10**12),
        header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"1234"),
        header({"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
        header({"x": []}),
    ],
)
def test_a_header_that_does_not_fit_its_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert refused(path).startswith("unreadable: ")


def test_views_that_repeat_their_values_ask_for_no_memory(tmp_path: Path, var_state: State) -> None:
    """A few bytes that claim 64 TB: shapes are compared before anything is made, and repeated bytes are counted."""
    huge = torch.zeros(1).expand(2**22, 2**22)
    assert "does not fit: " in refused(saved(tmp_path / "x.pth", var_state | {"head.weight": huge, "head.bias": huge[0]}))
    wide = torch.zeros(1).expand(10**6, 10**6)
    claims = {k: wide[: v.shape[0]] if k != "lvl_1L" and v.ndim == 2 else v for k, v in var_state.items()}
    assert "does not fit" in refused(saved(tmp_path / "y.pth", claims))
    big = VAR(SIDES, 16, 4, 3, depth=1, width=512, heads=2).state_dict()
    repeated = {k: torch.zeros(1).expand(v.shape) if v.is_floating_point() else v for k, v in big.items()}
    assert "save them with .contiguous()" in refused(saved(tmp_path / "z.pth", repeated))


def test_more_stages_and_parts_than_any_model(tmp_path: Path, var_state: State) -> None:
    long = torch.repeat_interleave(torch.arange(300), torch.arange(1, 301) ** 2)
    message = f"checkpoint FILE: lvl_1L has {len(long):,} positions, more than any pyramid"
    assert refused(saved(tmp_path / "x.pth", var_state | {"lvl_1L": long})) == message
    many = {f"blocks.{i}.x": torch.zeros(0) for i in range(300)}
    assert "300 parts like blocks" in refused(saved(tmp_path / "y.pth", var_state | many))


def test_an_old_file_that_asks_for_more_than_it_holds(tmp_path: Path, var_state: State) -> None:
    path = saved(tmp_path / "x.pth", {"head.weight": torch.zeros(1000)}, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert data.startswith(LEGACY)
    path.write_bytes(data.replace(b"M\xe8\x03", b"J\xff\xff\xff\x7f", 1))
    assert refused(path).startswith("unreadable: it asks for a tensor of 2,147,483,647 values")


def test_archives_that_unpack_to_much_more(tmp_path: Path, var_state: State) -> None:
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("x/data.pkl", pickle.dumps({}, 2))
        archive.writestr("x/data/0", bytes(50_000_000))
        archive.writestr("x/version", "3")
    message = refused(path)
    assert message.startswith("unreadable: its ") and message.endswith(" would unpack to 50,000,007: it is no checkpoint")


def test_a_checkpoint_whose_archive_was_packed_again(tmp_path: Path, var_state: State) -> None:
    source, path = saved(tmp_path / "x.pth", var_state), tmp_path / "y.pth"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert torch.equal(build_var(path).head.weight, var_state["head.weight"])


# --- other files ---------------------------------------------------------------------------------------------------------


def other_files() -> dict[str, tuple[bytes, str]]:
    plain, archive, array = pickle.dumps({"a": 1}, 4), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("weights/var.pth", b"x")
    np.save(array, np.zeros(3))
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 841800\n".encode()
    return {
        "pointer": (pointer, "it is a git-lfs pointer, a text in place of the weights: fetch them with `git lfs pull`"),
        "page": (b"\n<!DOCTYPE html><html>404</html>", "it is the text of a web page, not weights: download the file itself"),
        "text": (b"403 Forbidden\n", "it is a text, not weights"),
        "gzip": (gzip.compress(plain), "it is packed by gzip: unpack it first"),
        "zip": (archive.getvalue(), "it is a zip archive, but not of torch.save: unpack it and name the file in it"),
        "numpy": (array.getvalue(), "it is an array of NumPy: save the weights with torch.save or as safetensors"),
        "pickle": (plain, "it is a plain pickle, not made by torch.save: save the weights with torch.save or as safetensors"),
        "zeros": (bytes(100), "it is damaged or was cut off; copy or download it again"),
        "one byte": (b"\x80", "it is damaged or was cut off; copy or download it again"),
        "empty": (b"", "it is empty; copy or download it again"),
        "annex": (
            b"/annex/objects/SHA256E-s1--a.pth\n",
            "it is a git-annex pointer, a text in place of the weights: fetch them with `git annex get`",
        ),
        "index": (
            b'{"metadata": {"total_size": 8}, "weight_map": {"a": "x-00001-of-00002.safetensors"}}',
            "it is the index of a checkpoint in parts: join them into one safetensors file",
        ),
    }


@pytest.mark.parametrize("name", other_files())
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_files_of_other_kinds_are_known_by_content(tmp_path: Path, name: str, suffix: str) -> None:
    content, message = other_files()[name]
    path = tmp_path / f"{name}.{suffix}"
    path.write_bytes(content)
    assert refused(path) == "unreadable: " + message


def test_the_ending_of_a_name_does_not_decide(tmp_path: Path, var_state: State) -> None:
    torch.save(var_state, tmp_path / "x.safetensors")
    save_file(var_state, tmp_path / "y.pth")
    for name in ("x.safetensors", "y.pth"):
        assert torch.equal(build_var(tmp_path / name).head.weight, var_state["head.weight"])


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path, var_state: State) -> None:
    path = saved(tmp_path / "x.pth", var_state | {"\x1b[31mred\n" + "x" * 10_000: torch.zeros(1)})
    assert r"1 unexpected (\x1b[31mred\nxxx" in refused(path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"folder": "~nouser/x"}, "there is no home folder ~nouser, in ~nouser/x; write the whole path"),
        ({"target": "~nouser/x.pth"}, "there is no home folder ~nouser, in ~nouser/x.pth; write the whole path"),
        ({"target": "a" * 300 + ".pth"}, "cannot be opened: File name too long"),
        ({"target": "."}, "is a folder: name the file in it"),
        ({"target": "\x1b[1m"}, r"model=files: \x1b[1m is not in"),
        ({"target": "loop"}, "loop is a link that leads to no file: loop"),
        ({"target": "/dev/null"}, "/dev/null is no regular file"),
        ({}, "v.pth cannot be read (truncated, or not a checkpoint of tensors): it is empty; copy or download it again"),
    ],
)
def test_names_that_name_no_file(tmp_path: Path, names: dict[str, str], message: str) -> None:
    spec = {"vae": "v.pth", "draft": "d.pth", "target": "t.pth", "folder": str(tmp_path), **names}
    for role in ("v", "d", "t"):
        (tmp_path / f"{role}.pth").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError) as caught:
        load_pair(ModelSpec("files", **spec))
    assert message in str(caught.value) and str(caught.value).isprintable()


def test_loading_a_pair_loads_no_compiler() -> None:
    code = "import sys; from sdvar_exp.models.pair import load_pair; load_pair(); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_loading_leaves_the_program_as_it_was(tmp_path: Path, var_state: State) -> None:
    path = saved(tmp_path / "x.pth", var_state)
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        model = build_var(path)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    assert {t.dtype for t in model.state_dict().values()} == {torch.float32, torch.int64}
