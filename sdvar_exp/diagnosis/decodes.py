"""Checks of weights and classes, and of whole decodes: f̂, rollbacks, exactness, a target that is its own draft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding.api import make_noise
from sdvar_exp.decoding.decoder import Decoder
from sdvar_exp.decoding.evidence import Judged, Proposal
from sdvar_exp.decoding.noise import Stream
from sdvar_exp.decoding.options import Loop
from sdvar_exp.decoding.sampling import NEAR_TIE, margin
from sdvar_exp.decoding.session import Forward, ModelSession
from sdvar_exp.decoding.speculate import speculate
from sdvar_exp.diagnosis.passes import compare_rows
from sdvar_exp.diagnosis.reference import Subject, plain_f_hats
from sdvar_exp.diagnosis.result import Off, Wrong, bound, first_off, largest
from sdvar_exp.models.pair import Pair
from sdvar_exp.registry import choose


def weights(s: Subject, role: str) -> str:
    """Every weight and buffer is a number, all lie on one device, and there is a null class."""
    module, count = getattr(s.pair, role), 0
    if role != "vae" and module.class_emb.num_embeddings != s.pair.num_classes + 1:
        raise Wrong(
            f"{role}: class_emb.weight has {module.class_emb.num_embeddings} rows, {s.pair.num_classes} classes and "
            f"the null class need {s.pair.num_classes + 1}"
        )
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and name.rsplit(".", 1)[-1] != "attn_bias_for_masking" and not tensor.isfinite().all():
            bad = int((~tensor.isfinite()).sum())
            raise Wrong(f"{role}: {bad} of {tensor.numel()} values of {name} are NaN or infinite; the file is damaged")
        if tensor.device != s.pair.target.device:
            raise Wrong(f"{role}: {name} lies on {tensor.device}, the target on {s.pair.target.device}")
        count += tensor.numel()
    return f"{count:,} values, all finite"


def classes(s: Subject, role: str) -> str:
    """Rows of stage 0 for other labels, and for the null class as a label: each half carries its own class."""
    known = s.of(role).rows[0]
    other = replace(s, labels_B=(s.labels_B + 1) % s.pair.num_classes, known={})
    null = replace(s, labels_B=torch.full_like(s.labels_B, s.pair.num_classes), known={})
    for subject in (other, null):
        session, seen = subject.session(role)
        session.logits(s.f_hats, 1, want=0)
        compare_rows(subject, role, seen[-1])
    apart = largest(other.of(role).rows[0], known)
    if s.pair.num_classes > 1 and apart <= bound(known, s.limit):
        raise Wrong(f"{role}, stage 0, input rows are the same for other labels: class_emb.weight has equal rows")
    return f"{s.pair.num_classes} classes and the null class; labels move rows by {apart:.2g}"


# --- decodes -------------------------------------------------------------------------------------------------------------


def cell_of(rule: str, gamma: int, controller: str = "fixed", **params: object) -> Cell:
    """A cell of the loop, guided at every stage."""
    chosen = choose("gamma", "fixed", value=gamma) if controller == "fixed" else choose("gamma", controller)
    return Cell(
        choose("strategy", "dynamic_gamma"),
        choose("cfg_schedule", "constant"),
        choose("mask", "block_causal"),
        choose("acceptance", rule, **params),
        chosen,
    )


@dataclass
class Watch:
    """See `Observer`: keeps forwards, and checks the state after every round."""

    subject: Subject
    forwards: list[tuple[str, Forward]] = field(default_factory=list)
    kept: list[torch.Tensor] = field(default_factory=list)
    all_passed: bool = True
    shares: list[tuple[int, float]] = field(default_factory=list)

    def forward(self, role: str, session: ModelSession, forward: Forward) -> None:
        self.forwards.append((role, forward))

    def round(self, decoder: Decoder, proposal: Proposal, verdicts: Sequence[Judged]) -> None:
        offsets, n = decoder.pyramid.offsets, decoder.committed
        for role in ("draft", "target"):
            session = decoder.sessions.get(role)
            if session is not None and session.cache.length > offsets[n]:
                raise Wrong(
                    f"{role}, KV cache after round {len(decoder.rounds) - 1}: {session.cache.length} rows, the {n} "
                    f"committed stages have {offsets[n]}; a dropped stage was not rolled back"
                )
        if "target" in decoder.sessions and decoder.target.cache.length < offsets[n]:
            raise Wrong(
                f"target, KV cache after round {len(decoder.rounds) - 1}: {decoder.target.cache.length} rows, the {n} "
                f"committed stages have {offsets[n]}"
            )
        for k, (was, now) in enumerate(zip(self.kept, decoder.f_hats, strict=False)):
            if not torch.equal(was, now):
                raise Wrong(
                    f"f̂ after stage {k} changed in round {len(decoder.rounds) - 1}, largest difference "
                    f"{largest(was, now):.3g}: it was committed before and is updated in place"
                )
        self.kept += [f.clone() for f in decoder.f_hats[len(self.kept) :]]
        self.shares += [(v.view.stage, float(v.verdict.accepted_Bl.double().mean())) for v in verdicts]
        self.all_passed &= all(v.passed for v in verdicts)


def run(s: Subject, cell: Cell, pair: Pair | None = None, watch: Watch | None = None) -> Decoder:
    """Decode the first stages of two images by the loop."""
    pair = pair or s.pair
    units = [Unit(int(label), s.seed) for label in s.labels_B.tolist()]
    d = Decoder(pair, cell, units, make_noise(pair, units), observer=watch)
    speculate(d, Loop(), until=s.stages)
    if d.committed != s.stages:
        raise Wrong(f"{d.committed} stages were committed instead of {s.stages}")
    return d


def sequential(s: Subject) -> Decoder:
    """The target alone, stage by stage; made once."""
    if s.baseline is not None:
        return s.baseline
    cell = replace(cell_of("exact", 1), strategy=choose("strategy", "sequential"))
    units = [Unit(int(label), s.seed) for label in s.labels_B.tolist()]
    d = Decoder(s.pair, cell, units, make_noise(s.pair, units))
    for _ in range(s.stages):
        d.sample_alone("target")
    s.baseline = d
    return d


def state(s: Subject) -> str:
    """Everything accepted in rounds of γ: f̂ is the sum of the committed codes, and every forward was fed from it."""
    watch = Watch(s)
    d = run(s, cell_of("always", s.gamma), watch=watch)
    check_f_hats(s, d)
    committed = replace(s, tokens=list(d.tokens), known={})
    vars(committed).pop("f_hats", None)
    worst = max(compare_rows(committed, role, forward) for role, forward in watch.forwards)
    return (
        f"f̂ of {s.stages} stages and the rows of {len(watch.forwards)} forwards follow from the committed codes, largest "
        f"difference {worst:.1g}"
    )


def check_f_hats(s: Subject, d: Decoder) -> None:
    """f̂ after each stage against the codes, and no two share memory."""
    plain = plain_f_hats(s.pair.vae.quantize, d.tokens)
    off, _ = first_off(((k, got, want) for k, (got, want) in enumerate(zip(d.f_hats, plain, strict=True))), s.limit)
    places = [f.data_ptr() for f in d.f_hats]
    shared = next((k for k, place in enumerate(places) if place in places[:k]), None)
    if off is not None or shared is not None:
        k = off.stage if off is not None else shared
        said = f"{off}" if off is not None else "right so far"
        alias = (
            ""
            if shared is None
            else (f"; it shares memory with f̂ after stage {places.index(places[shared])}: f̂ is updated in place")
        )
        raise Wrong(f"f̂ after stage {k} against the sum of the committed codes: {said}{alias}")


def rejects(s: Subject) -> str:
    """Everything failed: one stage per round, caches rolled back, earlier f̂ untouched, the target's own tokens."""
    watch = Watch(s)
    d = run(s, cell_of("never", s.gamma), watch=watch)
    check_f_hats(s, d)
    if len(d.rounds) != s.stages:
        raise Wrong(f"{len(d.rounds)} rounds for {s.stages} stages with every proposal failed")
    same_tokens(s, d, "with every proposal failed")
    return f"{s.stages} rounds, caches rolled back after each, tokens of the sequential target"


