"""The maker of each stage, as a text of one letter a stage, and the decode that follows it.

T  target, both guidance halves          t  target's conditional half, the draft as the other branch of guidance
D  draft                                 o  target's conditional half, unguided
V  draft and verify: `speculate`          e  target's first blocks with its head: an early exit
s  nobody: the last stages may be left out

Every fixed hand-off between two models is such a text. The name is that of the diffusion literature (OMS-DPM, arXiv
2306.08860; T-Stitch, arXiv 2402.14167).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import groupby
from typing import TYPE_CHECKING

from sdvar_exp.decoding.options import Loop
from sdvar_exp.decoding.speculate import speculate
from sdvar_exp.errors import require
from sdvar_exp.pyramid import SKIPPED
from sdvar_exp.registry import Choice

if TYPE_CHECKING:
    from sdvar_exp.decoding.decoder import Decoder

LETTERS = "TtoDVes"


class Fill(Enum):
    """Rows of the stages that the other model made: `recompute` feeds them in the next forward, `none` never."""

    none = "none"
    recompute = "recompute"


class GuidedBy(Enum):
    """Logits that guide the target at a stage `t`: the draft's conditional minus unconditional logits, or the draft's own."""

    draft_difference = "draft_difference"
    draft = "draft"


def spell(text: str) -> str:
    """One letter a stage, from letters and run lengths: `T5 D4 t1` is `TTTTTDDDDt`. `UserError` for anything else."""
    shown = f"strategy.stages={text}"
    letters = sorted({c for c in text if not (c.isdigit() or c.isspace())})
    unknown = [c for c in letters if c not in LETTERS]
    require(
        not unknown,
        f"{shown}: unknown {', '.join(unknown)}; use the letters T, t, o, D, V, e and s, each with or without a count",
    )
    found = re.fullmatch(rf"\s*(?:[{LETTERS}]\d{{0,3}}\s*)*", text)
    require(found is not None, f"{shown}: a count of at most three digits stands behind its letter, as in T5 D4 t1")
    out = "".join(letter * int(count or 1) for letter, count in re.findall(rf"([{LETTERS}])(\d*)", text))
    last = "s" not in out.rstrip("s") and not out.startswith("s")
    require(last, f"{shown}: s leaves the last stages out: write it last, behind another letter")
    return out


def brief(letters: str) -> str:
    """The same as run lengths: `T5 D4 t1`."""
    return " ".join(f"{letter}{len(list(run))}" for letter, run in groupby(letters))


def _runs(letters: str, asked: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """(letter, first stage, stop) of each run in which the same models are asked."""
    stop = 0
    for (letter, _), run in groupby(zip(letters, asked, strict=True)):
        first, stop = stop, stop + len(list(run))
        yield letter, first, stop


def beside(d: Decoder, by_draft: bool) -> None:
    """Commit the next stage as sampled by the target's conditional half, the draft being the other branch of guidance.

    by_draft: ℓ = c_T + t·(c_T - c_D), the draft's conditional logits in place of the target's unconditional ones (after
    Karras et al., arXiv 2406.02507); else ℓ = c_T + t·(c_D - u_D), the draft's own difference. The two models' `guidance`
    must be 0 here, but for the draft's in the second form. Where t = 0 the draft is not asked.
    """
    k, t, batch = d.committed, d.weights[d.committed], len(d.labels_B)
    with d.time("verify"):
        logits = d.session("target").raw(d.f_hats, k + 1, want=k)[:batch]
    if t:
        with d.time("draft"):
            other = d.session("draft").raw(d.f_hats, k + 1, want=k)
        cond, null = (logits, other[:batch]) if by_draft else (other[:batch], other[batch:])
        logits = logits + t * (cond - null)
    d.commit_sampled(logits, "target_draft")


def unguided(d: Decoder) -> None:
    """Commit the next stage as sampled by the target's conditional half."""
    k = d.committed
    with d.time("verify"):
        logits = d.session("target").raw(d.f_hats, k + 1, want=k)[: len(d.labels_B)]
    d.commit_sampled(logits, "target_unguided")


