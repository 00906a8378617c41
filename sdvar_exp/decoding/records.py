"""Records of a decode: integer counts and per-stage outcomes; rates are derived in the report. No torch at import."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sdvar_exp.pyramid import Pyramid

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Round:
    """One draft-verify-commit round, of the whole batch.

    first: first proposed stage. proposed: stages drafted (a bonus stage is not one). committed: stages committed.
    passed: leading stages that passed in every image. rows: target rows fed per guidance half. stage_passed: verdict of
    each judged stage in every image. accepted_share: share of accepted tokens of each judged stage. reason: why this γ.
    gamma: γ as decided and cut to the room left; one more than `proposed` where skip_last leaves a stage to the target.
    """

    index: int
    first: int
    proposed: int
    committed: int
    passed: int
    rows: int
    stage_passed: tuple[bool, ...]
    accepted_share: tuple[float, ...]
    reason: str = ""
    gamma: int = 0


@dataclass(frozen=True)
class StageOutcome:
    """One committed stage. Tuples have one value per image; None where the stage was not judged or not recorded.

    source: who made it. `target` (sampled by the target), `target_draft` (by the target, guided by the draft),
    `target_unguided` (by the target's conditional half), `target_exit` (by its first blocks), `draft` (committed unverified),
    `verified`, `skipped` (by nobody). acceptance: share of tokens that the rule accepts. match: share of draft tokens equal to
    the target's sample. one_minus_tv: β_k = 1-TV(p, q) on processed distributions. kl: KL(p‖q) in nats before top-k/top-p.
    entropy: H(p) in nats, processed. Means over tokens. tries: attempts that the residual of a whole stage took, 0 where it
    passed; None for rules that make none. variant: which of the stage's candidates passed, 0 the draft's own sample; None for
    an image where none did, and where there was one alone.
    """

    stage: int
    source: str
    passed: tuple[bool, ...] | None = None
    acceptance: tuple[float, ...] | None = None
    match: tuple[float, ...] | None = None
    one_minus_tv: tuple[float, ...] | None = None
    kl: tuple[float, ...] | None = None
    entropy: tuple[float, ...] | None = None
    tries: tuple[int, ...] | None = None
    variant: tuple[int | None, ...] | None = None


@dataclass
class Counts:
    """Integers counted during one decode. Rows are per image and guidance half: rows × halves fed.

    target_calls, target_rows: of the target. A forward of its first blocks (a stage `e`) is a call as well; its rows count as
    the share of the blocks that they pass, rounded up to whole rows over the decode.
    target_calls_alone: None for an image where a near-tie decides.
    draft_calls, draft_rows: of the draft and of whoever proposes in its place (the target itself counts as target).
    proposer_depth: what a row of a proposer costs, as a share of the target's depth (None where the draft proposes).
    """

    target_calls: int
    draft_calls: int
    target_rows: int
    draft_rows: int
    target_rows_alone: int
    draft_rows_alone: int
    verify_calls: int
    committed_by_verify: int
    wasted_tokens: int
    forced_commits: int
    kv_bytes: int
    replaced_tokens: tuple[int, ...]
    target_calls_alone: tuple[int | None, ...] | None
    proposer_depth: float | None


@dataclass(frozen=True)
class Pass:
    """One forward of a model: rows of the stages first … stop-1, for `halves` guidance halves.

    role: target, draft, proposer, or exit (the target's first blocks).
    left_out: stages that the model's cache lacks for good; their rows were neither fed nor seen. branches: stage of each
    further copy of a stage in the pass, which sees the stages before and itself.
    """

    role: str
    first: int
    stop: int
    halves: int
    left_out: tuple[int, ...] = ()
    branches: tuple[int, ...] = ()

    @property
    def stages(self) -> tuple[int, ...]:
        """The stages that were fed, one that was fed in several copies as often."""
        return (*(k for k in range(self.first, self.stop) if k not in self.left_out), *self.branches)

    def rows(self, pyramid: Pyramid) -> int:
        """Rows fed per guidance half."""
        return sum(pyramid.lengths[k] for k in self.stages)

    def keys(self, pyramid: Pyramid, stage: int) -> int:
        """Rows that a row of a stage sees: all up to its stage's last that are in the cache."""
        return pyramid.offsets[stage + 1] - sum(pyramid.lengths[k] for k in self.left_out if k <= stage)


@dataclass(frozen=True)
class Decoded:
    """Result of one decode of B units.

    tokens: per stage (B, L_k) int64, `SKIPPED` where nobody made it. f_hat: (B, C_vae, side, side). margins: (B, L), distance
    of each token that the target sampled from being another one (+inf where the target sampled none), None unless recorded.
    proposed: per stage the draft's tokens (B, L_k) in the round that committed it, None where none were judged; empty unless
    recorded. near_tie_stages: how many stages of each image, of those that the target sampled or judged, rounding may decide
    otherwise; None unless recorded.
    """

    tokens: tuple[torch.Tensor, ...]
    f_hat: torch.Tensor
    counts: Counts
    stages: tuple[StageOutcome, ...]
    rounds: tuple[Round, ...]
    margins: torch.Tensor | None = field(default=None, repr=False)
    passes: tuple[Pass, ...] = ()
    proposed: tuple[torch.Tensor | None, ...] = field(default=(), repr=False)
    near_tie_stages: tuple[int, ...] | None = None
