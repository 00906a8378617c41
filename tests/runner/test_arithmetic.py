"""A study goes on only under the float arithmetic that it was begun with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from sdvar_exp.errors import UserError
from sdvar_exp.plan import Plan
from sdvar_exp.store import load_tables
from sdvar_exp.store.provenance import arithmetic
from tests.runner.conftest import CELLS

B = torch.backends


@contextmanager
def attribute(place: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(place, name)
    setattr(place, name, value)
    yield
    setattr(place, name, before)


@contextmanager
def precision(value: str) -> Iterator[None]:
    torch.set_float32_matmul_precision(value)
    yield
    torch.set_float32_matmul_precision("highest")


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, value)
        yield


@contextmanager
def flushing() -> Iterator[None]:
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


@contextmanager
def no_onednn() -> Iterator[None]:
    with torch.backends.mkldnn.flags(enabled=False):
        yield


ON_CPU: dict[str, Callable[[], Any]] = {
    "matmul_precision highest → medium": lambda: precision("medium"),
    "onednn_matmul ieee → bf16": lambda: attribute(B.mkldnn.matmul, "fp32_precision", "bf16"),
    "onednn_conv ieee → tf32": lambda: attribute(B.mkldnn.conv, "fp32_precision", "tf32"),
    "onednn True → False": no_onednn,
    "flush_denormal False → True": flushing,
    "ONEDNN_DEFAULT_FPMATH_MODE none → BF16": lambda: variable("ONEDNN_DEFAULT_FPMATH_MODE", "BF16"),
    "ONEDNN_MAX_CPU_ISA none → AVX2": lambda: variable("ONEDNN_MAX_CPU_ISA", "AVX2"),
    "ATEN_CPU_CAPABILITY none → default": lambda: variable("ATEN_CPU_CAPABILITY", "default"),
}
ON_CUDA: dict[str, Callable[[], Any]] = {
    "tf32_matmul": lambda: attribute(B.cuda.matmul, "fp32_precision", "tf32"),
    "tf32_cudnn": lambda: attribute(B.cudnn.conv, "fp32_precision", "ieee"),
    "reduced_fp16_sums": lambda: attribute(B.cuda.matmul, "allow_fp16_reduced_precision_reduction", False),
    "reduced_bf16_sums": lambda: attribute(B.cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
    "cudnn_benchmark": lambda: attribute(B.cudnn, "benchmark", True),
    "attention": lambda: torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    "NVIDIA_TF32_OVERRIDE": lambda: variable("NVIDIA_TF32_OVERRIDE", "1"),
}


@pytest.mark.parametrize("said", ON_CPU)
def test_another_arithmetic_is_refused(said: str, plan: Callable[..., Plan], run: Callable[..., tuple[int, str]]) -> None:
    few = {"sequential": CELLS["sequential"]}
    assert run(plan(few, labels=(0,), seeds=(0,)))[0] == 0
    with ON_CPU[said](), pytest.raises(UserError) as refused:
        run(plan(few, labels=(0,), seeds=(0, 1)))
    assert f"arithmetic.{said}" in str(refused.value)
    assert run(plan(few, labels=(0,), seeds=(0, 1)))[0] == 0, "with its own it goes on"


def test_rows_of_another_arithmetic_are_tagged_where_they_are_allowed(
    plan: Callable[..., Plan], run: Callable[..., tuple[int, str]]
) -> None:
    few = {"sequential": CELLS["sequential"]}
    run(plan(few, labels=(0,), seeds=(0,)))
    with precision("high"):
        asked = plan(few, labels=(0,), seeds=(0, 1), allow_mixed=True)
        assert run(asked)[0] == 0
    assert len(set(load_tables(asked.folder).samples["fingerprint"])) == 2


@pytest.mark.parametrize("name", ON_CUDA)
def test_switches_of_cuda_are_seen(name: str) -> None:
    """They can be set without a GPU."""
    before = arithmetic("cuda")
    with ON_CUDA[name]():
        changed = arithmetic("cuda")
    assert name in [key for key in {**before, **changed} if before.get(key) != changed.get(key)]
    assert arithmetic("cuda") == before


def test_switches_that_contradict_each_other_are_named(plan: Callable[..., Plan], run: Callable[..., tuple[int, str]]) -> None:
    """PyTorch raises where somebody asks for a precision that was set in two ways."""
    with attribute(B.mkldnn.matmul, "fp32_precision", "bf16"), attribute(B.cuda.matmul, "fp32_precision", "tf32"):
        assert arithmetic("cpu")["matmul_precision"] == "mixed"
        assert run(plan({"sequential": CELLS["sequential"]}, labels=(0,), seeds=(0,)))[0] == 0
