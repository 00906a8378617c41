"""Measures the effect of the SDVAR guide's own formulas on verification, beside the right ones, on the embedded pair.

    python -m benchmarks.guide_formulas --seeds 2

Variants of the target's verify pass: `codes as rows` feeds the embedded codes of stage k as the rows of stage k (the guide's
`_build_combined_query`); `offset first_l` cuts the logits of a stage out of a pass first_l rows too late (its
`_split_logits_by_stage`); `both` is what the guide does. Measured in one merged pass over the baseline's own codes (share of
its tokens that the target samples again, TV to the right distribution, mean -log p of its tokens) and in whole decodes with
`exact`, `correct`, γ=2, where the right formulas give the baseline's tokens.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding.api import decode_images, make_noise
from sdvar_exp.decoding.decoder import Decoder, Proposal
from sdvar_exp.decoding.noise import Stream
from sdvar_exp.decoding.sampling import gumbel_argmax
from sdvar_exp.decoding.session import ModelSession
from sdvar_exp.models.pair import Pair, load_pair
from sdvar_exp.models.var import VAR
from sdvar_exp.registry import choose


class GuideSession(ModelSession):
    """A session of the target with the guide's formulas. codes: tokens of all stages known so far."""

    codes_as_rows = offset = False
    codes: Sequence[torch.Tensor] = ()
    embedding: Callable[[torch.Tensor], torch.Tensor]

    def _embed(self, first: int, stop: int, f_hats: Sequence[torch.Tensor], rows: slice) -> torch.Tensor:
        x = super()._embed(first, stop, f_hats, rows)
        if not self.codes_as_rows:
            return x
        copies, start = (rows.stop - rows.start) // self.batch, self.pyramid.offsets[first]
        parts = []
        for k in range(first, stop):
            own = x[:, self.pyramid.offsets[k] - start : self.pyramid.offsets[k + 1] - start]
            known = 0 < k < len(self.codes)
            parts.append(self.model.stage_rows(k, self.embedding(self.codes[k]), k + 1).repeat(copies, 1, 1) if known else own)
        return torch.cat(parts, dim=1)

    def logits(self, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        parts = super().logits(*args, **kwargs)
        if not self.offset:
            return parts
        flat, first_l = torch.cat(parts, dim=1), self.pyramid.lengths[0]
        late = torch.cat((flat[:, first_l:], flat[:, -first_l:]), dim=1)  # the last rows of a pass have nothing behind them
        return list(late.split([p.shape[1] for p in parts], dim=1))


class GuideDecoder(Decoder):
    """A decoder whose target session is a `GuideSession`; `variant` is set before it is used."""

    variant: dict[str, bool]

    def _session(self, role: str, schedule: Sequence[float], model: VAR) -> ModelSession:
        if role == "draft":
            return super()._session(role, schedule, model)
        session = GuideSession(self.pair.target, self.quantize.next_input, self.labels_B, schedule)
        session.embedding = self.quantize.embedding
        for name, value in self.variant.items():
            setattr(session, name, value)
        return session

    def verify(self, proposal: Proposal, extra: bool = False) -> list[torch.Tensor]:
        self.target.codes = [*self.tokens, *proposal.tokens]  # type: ignore[attr-defined]
        return super().verify(proposal, extra)


VARIANTS: dict[str, dict[str, bool]] = {
    "right": {},
    "codes as rows": {"codes_as_rows": True},
    "offset first_l": {"offset": True},
    "both": {"codes_as_rows": True, "offset": True},
}
SEQUENTIAL = Cell(choose("strategy", "sequential"))
EXACT = Cell(
    choose("strategy", "parallel_v1"),
    mask=choose("mask", "block_causal"),
    acceptance=choose("acceptance", "exact"),
    gamma=choose("gamma", "fixed", value=2),
)


def run(pair: Pair, cell: Cell, unit: Unit, variant: dict[str, bool]) -> Decoder:
    d = GuideDecoder(pair, cell, [unit], make_noise(pair, [unit]))
    d.variant = variant
    cell.strategy.entry.function(cell.strategy.params, d)
    return d


def one_pass(base: Decoder, variant: dict[str, bool]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of stages ≥ 1 in one merged pass over the baseline's codes: tokens sampled, p, -log p of the baseline's tokens."""
    d = GuideDecoder(base.pair, base.cell, [*base.noise.units], base.noise)
    d.variant = variant
    d.target.codes = base.tokens  # type: ignore[attr-defined]
    parts = d.target.logits(base.f_hats, d.stages, want=0)[1:]
    tokens = [gumbel_argmax(x, base.noise.gumbel(Stream.target, k)) for k, x in enumerate(parts, 1)]
    p = torch.cat(parts, dim=1).softmax(dim=-1)
    said = p.gather(-1, torch.cat(base.tokens[1:], dim=1)[..., None])[..., 0].clamp_min(1e-30)
    return torch.cat(tokens, dim=1), p, -said.log()


@torch.inference_mode()
def measure(pair: Pair, units: Sequence[Unit]) -> dict[str, np.ndarray]:
    """Of each variant, means over the units: the columns of `table`."""
    rows: dict[str, list[list[float]]] = {name: [] for name in VARIANTS}
    for unit in units:
        base = run(pair, SEQUENTIAL, unit, {})
        want = torch.cat(base.tokens[1:], dim=1)
        image = decode_images(pair, base.f_hats[-1])
        _, p_right, _ = one_pass(base, {})
        for name, variant in VARIANTS.items():
            tokens, p, nats = one_pass(base, variant)
            tv = (p - p_right).abs().sum(dim=-1) / 2
            d = run(pair, EXACT, unit, variant)
            equal = torch.cat([a == b for a, b in zip(d.tokens, base.tokens, strict=True)], dim=1)
            rows[name].append(
                [
                    float((tokens == want).double().mean()),
                    float(tv.mean()),
                    float(nats.mean()),
                    float(equal.double().mean()),
                    float((decode_images(pair, d.f_hats[-1]) - image).abs().mean()),
                    float(d.target.calls),
                ]
            )
    return {name: np.mean(values, axis=0) for name, values in rows.items()}


def table(means: dict[str, np.ndarray]) -> list[str]:
    """As Markdown, one line per variant."""
    head = ("verify pass", "sampled again", "TV", "-log p, nats", "tokens equal", "pixel difference", "target calls")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, m in means.items():
        lines.append(f"| {name} | {m[0]:.3f} | {m[1]:.3f} | {m[2]:.2f} | {m[3]:.3f} | {m[4]:.3f} | {m[5]:.1f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2, help="seeds of each of the ten labels (default: 2)")
    asked = parser.parse_args()
    units = [Unit(label, seed) for seed in range(asked.seeds) for label in range(10)]
    sys.stdout.write("\n".join([*table(measure(load_pair("embedded"), units)), f"n = {len(units)} images", ""]))


if __name__ == "__main__":
    main()
