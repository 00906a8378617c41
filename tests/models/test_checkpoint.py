"""Checkpoints: what is written is what is loaded; what is damaged, foreign or dangerous is refused in one line."""

from __future__ import annotations

import pickle
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sdvar_exp.cell import ModelSpec
from sdvar_exp.errors import UserError
from sdvar_exp.models.checkpoint import build_var, build_vqvae, sha256
from sdvar_exp.models.files import WEIGHTS, model_files
from sdvar_exp.models.pair import Pair, check_pair, load_pair, resolve_device
from sdvar_exp.models.var import VAR
from tests.support import golden_pair, golden_vae, golden_var

SIDES = (1, 2, 3, 4, 5)
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def var_state() -> State:
    return golden_var("tiny", "draft").state_dict()


@pytest.fixture(scope="module")
def vae_state() -> State:
    return golden_vae("tiny").state_dict()


def write(path: Path, state: Any) -> Path:
    if path.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def refused(path: Path, build: Any = build_var) -> str:
    """The one line that a user gets, without the file's place."""
    with pytest.raises(UserError) as caught:
        build(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message.replace(str(path), "FILE")


# --- what is good --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_round_trip(tmp_path: Path, var_state: State, vae_state: State, suffix: str) -> None:
    model = build_var(write(tmp_path / f"var{suffix}", var_state))
    vae = build_vqvae(write(tmp_path / f"vae{suffix}", vae_state), SIDES)
    for module, state in ((model, var_state), (vae, vae_state)):
        assert module.state_dict().keys() == state.keys()
        assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
    assert model.pyramid.patch_nums == vae.pyramid.patch_nums == SIDES
    assert (model.depth, model.width, model.heads, model.num_classes, model.vocab_size) == (2, 64, 2, 10, 64)
    with torch.inference_mode():
        labels, rows = torch.tensor([3]), torch.randn(1, 54, 8)
        ours = golden_var("tiny", "draft").teacher_logits(labels, rows)
        assert torch.equal(model.teacher_logits(labels, rows), ours)


def test_shared_modulation_is_recognised(tmp_path: Path) -> None:
    state = VAR((1, 2), 16, 4, 5, depth=2, width=128, heads=2, shared_aln=True).state_dict()
    model = build_var(write(tmp_path / "x.pth", state))
    assert (model.shared_aln, model.heads, model.width) == (True, 2, 128)
    plain = VAR((1, 2), 16, 4, 5, depth=1, width=128, heads=2, attn_l2_norm=False, mlp_ratio=2.5).state_dict()
    model = build_var(write(tmp_path / "y.pth", plain))
    assert model.heads == 2  # width / 64, as in all published ones
    assert model.blocks[0].ffn.fc1.out_features == 320


@pytest.mark.parametrize("nest", [("trainer", "var_wo_ddp"), ("model",), ("state_dict",)])
def test_weights_inside_a_trainers_file(tmp_path: Path, var_state: State, nest: tuple[str, ...]) -> None:
    content: Any = var_state
    for name in reversed(nest):
        content = {name: content, "epoch": 3, "note": "x"}
    model = build_var(write(tmp_path / "trainer.pth", content))
    assert torch.equal(model.head.weight, var_state["head.weight"])


def test_half_precision_files_are_read_into_float32(tmp_path: Path, var_state: State) -> None:
    halved = {k: v.half() if v.is_floating_point() else v for k, v in var_state.items()}
    model = build_var(write(tmp_path / "half.safetensors", halved))
    assert model.dtype == torch.float32
    assert torch.equal(model.head.weight, halved["head.weight"].float())


def test_buffers_that_are_derived_may_be_missing(tmp_path: Path, var_state: State) -> None:
    lean = {k: v for k, v in var_state.items() if not k.endswith(("attn_bias_for_masking", "zero_k_bias"))}
    model = build_var(write(tmp_path / "lean.safetensors", lean))
    assert all(torch.equal(v, var_state[k]) for k, v in model.state_dict().items())


def test_hash_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- what is not ---------------------------------------------------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.pth") == "checkpoint FILE does not exist"


def save_legacy(state: Any, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("form", [".safetensors", ".pth", "legacy.pth"])
def test_a_truncated_file_wherever_it_ends(tmp_path: Path, var_state: State, form: str) -> None:
    path = tmp_path / f"whole{form}"
    save_legacy(var_state, path) if form.startswith("legacy") else write(path, var_state)
    data, cut = path.read_bytes(), tmp_path / f"cut{form}"
    generator = random.Random(0)
    for size in [0, 1, 8, 100, len(data) // 2, len(data) - 1, *(generator.randrange(4000) for _ in range(12))]:
        cut.write_bytes(data[:size])
        assert refused(cut).startswith("checkpoint FILE cannot be read (truncated, or not a checkpoint of tensors): ")


@pytest.mark.parametrize("form", [".safetensors", ".pth", "legacy.pth"])
def test_a_damaged_file_loads_or_is_refused_but_never_breaks(tmp_path: Path, var_state: State, form: str) -> None:
    small = {k: v for k, v in var_state.items() if not k.startswith("blocks.1")}
    path = tmp_path / f"whole{form}"
    save_legacy(small, path) if form.startswith("legacy") else write(path, small)
    data, damaged = path.read_bytes(), tmp_path / f"damaged{form}"
    generator = random.Random(1)
    for _ in range(40):
        changed = bytearray(data)
        for _ in range(3):
            changed[generator.choice([generator.randrange(4000), -1 - generator.randrange(4000)])] = generator.randrange(256)
        damaged.write_bytes(changed)
        try:
            build_var(damaged)
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(("name", "content"), [("text", b"hello"), ("page", b"<!DOCTYPE html><html>" * 50)])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_other_files(tmp_path: Path, name: str, content: bytes, suffix: str) -> None:
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(content)
    assert refused(path).startswith("checkpoint FILE cannot be read (truncated, or not a checkpoint of tensors): ")


class Runs:
    """Unpickled carelessly, this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "ran")


@pytest.mark.parametrize("torch_format", [True, False])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, torch_format: bool) -> None:
    trap, path = tmp_path / "trap", tmp_path / "bad.pth"
    content = {"head.weight": torch.zeros(2, 2), "x": Runs(trap)}
    torch.save(content, path) if torch_format else path.write_bytes(pickle.dumps(content, protocol=2))
    assert refused(path).startswith("checkpoint FILE cannot be read (truncated, or not a checkpoint of tensors): ")
    assert not trap.exists()
    with path.open("rb") as f:  # negative control: it does run where it is allowed to
        torch.load(f, weights_only=False) if torch_format else pickle.load(f)
    assert trap.read_text() == "ran"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (3, "checkpoint FILE holds a int, not names and tensors"),
        ([torch.zeros(2)], "checkpoint FILE holds a list, not names and tensors"),
        ({"epoch": 3}, "checkpoint FILE holds no tensors under trainer, var_wo_ddp, model, state_dict"),
        ({"model": {"epoch": 3}}, "checkpoint FILE holds no tensors under trainer, var_wo_ddp, model, state_dict"),
        ({"x": torch.zeros(2)}, "checkpoint FILE: head.weight is missing, so this is no such checkpoint"),
    ],
)
def test_files_of_other_things(tmp_path: Path, content: Any, message: str) -> None:
    assert refused(write(tmp_path / "x.pth", content)) == message


def test_the_vqvae_where_the_transformer_should_be(tmp_path: Path, var_state: State, vae_state: State) -> None:
    missing = "checkpoint FILE: {} is missing, so this is no such checkpoint"
    assert refused(write(tmp_path / "vae.safetensors", vae_state)) == missing.format("head.weight")
    path = write(tmp_path / "var.safetensors", var_state)
    assert refused(path, lambda p: build_vqvae(p, SIDES)) == missing.format("quantize.embedding.weight")


def edited(state: State, **changes: torch.Tensor | None) -> State:
    """Keys with `__` for dots; None removes."""
    out = dict(state)
    for key, value in changes.items():
        name = key.replace("__", ".")
        if value is None:
            del out[name]
        else:
            out[name] = value
    return out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head__bias": None}, "checkpoint FILE does not fit: 1 missing (head.bias)"),
        (
            {"head__bias": None, "blocks__1__attn__proj__bias": None, "pos_start": None, "pos_1LC": None},
            "checkpoint FILE does not fit: 4 missing (blocks.1.attn.proj.bias, head.bias, pos_1LC, …)",
        ),
        ({"lora__a": torch.zeros(1)}, "checkpoint FILE does not fit: 1 unexpected (lora.a)"),
        ({"head__bias": torch.zeros(63)}, "checkpoint FILE does not fit: head.bias is (63,) in the file, (64,) in the model"),
        (
            {"head__bias": None, "lora__a": torch.zeros(1), "pos_start": torch.zeros(1, 2, 64)},
            "checkpoint FILE does not fit: 1 missing (head.bias); 1 unexpected (lora.a); "
            "pos_start is (1, 2, 64) in the file, (1, 1, 64) in the model",
        ),
        (
            {"blocks__7__attn__q_bias": torch.zeros(64)},
            "checkpoint FILE does not fit: 12 missing (blocks.2.ada_lin.1.bias, blocks.2.ada_lin.1.weight, "
            "blocks.2.attn.mat_qkv.weight, …); 1 unexpected (blocks.7.attn.q_bias)",
        ),
        ({"head__weight": torch.zeros(64)}, "checkpoint FILE: head.weight has shape (64,), it should have 2 dimensions"),
        ({"lvl_1L": None}, "checkpoint FILE: lvl_1L is missing, so patch_nums cannot be inferred"),
        ({"lvl_1L": torch.tensor([0, 1, 1])}, "checkpoint FILE: lvl_1L has stages of [1, 2] tokens, which are not squares"),
        (
            {"lvl_1L": torch.tensor([0, 2, 2, 2, 2])},
            "checkpoint FILE: lvl_1L does not count the stages up from 0, so patch_nums cannot be inferred",
        ),
        (
            {"lvl_1L": torch.tensor([-1, -1])},
            "checkpoint FILE: lvl_1L does not count the stages up from 0, so patch_nums cannot be inferred",
        ),
        ({"blocks__0__attn__scale_mul_1H11": torch.zeros(1, 3, 1, 1)}, "checkpoint FILE: 3 heads do not divide a width of 64"),
        (
            {"head__bias": torch.full((64,), torch.nan)},
            "checkpoint FILE is damaged: head.bias holds values that are not finite",
        ),
    ],
)
def test_what_differs_is_said(tmp_path: Path, var_state: State, changes: dict[str, Any], message: str) -> None:
    assert refused(write(tmp_path / "x.safetensors", edited(var_state, **changes))) == message


def test_a_vqvae_of_other_shapes(tmp_path: Path, vae_state: State) -> None:
    def build(path: Path) -> Any:
        return build_vqvae(path, SIDES)

    narrow = edited(vae_state, encoder__conv_in__weight=vae_state["encoder.conv_in.weight"][:16])
    assert refused(write(tmp_path / "a.safetensors", narrow), build).startswith("checkpoint FILE fits no VQVAE: ")
    flat = edited(vae_state, encoder__conv_in__weight=vae_state["encoder.conv_in.weight"].flatten())
    assert refused(write(tmp_path / "b.safetensors", flat), build) == (
        "checkpoint FILE: encoder.conv_in.weight has shape (864,), it should have 4 dimensions"
    )
    lacking = edited(vae_state, decoder__conv_out__bias=None)
    assert refused(write(tmp_path / "c.safetensors", lacking), build) == (
        "checkpoint FILE does not fit: 1 missing (decoder.conv_out.bias)"
    )


def test_any_entry_of_another_shape_is_refused(tmp_path: Path, var_state: State) -> None:
    derived = ("zero_k_bias", "attn_bias_for_masking")
    for name, tensor in var_state.items():
        if name.endswith(derived) or not tensor.is_floating_point():
            continue
        for other in (tensor[None], torch.zeros(()), tensor.flatten()[:0]):
            with pytest.raises(UserError):
                build_var(write(tmp_path / "x.pth", {**var_state, name: other}))


# --- pairs ---------------------------------------------------------------------------------------------------------------


def spec(folder: Path, **names: str) -> ModelSpec:
    return ModelSpec(
        "mine",
        **{"vae": "vae.pth", "draft": "draft.pth", "target": "target.pth", **names},
        folder=str(folder),
        published="the moon",
    )


def test_a_pair_from_files(tmp_path: Path) -> None:
    pair = golden_pair("tiny")
    for role in ("vae", "draft", "target"):
        write(tmp_path / f"{role}.pth", getattr(pair, role).state_dict())
    loaded = load_pair(spec(tmp_path), dtype="float64")
    assert (loaded.name, loaded.num_classes, loaded.pyramid.patch_nums) == ("mine", 10, SIDES)
    assert loaded.hashes == {r: sha256(tmp_path / f"{r}.pth") for r in ("vae", "draft", "target")}
    assert (loaded.draft.dtype, loaded.draft.width, loaded.target.width) == (torch.float64, 64, 96)
    with pytest.raises(UserError, match="dtype must be one of float32, float64, bfloat16, float16, got 'int8'"):
        load_pair(spec(tmp_path), dtype="int8")
    write(tmp_path / "short.pth", edited(pair.draft.state_dict(), head__bias=None))
    with pytest.raises(UserError, match=re.escape("does not fit: 1 missing (head.bias)")):
        load_pair(spec(tmp_path, draft="short.pth"))
    with pytest.raises(UserError, match=r"lost.pth is not in .* \(set model.folder or .*\); it is published at the moon"):
        load_pair(spec(tmp_path, target="lost.pth"))
    with pytest.raises(UserError, match=r"model=mine names no vae checkpoint; set model.vae=FILE"):
        load_pair(spec(tmp_path, vae=""))


def test_files_that_a_shipped_pair_is_not_given_are_its_own(tmp_path: Path) -> None:
    """`model.draft=FILE` alone puts another draft into the embedded pair."""
    given = shutil.copy(WEIGHTS / "draft_plain.safetensors", tmp_path / "mine.safetensors")
    found = model_files(ModelSpec("embedded", draft=str(given)))
    assert found == {"vae": WEIGHTS / "vae.safetensors", "draft": Path(given), "target": WEIGHTS / "target.safetensors"}
    with pytest.raises(UserError, match=r"lost\.safetensors does not exist|lost\.safetensors is not in"):
        model_files(ModelSpec("embedded", draft=str(tmp_path / "lost.safetensors")))


def test_the_folder_of_checkpoints_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDVAR_CHECKPOINTS", str(tmp_path / "here"))
    with pytest.raises(UserError, match=re.escape(f"vae.pth is not in {tmp_path / 'here'}")):
        load_pair(ModelSpec("mine", "vae.pth", "draft.pth", "target.pth"))


def model(**changes: Any) -> VAR:
    return VAR(
        **{
            "patch_nums": SIDES,
            "vocab_size": 64,
            "code_width": 8,
            "num_classes": 10,
            "depth": 1,
            "width": 64,
            "heads": 1,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_nums": (1, 2, 4)}, "draft and target have different patch_nums: (1, 2, 4) and (1, 2, 3, 4, 5)"),
        ({"vocab_size": 32}, "draft and target have different codebook sizes: 32 and 64"),
        ({"num_classes": 9}, "draft and target have different numbers of classes: 9 and 10"),
        ({"code_width": 4}, "draft and target have different code widths: 4 and 8"),
    ],
)
def test_models_that_do_not_belong_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Pair(golden_vae("tiny"), model(**changes), model(), "x", {})
    assert str(caught.value) == message + "; use a pair trained on one VQVAE"


def test_a_vqvae_that_does_not_belong_to_the_models() -> None:
    vae = golden_vae("tiny")
    other = model(vocab_size=32)
    with pytest.raises(UserError) as caught:
        check_pair(vae, other, other)
    assert str(caught.value) == "the VQVAE has 64 codes of width 8, the models were trained on 32 of width 8"
    short = model(patch_nums=(1, 2, 4))
    with pytest.raises(UserError, match=re.escape("the VQVAE has patch_nums (1, 2, 3, 4, 5), the models have (1, 2, 4)")):
        check_pair(vae, short, short)


@pytest.mark.parametrize(
    ("name", "message"),
    [("gpu", "device must be auto, cpu, cuda or cuda:N, got 'gpu'"), ("meta", "device must be auto, cpu, cuda or cuda:N")],
)
def test_devices_that_do_not_exist(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_device(name)
    assert resolve_device("cpu").type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_where_there_is_none() -> None:
    with pytest.raises(UserError, match="device=cuda: PyTorch sees no CUDA GPU here; use device=cpu or device=auto"):
        resolve_device("cuda")
    assert resolve_device("auto").type == "cpu"