def exact(s: Subject) -> str:
    """`exact` with several γ and a controller commits the sequential target's tokens."""
    near = 0
    cells = {f"γ={g}": cell_of("exact", g) for g in sorted({min(2, s.stages), s.gamma, s.stages})}
    cells["aimd"] = cell_of("exact", 0, "aimd")
    for name, cell in cells.items():
        near += same_tokens(s, run(s, cell), f"under exact, {name}")
    rows = sum(s.pair.pyramid.lengths[: s.stages]) * len(s.labels_B)
    return f"{rows} tokens equal the sequential target's with {', '.join(cells)}" + (f"; {near} near-ties" if near else "")


def same_tokens(s: Subject, d: Decoder, when: str) -> int:
    """Compare with the sequential target; the images that differ by a near-tie alone (never in float64)."""
    base, near = sequential(s), 0
    for k, (got, want) in enumerate(zip(d.tokens, base.tokens, strict=True)):
        if torch.equal(got, want):
            continue
        gap = margin(base.sampled[k], base.noise.gumbel(Stream.target, k), base.cell.sampling)
        wrong = got != want
        if s.pair.target.dtype != torch.float64 and bool((gap[wrong] < NEAR_TIE).all()):
            return near + int(wrong.any(dim=1).sum())
        raise Wrong(
            f"stage {k}, tokens {when}: {int(wrong.sum())} of {wrong.numel()} are not the sequential target's, the "
            f"first at position {int(wrong.any(dim=0).nonzero()[0])}; least margin {float(gap[wrong].min()):.3g}"
        )
    return near


def accepts_itself(s: Subject) -> str:
    """The target as its own draft: every stage passes under exact, rejection and kl, in ⌈n/γ⌉ calls."""
    pair = Pair(s.pair.vae, s.pair.target, s.pair.target, s.pair.name, s.pair.hashes)
    for rule in ("exact", "rejection", "kl"):
        watch = Watch(s)
        d = run(s, cell_of(rule, s.gamma), pair, watch)
        least, stage = min((share, k) for k, share in watch.shares)
        if not watch.all_passed and not (rule != "kl" and _ties(s, d, least, stage)):
            raise Wrong(
                f"stage {stage}, tokens that the target drafts for itself: {rule} accepts {least:.3f} of them; merged "
                "and single passes give different logits, or draft and target do not share their noise"
            )
    return f"every stage passes under exact, rejection and kl; {-(-s.stages // s.gamma)} calls"


def _ties(s: Subject, d: Decoder, share: float, stage: int) -> bool:
    """Whether one token of a stage may have gone the other way by rounding alone."""
    missing = round((1 - share) * s.pair.pyramid.lengths[stage] * len(s.labels_B))
    return s.pair.target.dtype != torch.float64 and missing <= 1


def image(s: Subject) -> str:
    """The VQVAE's decoder gives numbers from the f̂ that codes give."""
    f_hat = s.f_hats[-1]
    out = s.pair.vae.decode(f_hat[:1].to(next(s.pair.vae.parameters()).dtype))
    if not out.isfinite().all():
        raise Wrong(f"vae, the decoded image of random codes: {Off(s.stages - 1, 0.0, 0.0, out, out)}")
    return f"{out.shape[-2]}×{out.shape[-1]} pixels, all finite"
