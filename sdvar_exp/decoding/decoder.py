"""The state of one decode and its verbs: propose, verify, judge, commit.

Knows the committed stages, both models' sessions and the noise. Strategies are written in these verbs; what a verb needs of
a strategy's options is an argument. f̂ is never updated in place: `f_hats[k]` is f̂ after stage k, proposals carry their own
continuation.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Protocol

import torch

from sdvar_exp.cell import Cell, Noise, Unit
from sdvar_exp.decoding import gamma as controllers
from sdvar_exp.decoding.clock import Clock
from sdvar_exp.decoding.evidence import Judged, Proposal, StageView
from sdvar_exp.decoding.guidance import weights
from sdvar_exp.decoding.noise import NoiseBook, Stream
from sdvar_exp.decoding.options import Loop, Policy, Stale
from sdvar_exp.decoding.records import Round
from sdvar_exp.decoding.sampling import gumbel_argmax, process, sample_gap
from sdvar_exp.decoding.session import Forward, ModelSession
from sdvar_exp.errors import UserError
from sdvar_exp.models.pair import Pair
from sdvar_exp.models.quant import MultiScaleQuantizer
from sdvar_exp.models.var import VAR
from sdvar_exp.registry import Choice

POLICY = Policy()


def contribution(quantize: MultiScaleQuantizer, stage: int, tokens_Bl: torch.Tensor) -> torch.Tensor:
    """A stage's share of f̂. Not a method: a view that held its decoder would keep caches alive in a cycle."""
    return quantize.contribution(stage, quantize.code_map(stage, tokens_Bl))


class Observer(Protocol):
    """Whoever watches a decode: may look at everything and changes nothing. Nothing is called unwatched."""

    def forward(self, role: str, session: ModelSession, forward: Forward) -> None:
        """Called after each forward of the `draft`, the `target` or another `proposer`."""

    def round(self, decoder: Decoder, proposal: Proposal, verdicts: Sequence[Judged]) -> None:
        """Called when a round is over: committed, rolled back and logged as `decoder.rounds[-1]`."""


