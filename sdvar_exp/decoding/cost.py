"""Costs of a decode: the time of a forward from its shape, fitted to measurements or derived from a hardware profile.

A pass feeds rows of some stages for `halves` guidance halves of B images. Its time is modelled as

    T = launch + row · N + context · Σ_k N_k · keys_k + run · (stages - 1)

with N = B · halves · rows, and for each stage k in the pass N_k its share and keys_k the rows that it sees: o_{k+1}, less
those of stages that were left out of the cache; a stage that is fed in several copies counts as often (one fixed cost per
forward, linear layers in proportion to the rows fed,
attention in proportion to rows × keys, and one more attention call per block for every further stage in a merged pass:
`masks.spans`). A decode is the sum over its passes, plus `stage` per stage in a pass for input rows, sampling and f̂, plus
what each model costs once. From a hardware profile the same numbers follow by the roofline (Williams et al., CACM 2009):
the greater of FLOPs ÷ rate and bytes ÷ bandwidth, plus launches; docs/cost-model.md lists what is assumed. NumPy and SciPy
only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sdvar_exp.decoding.records import Pass
from sdvar_exp.pyramid import Pyramid


@dataclass(frozen=True)
class ModelCost:
    """Milliseconds: `launch` per forward, `row` per row fed, `context` per row and key, `run` per further stage."""

    launch: float
    row: float
    context: float
    run: float = 0.0

    def ms(self, pyramid: Pyramid, one: Pass, batch: int) -> float:
        """Predicted milliseconds of one forward."""
        return float(features(pyramid, one, batch) @ np.array([self.launch, self.row, self.context, self.run]))

    def first_blocks(self, share: float, head: float = 0.0) -> ModelCost:
        """Cost of the first `share` of the model's blocks with its head; head: the head's share of all products."""
        blocks = ModelCost(*(share * x for x in (self.launch, self.row, self.context, self.run)))
        return replace(blocks, row=blocks.row + (1 - share) * head * self.row)


def context(pyramid: Pyramid, one: Pass) -> int:
    """Rows × keys of one batch row and half: every stage of the pass sees all rows up to its own last."""
    return sum(pyramid.lengths[k] * one.keys(pyramid, k) for k in one.stages)


def features(pyramid: Pyramid, one: Pass, batch: int) -> np.ndarray:
    """(1, N, Σ N_k · keys_k, stages - 1) of a pass, (4,)."""
    rows = batch * one.halves
    return np.array([1.0, rows * one.rows(pyramid), rows * context(pyramid, one), len(one.stages) - 1])


def fit(pyramid: Pyramid, measured: Sequence[tuple[Pass, int, float]]) -> ModelCost:
    """Non-negative least squares on relative errors of (pass, batch, milliseconds)."""
    x = np.array([features(pyramid, one, batch) for one, batch, _ in measured])
    y = np.array([ms for *_, ms in measured])
    scale = np.maximum(x.max(axis=0), 1.0)
    from scipy.optimize import nnls  # half a second to import, for those who fit costs

    solution, _ = nnls(x / scale / y[:, None], np.ones(len(y)))
    return ModelCost(*(solution / scale))


@dataclass(frozen=True)
class DecodeCost:
    """Milliseconds of a decode's parts.

    models: forwards, by role. stage: per stage in a forward, by role, for input rows, sampling and f̂. once: per decode
    and model that it uses, by role, for modulations and cache. attempt: per token of each attempt at the residual of a stage.
    """

    models: Mapping[str, ModelCost]
    stage: Mapping[str, float] = field(default_factory=dict)
    once: Mapping[str, float] = field(default_factory=dict)
    attempt: float = 0.0

    def with_proposer(self, share: float, head: float = 0.0) -> DecodeCost:
        """The same with a proposer made of the first `share` of the target's blocks (1: a copy of it); see `first_blocks`."""
        return self._with_first_blocks("proposer", share, head)

    def with_exit(self, share: float, head: float = 0.0) -> DecodeCost:
        """The same for decodes whose stages `e` are made by the first `share` of the target's blocks; see `first_blocks`."""
        return self._with_first_blocks("exit", share, head)

    def _with_first_blocks(self, role: str, share: float, head: float) -> DecodeCost:
        models = {**self.models, role: self.models["target"].first_blocks(share, head)}
        stage = {**self.stage, role: self.stage.get("target", 0.0)}
        once = {**self.once, role: share * self.once.get("target", 0.0)}
        return replace(self, models=models, stage=stage, once=once)

    def ms(self, pyramid: Pyramid, passes: Sequence[Pass], batch: int = 1, tries: Mapping[int, float] | None = None) -> float:
        """Predicted milliseconds of a decode without its VAE decode.

        tries: attempts at the residual of a stage, of all images together, by stage.
        """
        forwards = sum(self.models[p.role].ms(pyramid, p, batch) for p in passes)
        stages = sum(self.stage.get(p.role, 0.0) * len(p.stages) for p in passes)
        attempts = self.attempt * sum(n * pyramid.lengths[k] for k, n in (tries or {}).items())
        return forwards + stages + attempts + sum(self.once.get(role, 0.0) for role in {p.role for p in passes})