def exit_early(d: Decoder, depth: int, begin: bool) -> None:
    """Commit the next stage as sampled by the target's first `depth` blocks with its head (LayerSkip, arXiv 2404.16710).

    Their keys and values are the target's own, so they read its cache. What they write behind its rows is scratch, which the
    target's next pass writes again: the deeper blocks lack these stages. begin: go on from where the target now stands.
    """
    from sdvar_exp.models.derived import first_blocks  # imports torch

    k = d.committed
    with d.time("verify"):
        session = d.session("exit", model=first_blocks(d.pair.target, depth))
        if begin:
            session.share(d.session("target"))
            session = d.session("exit")  # with an unconditional half, if the target's cache has none
        logits = session.logits(d.f_hats, k + 1, want=k)[0]
    d.commit_sampled(logits, "target_exit")


def skip(d: Decoder) -> None:
    """Commit the next stage as made by nobody: f̂ stays as it is, each token is `SKIPPED`."""
    k = d.committed
    d.sources[k] = "skipped"
    d.f_hats.append(d.f_hats[-1])
    d.tokens.append(d.tokens[-1].new_full((len(d.labels_B), d.pyramid.lengths[k]), SKIPPED))


def follow(
    d: Decoder,
    letters: str,
    loop: Loop | None = None,
    target_fill: Fill = Fill.recompute,
    draft_fill: Fill = Fill.recompute,
    guided_by: GuidedBy = GuidedBy.draft_difference,
    mask: Choice | None = None,
    exit_depth: int = 0,
) -> None:
    """Commit every stage as its letter says.

    Args:
        letters: one of `LETTERS` a stage.
        loop: options of the stages V.
        target_fill, draft_fill: what becomes of the rows of stages that the other model made. A model that is not fed at some
            stages lacks their rows when its turn comes.
        guided_by: the other branch at stages t.
        mask: attention of the target's first pass, if that also feeds stages that the draft made.
        exit_depth: blocks of the target that make the stages `e`. To its other blocks these are stages that another model made.
    """
    by_draft = guided_by is GuidedBy.draft
    drafts = "DV" if d.drafts else "D"  # whose rows the draft is fed anyway
    made = len(letters.rstrip("s"))
    of_draft = drafts if by_draft else drafts + "t"
    for role, guided in (("target", "TV"), ("draft", of_draft), ("proposer", "V"), ("exit", "e")):
        d.guidance[role] = tuple(t if letter in guided else 0.0 for t, letter in zip(d.weights, letters, strict=True))
        needed = [k + 1 for k, letter in enumerate(letters) if letter in guided and any(d.weights[k:made])]
        d.both_until[role] = max(needed, default=0)  # dropped for good after the last stage that needs it
    asked = ["D" if letter == "t" and t else letter for letter, t in zip(letters, d.weights, strict=True)]
    own = {"target": [letter in "TtoV" for letter in letters], "draft": [letter in drafts for letter in asked]}
    fills = {"target": target_fill, "draft": draft_fill}
    for letter, first, stop in _runs(letters, asked):
        for role, makes in own.items():
            lacking = [k for k in range(first) if not makes[k]]
            reads = any(makes[first:stop]) or (role == "target" and letter == "e")
            if lacking and fills[role] is Fill.none and reads:
                d.leave_out(role, lacking)
        if letter == "V":
            speculate(d, loop or Loop(), until=stop)
            continue
        for k in range(first, stop):
            match letter:
                case "T":
                    entry = mask if k and "target" not in d.sessions else None
                    d.sample_alone("target", entry)
                case "D":
                    d.sample_alone("draft")
                case "t":
                    beside(d, by_draft)
                case "o":
                    unguided(d)
                case "e":
                    exit_early(d, exit_depth, begin=k == first)
                case "s":
                    skip(d)
