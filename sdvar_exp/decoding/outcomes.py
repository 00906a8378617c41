"""From a finished decode to counts and per-stage outcomes. Runs after the clock."""

from __future__ import annotations

import torch

from sdvar_exp.decoding import gamma as controllers
from sdvar_exp.decoding.decoder import Decoder
from sdvar_exp.decoding.guarantees import batch_free, by_round
from sdvar_exp.decoding.noise import Stream
from sdvar_exp.decoding.records import Counts, Pass, Round, StageOutcome
from sdvar_exp.decoding.sampling import margin, near_tie
from sdvar_exp.decoding.session import ModelSession


def counts(d: Decoder) -> Counts:
    """All integer counts of the batch."""
    of = dict[str, list[ModelSession]]()
    for role, counted in roles_of(d).items():
        of.setdefault(counted, []).append(d.sessions[role])
    targets, exits, drafts = of.get("target", []), of.get("exit", []), [*of.get("draft", []), *of.get("proposer", [])]
    calls = sum(s.calls for s in (*targets, *exits))
    replaced = torch.zeros(len(d.labels_B), dtype=torch.int64, device=d.labels_B.device)
    for k, tokens in d.drafted.items():
        replaced += (tokens != d.tokens[k]).sum(dim=1)
    halves = [2 if any(d.weights[k:]) else 1 for k in range(d.stages)]
    alone = sum(n * h for n, h in zip(d.pyramid.lengths, halves, strict=True))
    return Counts(
        target_calls=calls,
        draft_calls=sum(s.calls for s in drafts),
        target_rows=sum(s.rows for s in targets) - sum(-s.rows * s.model.depth // d.pair.target.depth for s in exits),
        draft_rows=sum(s.rows for s in drafts),
        target_rows_alone=alone,
        draft_rows_alone=alone,
        verify_calls=d.verify_calls,
        committed_by_verify=d.committed_by_verify,
        wasted_tokens=d.wasted_tokens,
        forced_commits=d.forced_commits,
        kv_bytes=sum(s.cache.nbytes for s in d.sessions.values() if not s.shares),
        replaced_tokens=tuple(replaced.tolist()),
        target_calls_alone=calls_alone(d, calls),
        proposer_depth=None
        if d.proposer is None
        else d.proposer.entry.meta.get("share", lambda *_: None)(d.proposer.params, d.pair),
    )


def passes(d: Decoder) -> tuple[Pass, ...]:
    """Every forward of the decode, the target's first, then its first blocks', then the draft's, each in order."""
    roles, order = roles_of(d), ("target", "exit", "draft", "proposer")
    return tuple(Pass(roles[r], *one) for r in order if r in roles for one in d.sessions[r].passes)


def roles_of(d: Decoder) -> dict[str, str]:
    """The sessions of a decode, and as what each counts: a proposer that is the target itself as the target."""
    whole = {r for r, s in d.sessions.items() if r == "proposer" and s.model is d.pair.target}
    return {r: "target" if r in whole else r for r in d.sessions}


def calls_alone(d: Decoder, calls: int) -> tuple[int | None, ...] | None:
    """Target calls that each image would have needed alone, replayed from its verdicts.

    None for an image with a near-tie, which alone may fall the other way. None for all where the verdicts of an image depend
    on its batch-mates, where stages are committed without one, where γ was decided by margins (rounding may lengthen a
    round), where proposals depend on the rounds, and for rounds that are not those of `speculate`.
    """
    batch = len(d.labels_B)
    if batch == 1 or not d.rounds:
        return (calls,) * batch
    until = d.rounds[-1].first + d.rounds[-1].committed
    if (
        len(d.loops) != 1
        or d.loops[0].bonus
        or d.loops[0].skip_last
        or d.loops[0].candidates
        or any(k not in d.judged for k in range(until))
    ):
        return None
    if not batch_free(d.cell) or by_round(d.cell) or d.reads_margins or calls != len(d.rounds):
        return None
    close = near_ties(d)[:, :until].any(dim=1).tolist()
    return tuple(None if close[image] else _replay(d, image, until) for image in range(batch))


def _replay(d: Decoder, image: int, until: int) -> int:
    """Rounds of one image alone, given its verdict on every stage; assumes neither bonus nor skip_last."""
    assert d.cell.gamma is not None
    stage, history = 0, list[Round]()
    while stage < until:
        context = controllers.GammaContext(stage, until, d.pyramid, tuple(history))
        gamma, reason = controllers.next_gamma(d.cell.gamma, context)
        verdicts = [d.judged[k].verdict for k in range(stage, stage + gamma)]
        passes = [bool(v.passed_B[image]) for v in verdicts]
        passed = next((i for i, ok in enumerate(passes) if not ok), gamma)
        committed = min(passed + 1, gamma) if gamma else 1
        seen = verdicts[: min(passed + 1, gamma)]
        share = tuple(float(v.accepted_Bl[image].double().mean()) for v in seen)
        judged = tuple(passes[: len(seen)])
        history.append(Round(len(history), stage, gamma, committed, passed, 0, judged, share, reason, gamma))
        stage += committed
    return len(history)


def outcomes(d: Decoder, record: bool) -> tuple[StageOutcome, ...]:
    """One outcome per committed stage; distances only if `record`."""
    return tuple(_outcome(d, k, record) for k in range(d.stages))


def _outcome(d: Decoder, stage: int, record: bool) -> StageOutcome:
    judged = d.judged.get(stage)
    if judged is None:
        return StageOutcome(stage, d.sources.get(stage, "target" if stage in d.sampled else "draft"))
    if not record:
        return StageOutcome(stage, "verified")
    view, verdict = judged.view, judged.verdict

    def mean(x_Bl: torch.Tensor) -> tuple[float, ...]:
        return tuple(x_Bl.double().mean(dim=1).tolist())

    return StageOutcome(
        stage,
        "verified",
        tuple(bool(x) for x in verdict.passed_B.tolist()),
        mean(verdict.accepted_Bl),
        mean(view.draft_tokens_Bl == view.target_tokens_Bl),
        mean(1 - view.tv_Bl),
        mean(view.kl_Bl),
        mean(view.entropy_Bl),
        None if verdict.tries_B is None else tuple(verdict.tries_B.tolist()),
        None if stage not in d.variants else tuple(None if v < 0 else v for v in d.variants[stage].tolist()),
    )


def near_ties(d: Decoder) -> torch.Tensor:
    """Whether rounding may decide a stage that the target sampled or judged otherwise, (B, S) bool.

    So it is where a token drawn, or a threshold of the rule or of top-k or top-p, lies within `near_tie` of another outcome.
    """
    out = torch.zeros(len(d.labels_B), d.stages, dtype=torch.bool, device=d.labels_B.device)
    for k in range(d.stages):
        if k in d.sampled:
            edge = margin(d.sampled[k], d.noise.gumbel(Stream.target, k), d.cell.sampling).amin(dim=1)
            out[:, k] = edge < near_tie(edge.dtype)
        elif k in d.judged and (margin_B := d.judged[k].verdict.margin_B) is not None:
            out[:, k] = margin_B() < near_tie(d.judged[k].view.p.dtype)
    return out


def margins(d: Decoder) -> torch.Tensor:
    """Distance of each token that the target sampled alone from being another one, (B, L); +inf elsewhere."""
    parts = []
    for k, n in enumerate(d.pyramid.lengths):
        if k in d.sampled:
            parts.append(margin(d.sampled[k], d.noise.gumbel(Stream.target, k), d.cell.sampling).double())
        else:
            parts.append(torch.full((len(d.labels_B), n), torch.inf, dtype=torch.float64, device=d.labels_B.device))
    return torch.cat(parts, dim=1)