@dataclass(frozen=True)
class Hardware:
    """A device: TFLOP/s and GB/s as they are reached in practice, µs per kernel launch, bytes of a number."""

    name: str
    tflops: float
    bandwidth: float
    launch_us: float
    bytes: int = 2


# Dense bfloat16 peak and memory bandwidth of the vendor's data sheets, times 0.6 and 0.8 for what large models reach.
HARDWARE = {
    h.name: h
    for h in (
        Hardware("A100-80G", 0.6 * 312, 0.8 * 2039, 4.0),
        Hardware("H100-SXM", 0.6 * 989, 0.8 * 3350, 4.0),
        Hardware("H200-SXM", 0.6 * 989, 0.8 * 4800, 4.0),
        Hardware("RTX-4090", 0.6 * 165, 0.8 * 1008, 4.0),
    )
}
KERNELS_PER_BLOCK = 14  # four linear layers, attention, norms, modulations, residuals


def parameters(depth: int, width: int, vocab: int = 4096) -> int:
    """Weights that a forward reads: 12·C² per block and the head (modulations are computed once per decode)."""
    return depth * 12 * width * width + vocab * width


def roofline_ms(
    hardware: Hardware, depth: int, width: int, pyramid: Pyramid, one: Pass, batch: int = 1, vocab: int = 4096
) -> float:
    """Milliseconds of one forward of a VAR on a device: max(compute, memory) plus launches."""
    n = batch * one.halves * one.rows(pyramid)
    keys = one.keys(pyramid, one.stop - 1) + sum(pyramid.lengths[k] for k in one.branches)
    flops = 2 * n * parameters(depth, width, vocab) + 4 * depth * batch * one.halves * context(pyramid, one) * width
    cache = 2 * depth * batch * one.halves * keys * width
    moved = hardware.bytes * (parameters(depth, width, vocab) + cache + 16 * depth * n * width)
    busy = max(flops / (hardware.tflops * 1e12), moved / (hardware.bandwidth * 1e9))
    kernels = depth * (KERNELS_PER_BLOCK + len(one.stages) - 1)
    return 1e3 * busy + kernels * hardware.launch_us / 1e3


def roofline_decode_ms(
    hardware: Hardware, depths: Mapping[str, int], pyramid: Pyramid, passes: Sequence[Pass], batch: int = 1
) -> float:
    """Milliseconds of a decode by models of width 64·depth (`depths` by role), sampling and f̂ left out.

    A `proposer` or `exit` is so many first blocks of the target, of its width.
    """

    def width(role: str) -> int:
        return 64 * depths["target" if role in ("proposer", "exit") else role]

    return sum(roofline_ms(hardware, depths[p.role], width(p.role), pyramid, p, batch) for p in passes)