class Decoder:
    """One decode of B units in lockstep. Public names are the verbs that strategies use."""

    def __init__(
        self,
        pair: Pair,
        cell: Cell,
        units: Sequence[Unit],
        noise: NoiseBook,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.pair, self.cell, self.noise = pair, cell, noise
        self.pyramid = pair.pyramid
        self.stages = self.pyramid.stages
        self.quantize = pair.vae.quantize
        self.labels_B = torch.tensor([u.label for u in units], device=noise.device)
        self.weights = weights(cell.cfg_schedule, self.stages)
        self.guidance: dict[str, tuple[float, ...]] = {}  # of a model, where it is not the cell's
        self.both_until: dict[str, int] = {}  # where a model is fed both halves, if not as its guidance asks
        self.tokens: list[torch.Tensor] = []
        self.f_hats: list[torch.Tensor] = []
        self.rounds: list[Round] = []
        self.loops: list[Loop] = []  # options of every run of `speculate`, whose rounds can be replayed
        self.sessions: dict[str, ModelSession] = {}  # of the models used so far, by role
        self.judged: dict[int, Judged] = {}
        self.sampled: dict[int, torch.Tensor] = {}
        self.sources: dict[int, str] = {}  # of stages that were neither judged nor sampled by one model as it is
        self.drafted: dict[int, torch.Tensor] = {}
        self.variants: dict[int, torch.Tensor] = {}  # of stages with several candidates, which passed, (B,), -1 for none
        self.wasted_tokens = self.forced_commits = self.verify_calls = self.committed_by_verify = 0
        self._verified_rows = 0  # fed by the last verify, per guidance half
        self._clock, self._observer = clock, observer
        independent = cell.sampling.noise is Noise.independent
        self._stream = {"target": Stream.target, "draft": Stream.draft if independent else Stream.target}

    # --- state -------------------------------------------------------------------------------------------------------

    @property
    def committed(self) -> int:
        """Number of committed stages, n."""
        return len(self.tokens)

    @property
    def proposer(self) -> Choice | None:
        """The proposer, if it is not the draft and the strategy reads it."""
        found = self.cell.proposer if "proposer" in self.cell.reads else None
        return None if found is None or found.declares("usual") else found

    @property
    def drafts(self) -> bool:
        """Whether the draft proposes, be it fed with more than its own rows."""
        return self.proposer is None or bool(self.proposer.declares("draft"))

    @property
    def done(self) -> bool:
        return self.committed == self.stages

    @property
    def target(self) -> ModelSession:
        """The target's cache and counters."""
        return self.sessions.get("target") or self.session("target")

    @property
    def draft(self) -> ModelSession:
        """The draft's cache and counters."""
        return self.sessions.get("draft") or self.session("draft")

    def session(self, role: str, weights: Sequence[float] | None = None, model: VAR | None = None) -> ModelSession:
        """A model's cache and counters, made on first use, guided from now on with `weights` (default: its own).

        role: target, draft, or proposer or exit, whose `model` is given.
        """
        guidance = self.guidance.get(role, self.weights) if weights is None else weights
        if role not in self.sessions:
            self.sessions[role] = self._session(role, guidance, model or getattr(self.pair, role))
        self.sessions[role].use(guidance, self.both_until.get(role) if weights is None else None)
        return self.sessions[role]

    # --- verbs -------------------------------------------------------------------------------------------------------

    def sample_alone(self, role: str, mask: Choice | None = None) -> None:
        """Commit the next stage as sampled by one model; stages that its cache lacks are fed in the same forward."""
        k = self.committed
        with self.time("draft" if role == "draft" else "verify"):
            logits = self.session(role).logits(self.f_hats, k + 1, want=k, mask=mask)[0]
            tokens = self._sample(logits, role, k)
        if role == "target":
            self.sampled[k] = logits
        self._append(tokens)

    def leave_out(self, role: str, stages: Sequence[int]) -> None:
        """Never feed these stages' rows to a model: what it has not seen of them it sees in f̂ alone."""
        self.session(role).leave_out(stages)

    def next_gamma(self, until: int, largest: int, drafted: Proposal | None = None) -> tuple[int, str]:
        """γ of the next round and the controller's reason, given the margins of what was drafted in it so far."""
        if drafted is not None:  # waits for the device once for each stage
            drafted.margins += [self._margins(drafted, i) for i in range(len(drafted.margins), len(drafted))]
        margins = () if drafted is None else tuple(drafted.margins)
        context = controllers.GammaContext(self.committed, until, self.pyramid, tuple(self.rounds), margins)
        gamma, reason = controllers.next_gamma(self._declared("gamma", self.cell.gamma), context)
        return min(gamma, largest), reason

    @property
    def reads_margins(self) -> bool:
        """Whether the controller decides on γ while the round is drafted."""
        return self.cell.gamma is not None and bool(self.cell.gamma.entry.meta.get("reads_margins"))

    def propose(self, count: int, weights: Sequence[float] | None = None, behind: Proposal | None = None) -> Proposal:
        """The proposer's next `count` stages, guided with `weights` (default: the cell's).

        With `behind` they are added to that proposal, which is given back.
        """
        proposal, proposer = Proposal(self.committed) if behind is None else behind, self.proposer
        there = len(proposal)
        room = self.stages - proposal.first - there
        if not 0 <= count <= room:
            raise UserError(f"{self.cell.strategy.name} proposes {count} stages where {room} are left")
        if proposer is None or not count:
            self.draft_stages(proposal, count, weights)
        else:
            proposer.entry.function(proposer.params, self, proposal, count, weights)
        if not len(proposal) == len(proposal.logits) == there + count:
            raise UserError(f"proposer={proposer and proposer.name} proposed {len(proposal) - there} stages instead of {count}")
        return proposal

    def draft_stages(
        self,
        proposal: Proposal,
        count: int,
        weights: Sequence[float] | None = None,
        model: VAR | None = None,
        share_cache: bool = False,
    ) -> None:
        """Add `count` stages to a proposal, sampled one after another from a model (default: the draft).

        share_cache: the model is the target's first blocks and reads and writes the target's own cache.
        """
        role, first = "draft" if model is None else "proposer", proposal.first + len(proposal)
        if share_cache and not len(proposal):
            self.session(role, weights, model).share(self.session("target"))
        for k in range(first, first + count):
            self.extend(proposal, k)
            with self.time("draft"):
                logits = self.session(role, weights, model).logits(self.f_hats + proposal.f_hats, k + 1, want=k)[0]
                proposal.tokens.append(self._sample(logits, "draft", k))
                proposal.logits.append(logits)

    def sample_from_one_f_hat(self, proposal: Proposal, count: int, weights: Sequence[float] | None = None) -> None:
        """Add `count` stages to a proposal, sampled in one pass of the target, all rows built from the committed f̂."""
        first = proposal.first + len(proposal)
        with self.time("draft"):
            session = self.session("proposer", weights, self.pair.target)
            if not len(proposal):
                session.share(self.session("target"))
                session = self.session("proposer", weights)
            before = self.f_hats[-1] if self.f_hats else self.quantize.empty(len(self.labels_B))
            logits = session.logits([*self.f_hats, *[before] * (len(proposal) + count)], first + count, want=first)
            proposal.logits += logits
            proposal.tokens += [self._sample(x, "draft", first + i) for i, x in enumerate(logits)]

    def verify(self, proposal: Proposal, extra: bool = False) -> list[torch.Tensor]:
        """One target forward over the proposed stages (and the one behind them if `extra`): guided logits per stage."""
        stop = proposal.first + len(proposal) + int(extra)
        self.extend(proposal, stop - 1)
        self.verify_calls += 1
        with self.time("verify"):
            f_hats, target = self.f_hats + proposal.f_hats, self.session("target")
            branches = [(proposal.first + i + 1, x) for i, v in proposal.variants.items() for x in v.f_hats]
            self._verified_rows = target.count(target.stage, stop) + sum(self.pyramid.lengths[k] for k, _ in branches)
            out = target.logits(f_hats, stop, proposal.first, self.cell.mask, proposal.first, branches)
        more = iter(out[stop - proposal.first :])
        for v in proposal.variants.values():
            v.logits = [next(more) for _ in v.tokens]
        return out[: stop - proposal.first]

    def judge(self, proposal: Proposal, logits: Sequence[torch.Tensor], all_of_them: bool = False) -> list[Judged]:
        """Verdicts of the acceptance rule, stage by stage, up to the first failure (or on all)."""
        out = list[Judged]()
        for i in range(len(proposal)):
            out.append(self.judge_stage(proposal, i, logits[i]))
            if not out[-1].passed and not all_of_them:
                break
        return out

    @staticmethod
    def leading_passes(verdicts: Sequence[Judged]) -> int:
        """Number of stages that passed, in every image, before the first that did not."""
        return next((i for i, v in enumerate(verdicts) if not v.passed), len(verdicts))

    def commit(
        self,
        proposal: Proposal,
        verdicts: Sequence[Judged],
        count: int,
        extra_logits: torch.Tensor | None = None,
        policy: Policy = POLICY,
    ) -> None:
        """Commit the first `count` proposed stages as judged, then the target's sample of a bonus stage; roll back the rest."""
        replaced: int | None = None
        for i in range(count):
            k, judged = proposal.first + i, verdicts[i]
            tokens, kept = self._settled(judged, policy.repair)
            if not kept and replaced is None:
                replaced = k
            if replaced is None:
                self.extend(proposal, k + 1)
            self._append(tokens, proposal.f_hats[i] if replaced is None else None)
            self.judged[k] = judged
            self.drafted[k] = proposal.tokens[i]
        if extra_logits is not None:
            k = self.committed
            self.sampled[k] = extra_logits
            with self.time("accept"):
                tokens = self._sample(extra_logits, "target", k)
            self._append(tokens)
        self._roll_back(replaced, policy, None if proposal.swapped is None else proposal.first + proposal.swapped)

    def commit_drafts(self, proposal: Proposal, verdicts: Sequence[Judged], count: int, forced: bool) -> None:
        """Commit the first `count` proposed stages with the draft's own tokens (`redraft`); roll back the rest."""
        for i in range(count):
            k = proposal.first + i
            self.extend(proposal, k + 1)
            self._append(proposal.tokens[i], proposal.f_hats[i])
            self.judged[k] = verdicts[i]
            self.drafted[k] = proposal.tokens[i]
        self.forced_commits += int(forced)
        self._roll_back(None, POLICY)

    def close_round(
        self, proposal: Proposal, verdicts: Sequence[Judged], passed: int, gamma: int | None = None, reason: str = ""
    ) -> None:
        """Log the round, with the γ that was decided (default: the stages proposed), and what was wasted."""
        committed = self.committed - proposal.first
        dropped = range(self.committed, proposal.first + len(proposal))
        self.wasted_tokens += sum(self.pyramid.lengths[k] for k in dropped)
        self.committed_by_verify += committed
        wanted = self.cell.gamma is not None and self.cell.gamma.entry.meta.get("reads_share", False)
        share = tuple(float(v.verdict.accepted_Bl.double().mean()) for v in verdicts) if wanted else ()
        self.rounds.append(
            Round(
                len(self.rounds),
                proposal.first,
                len(proposal),
                committed,
                passed,
                self._verified_rows,
                tuple(v.passed for v in verdicts),
                share,
                reason,
                len(proposal) if gamma is None else gamma,
            )
        )
        if self._observer is not None:
            self._observer.round(self, proposal, verdicts)

    def commit_sampled(self, logits: torch.Tensor, source: str) -> None:
        """Commit the target's sample of the next stage. source: see `StageOutcome`."""
        k = self.committed
        self.sampled[k], self.sources[k] = logits, source
        with self.time("verify"):
            tokens = self._sample(logits, "target", k)
        self._append(tokens)

    def judge_stage(self, proposal: Proposal, i: int, logits: torch.Tensor) -> Judged:
        """The rule's verdict on the i-th proposed stage, given the target's logits of it."""
        rule, k, tokens = self._declared("acceptance", self.cell.acceptance), proposal.first + i, proposal.tokens[i]
        with self.time("accept"):
            view = StageView(
                k,
                tokens,
                proposal.logits[i],
                logits,
                self.cell.sampling,
                self.noise,
                partial(contribution, self.quantize, k),
                [*self.f_hats, *proposal.f_hats][k - 1] if k else self.quantize.empty(len(tokens)),
                self.quantize.embedding.weight,
            )
            verdict = rule.entry.function(rule.params, view)
            return Judged(view, verdict, bool(verdict.passed_B.all()))

    def _margins(self, proposal: Proposal, i: int) -> tuple[tuple[float, ...], ...]:
        """Gaps of the draft's tokens at the i-th proposed stage, by image."""
        g = self.draft_noise(proposal.first + i)
        return tuple(map(tuple, sample_gap(process(proposal.logits[i], self.cell.sampling), g).tolist()))

    def draft_noise(self, stage: int) -> torch.Tensor:
        """The Gumbel variables under which the draft samples a stage, (B, L_k, V)."""
        return self.noise.gumbel(self._stream["draft"], stage)

    def _declared(self, factor: str, choice: Choice | None) -> Choice:
        """The choice of a factor that a verb reads; `UserError` where the strategy does not declare that it does."""
        if choice is None:
            name = self.cell.strategy.name
            raise UserError(f"strategy={name} reads {factor} without saying so: register it with reads=(…, {factor!r})")
        return choice

    def _session(self, role: str, schedule: Sequence[float], model: VAR) -> ModelSession:
        session = ModelSession(model, self.quantize.next_input, self.labels_B, schedule)
        if self._observer is not None:
            session.observer = partial(self._observer.forward, role)
        return session

    def time(self, section: str) -> AbstractContextManager[None]:
        return self._clock(section) if self._clock else nullcontext()

    def _sample(self, logits: torch.Tensor, role: str, stage: int) -> torch.Tensor:
        return gumbel_argmax(process(logits, self.cell.sampling), self.noise.gumbel(self._stream[role], stage))

    def accumulate(self, stage: int, tokens_Bl: torch.Tensor, before: Sequence[torch.Tensor]) -> torch.Tensor:
        with self.time("fhat"):
            base = before[-1] if before else self.quantize.empty(len(tokens_Bl))
            return self.quantize.accumulate(stage, tokens_Bl, base)

    def extend(self, proposal: Proposal, stop: int) -> None:
        """Make f̂ after the proposed stages < stop."""
        for k in range(proposal.first + len(proposal.f_hats), stop):
            before = [*self.f_hats[: proposal.first], *proposal.f_hats]
            proposal.f_hats.append(self.accumulate(k, proposal.tokens[k - proposal.first], before))

    def _append(self, tokens: torch.Tensor, f_hat: torch.Tensor | None = None) -> None:
        self.f_hats.append(self.accumulate(self.committed, tokens, self.f_hats) if f_hat is None else f_hat)
        self.tokens.append(tokens)

    @staticmethod
    def _settled(judged: Judged, repair: bool) -> tuple[torch.Tensor, bool]:
        """Tokens to commit for a judged stage, and whether they are the draft's for certain."""
        draft, verdict = judged.view.draft_tokens_Bl, judged.verdict
        repaired = repair and not bool(verdict.accepted_Bl.all())
        if judged.passed and not repaired:
            return draft, True
        passing = torch.where(verdict.accepted_Bl, draft, judged.view.target_tokens_Bl) if repaired else draft
        return torch.where(verdict.passed_B[:, None], passing, verdict.corrected_Bl), False

    def _roll_back(self, replaced: int | None, policy: Policy, swapped: int | None = None) -> None:
        """Truncate both caches to the committed stages, and to before the stale rows where these are recomputed.

        replaced: first stage whose draft tokens may not be those committed. swapped: first stage whose tokens may not be those
        that the deeper ones were drafted from, though the target's rows are.
        """
        for role, session in self.sessions.items():
            own = role == "target"
            session.truncate(self.committed)
            if (policy.target_stale if own else policy.draft_stale) is Stale.recompute:
                for stage in (replaced, None if own else swapped):
                    if stage is not None:
                        session.truncate(stage + 1)
