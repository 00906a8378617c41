"""The loop of draft, verify, accept, commit once more, in plain Python on lists of integers, for the fake pair.

Written from the text, not from the code: no tensors, no f̂, no sessions. It knows only which tokens the two scripted
models say after which codes, and counts what is fed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sdvar_exp.pyramid import Pyramid
from tests.support import Script, digest

Stage = list[int]  # tokens of one stage of one image


@dataclass
class Plan:
    """What to simulate. gamma: (first stage, trace so far) → γ. passes: (matches of a stage, its size, stage) → bool."""

    pyramid: Pyramid
    script: Script
    labels: Sequence[int]
    gamma: Callable[[int, list[tuple[int, int, int, int]]], int]
    passes: Callable[[int, int, int], bool]
    on_reject: str = "correct"
    repair: bool = False
    bonus: bool = False
    skip_last: bool = False
    draft_stale: bool = True
    target_stale: bool = False
    until: int = 99


@dataclass
class Result:
    tokens: list[list[Stage]]
    trace: list[tuple[int, int, int, int]] = field(default_factory=list)
    target_calls: int = 0
    draft_calls: int = 0
    target_rows: int = 0
    draft_rows: int = 0
    wasted: int = 0
    forced: int = 0
    by_verify: int = 0
    replaced: list[int] = field(default_factory=list)
    round_rows: list[int] = field(default_factory=list)


def say(plan: Plan, role: str, label: int, k: int, before: list[Stage]) -> Stage:
    """Tokens of stage k that a model says after the given codes."""
    d = digest([c for stage in before for c in stage])
    one = plan.script.draft if role == "draft" else plan.script.target
    return [one(label, k, i, d) for i in range(plan.pyramid.lengths[k])]


def simulate(plan: Plan) -> Result:
    pyramid, size = plan.pyramid, plan.pyramid.lengths
    out = Result([[] for _ in plan.labels], replaced=[0] * len(plan.labels))
    stages, until, largest = pyramid.stages, min(plan.until, pyramid.stages), 99
    cached = {"draft": 0, "target": 0}

    def feed(role: str, stop: int) -> int:
        rows = pyramid.count(cached[role], stop)
        cached[role] = stop
        if role == "draft":
            out.draft_calls, out.draft_rows = out.draft_calls + 1, out.draft_rows + rows
        else:
            out.target_calls, out.target_rows = out.target_calls + 1, out.target_rows + rows
        return rows

    while (n := len(out.tokens[0])) < until:
        gamma = min(plan.gamma(n, out.trace), until - n, largest)
        drafted = gamma - 1 if plan.skip_last and gamma else gamma
        proposal: list[list[Stage]] = [[] for _ in plan.labels]
        for k in range(n, n + drafted):
            feed("draft", k + 1)
            for b, label in enumerate(plan.labels):
                proposal[b].append(say(plan, "draft", label, k, out.tokens[b] + proposal[b]))
        extra = n + drafted < until and (plan.bonus or plan.skip_last or gamma == 0)
        out.round_rows.append(feed("target", n + drafted + int(extra)))
        wanted = [
            [say(plan, "target", label, n + i, out.tokens[b] + proposal[b][:i]) for i in range(drafted + int(extra))]
            for b, label in enumerate(plan.labels)
        ]
        ok = [
            [
                plan.passes(sum(x == y for x, y in zip(p, w, strict=True)), size[n + i], n + i)
                for i, (p, w) in enumerate(zip(proposal[b], wanted[b], strict=False))
            ]
            for b in range(len(plan.labels))
        ]
        together = [all(image[i] for image in ok) for i in range(drafted)]
        passed = together.index(False) if False in together else drafted

        if plan.on_reject == "redraft":
            commit = 1 if passed == 0 and gamma == 1 else passed
            out.forced += int(passed == 0 and gamma == 1)
            if passed == 0 and gamma > 1:
                largest = gamma - 1
        elif plan.on_reject == "continue":
            commit = drafted
        else:
            commit = min(passed + 1, drafted)
        stale = None
        for i in range(commit):
            for b in range(len(plan.labels)):
                tokens = proposal[b][i]
                if plan.on_reject != "redraft" and (not ok[b][i] or plan.repair):
                    tokens = wanted[b][i]
                out.replaced[b] += sum(x != y for x, y in zip(tokens, proposal[b][i], strict=True))
                out.tokens[b].append(tokens)
            # a failed stage counts as replaced even if the same tokens come back: finding out would cost a look at them
            matches = all(p[i] == w[i] for p, w in zip(proposal, wanted, strict=True))
            if plan.on_reject != "redraft" and stale is None and (not together[i] or (plan.repair and not matches)):
                stale = n + i + 1
        take_extra = extra and (passed == drafted or (plan.skip_last and plan.on_reject == "continue"))
        if take_extra:
            for b in range(len(plan.labels)):
                out.tokens[b].append(wanted[b][drafted])
        m = len(out.tokens[0])
        out.wasted += sum(size[k] for k in range(m, n + drafted))
        out.by_verify += m - n
        out.trace.append((n, drafted, m - n, passed))
        for role, recompute in (("draft", plan.draft_stale), ("target", plan.target_stale)):
            cached[role] = min(cached[role], m)
            if stale is not None and recompute:
                cached[role] = min(cached[role], stale)

    for k in range(until, stages):
        feed("draft", k + 1)
        for b, label in enumerate(plan.labels):
            out.tokens[b].append(say(plan, "draft", label, k, out.tokens[b]))
    return out
