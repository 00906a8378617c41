"""Checks of single forwards: input rows, guidance halves, splitting into stages, KV cache.

Codes are given, so nothing is sampled here: a session feeds them in every way that decoding does, and each tensor on the way
is compared with the reference. A check returns how close things are, or raises `Wrong`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from sdvar_exp.decoding.session import Forward, ModelSession
from sdvar_exp.diagnosis.reference import FullPass, Subject, plain_f_hats, plain_rows
from sdvar_exp.diagnosis.result import NotChecked, Off, Wrong, bound, first_off, largest
from sdvar_exp.models.var import VAR


def _needs(s: Subject, stages: int) -> None:
    """Raise `NotChecked` where fewer stages are looked at."""
    if s.stages < stages:
        raise NotChecked(f"needs {stages} stages, {s.stages} of {s.pair.pyramid.stages} are looked at")


def named_pass(first: int, stop: int) -> str:
    return f"the pass of stage {first} alone" if stop == first + 1 else f"the merged pass over stages {first}-{stop - 1}"


def by_stage(model: VAR, forward: Forward, x_NqC: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """A tensor with the rows of a forward, cut into (stage, its rows)."""
    offsets, start = model.pyramid.offsets, model.pyramid.offsets[forward.first]
    for k in range(forward.first, forward.stop):
        yield k, x_NqC[:, offsets[k] - start : offsets[k + 1] - start]


def queries(s: Subject, role: str) -> str:
    """Input rows, both halves, however the stages are grouped: those that the codes of the stages before give."""
    _needs(s, 2)
    worst = 0.0
    for cut in s.cuts():
        session, seen = s.session(role)
        for stop in cut:
            session.logits(s.f_hats, stop, want=session.stage)
            worst = max(worst, compare_rows(s, role, seen[-1]))
    return f"rows of stages 0-{s.stages - 1} in {len(s.cuts())} groupings, largest difference {worst:.1g}"


def compare_rows(s: Subject, role: str, f: Forward) -> float:
    """Compare the rows of one forward with the reference; `Wrong` says which stage, which half and what they are instead."""
    known, model, batch = s.of(role), s.model(role), len(s.labels_B)
    if f.x_NqC.shape[0] != 2 * batch:
        raise Wrong(f"{role}, {named_pass(f.first, f.stop)}: {f.x_NqC.shape[0]} batch rows are fed, guidance needs 2 × {batch}")
    worst = 0.0
    for half, name, rows in ((0, "conditional", known.rows), (1, "unconditional", known.null_rows)):
        part = f.x_NqC[half * batch : (half + 1) * batch]
        off, found = first_off(((k, x, rows[k]) for k, x in by_stage(model, f, part)), s.limit)
        if off is not None:
            raise Wrong(
                f"{role}, stage {off.stage}, input rows ({name} half) in {named_pass(f.first, f.stop)}: {off}"
                + _what_rows(s, role, off, known.null_rows if half == 0 else known.rows)
            )
        worst = max(worst, found)
    return worst


def _what_rows(s: Subject, role: str, off: Off, other_half: Sequence[torch.Tensor]) -> str:
    """Names the rows that stand in the place of the right ones, where that can be told."""
    model, k, got = s.model(role), off.stage, off.got
    if got.shape != off.want.shape:
        return ""
    near = bound(off.want, s.limit)
    if k == 0:
        return "; they are those of the other guidance half" if largest(got, other_half[0]) <= near else _class_of(s, role, got)
    own = plain_rows(model, s.labels_B, [*s.f_hats[1:], s.f_hats[-1]], k + 1)[k]
    if largest(got, own) <= near:
        return f"; they are built from f̂ after stage {k}: its own codes leak into what predicts them"
    codes = s.pair.vae.quantize.embedding(s.tokens[k]).to(model.dtype)
    place = _places(model)[:, model.pyramid.rows(k, k + 1)]
    if largest(got, model.word_embed(codes) + place) <= near:
        return f"; they are the embedded codes of stage {k} itself: the answer leaks"
    distance = (_places(model)[0] - (got - (off.want - place))[0, :1]).abs().amax(dim=1)
    row = int(distance.argmin())
    if distance[row] <= near:
        expected = model.pyramid.offsets[k]
        return f"; content is right, level and position are those of row {row} instead of row {expected}"
    return "; neither f̂ of the stages before nor position explains them"


def _places(model: VAR) -> torch.Tensor:
    """Level plus position embedding of every row, (1, L, C)."""
    return torch.add(model.lvl_embed(model.lvl_1L), model.pos_1LC)


def _class_of(s: Subject, role: str, got: torch.Tensor) -> str:
    """The class whose embedding the rows of stage 0 carry."""
    model = s.model(role)
    base = model.pos_start + model.lvl_embed.weight[0] + model.pos_1LC[:, : model.pyramid.lengths[0]]
    distance = (model.class_emb.weight - (got - base)[0, 0]).abs().amax(dim=1)
    label = int(distance.argmin())
    if distance[label] > bound(got, s.limit):
        return ""
    return f"; they carry class {label}{' (the null class)' if label == model.num_classes else ''}"


def guidance(s: Subject, role: str) -> str:
    """(1+t)·cond - t·uncond with the t of each row's own stage, on the logits of both halves; and how many halves are fed."""
    model, batch, worst = s.model(role), len(s.labels_B), 0.0
    for cut in s.cuts():
        session, seen = s.session(role)
        for stop in cut:
            first = session.stage
            guided = session.logits(s.f_hats, stop, want=first)
            f = seen[-1]
            wide = f.logits_NqV if f.logits_NqV.dtype == torch.float64 else f.logits_NqV.float()
            raw = dict(by_stage(model, f, wide))
            for k, got in zip(range(first, stop), guided, strict=True):
                c, n = raw[k][:batch], raw[k][batch:]
                t = s.weights[k]
                off, found = first_off([(k, got, (1 + t) * c - t * n)], s.limit)
                if off is not None:
                    raise Wrong(
                        f"{role}, stage {k}, guided logits of {named_pass(f.first, f.stop)}: {off}; " + _what_t(s, off, c, n, t)
                    )
                worst = max(worst, found)
    alone, fed = s.session(role, tuple(0.0 for _ in s.weights))
    alone.logits(s.f_hats, 1, want=0)
    if fed[-1].x_NqC.shape[0] != batch:
        raise Wrong(f"{role}: without guidance {fed[-1].x_NqC.shape[0]} batch rows are fed for {batch} images")
    return f"t of every stage in {len(s.cuts())} groupings, largest difference {worst:.1g}; no doubling without guidance"


def _what_t(s: Subject, off: Off, c: torch.Tensor, n: torch.Tensor, t: float) -> str:
    """The t that wrong logits were guided with, by least squares, if any explains them."""
    if off.got.shape != c.shape:
        return "the halves were not taken apart as conditional first, unconditional second"
    d = (c - n).double()
    used = float(((off.got.double() - c.double()) * d).sum() / d.square().sum().clamp_min(1e-30))
    if largest(off.got, c + used * (c - n)) > bound(off.want, 100 * s.limit):
        return f"no t gives them from the two halves (wanted t={t:.3g})"
    of = [k for k, w in enumerate(s.weights) if abs(w - used) < 1e-3 * max(1, abs(w))]
    return f"they were guided with t={used:.3g}{f', that of stage {of[0]},' if of else ''} instead of t={t:.3g}"


def splitting(s: Subject, role: str) -> str:
    """A merged pass gives each stage its own rows and all of them; unguided, so that nothing else shows."""
    _needs(s, 2)
    model, p = s.model(role), s.pair.pyramid
    none = tuple(0.0 for _ in s.weights)
    for want in range(min(2, s.stages)):
        session, seen = s.session(role, none)
        parts = session.logits(s.f_hats, s.stages, want=want)
        raw = seen[-1].logits_NqV
        if len(parts) != s.stages - want:
            raise Wrong(f"{role}: a merged pass over stages {want}-{s.stages - 1} gives logits of {len(parts)} stages")
        for k, got in zip(range(want, s.stages), parts, strict=True):
            own = raw[:, p.offsets[k] : p.offsets[k + 1]].to(got.dtype)
            if got.shape == own.shape and torch.equal(got, own):
                continue
            raise Wrong(
                f"{role}, stage {k}, logits cut out of the merged pass over stages 0-{s.stages - 1}: "
                f"{Off(k, largest(got, own), 0.0, got, own)}{_what_cut(raw, got, p.offsets[k])}"
            )
    rows = sum(model.pyramid.lengths[: s.stages])
    return f"{rows} rows fall to {s.stages} stages without an offset"


def _what_cut(raw: torch.Tensor, got: torch.Tensor, offset: int) -> str:
    """The row of a pass at which wrongly cut logits begin."""
    n = got.shape[1]
    for start in range(raw.shape[1] - n + 1):
        if torch.equal(got, raw[:, start : start + n].to(got.dtype)):
            return f"; they begin at row {start} instead of row {offset}"
    return ""


def cache(s: Subject, role: str) -> str:
    """Lengths, cached keys and values, and logits behind the cache, against one masked pass without it."""
    worst = 0.0
    for cut in s.cuts():
        session, seen = s.session(role)
        for stop in cut:
            session.logits(s.f_hats, stop, want=session.stage)
            check_length(s, role, session, stop)
            worst = max(worst, _kept(s, role, session, stop, _mask_words(seen[-1])), _logits(s, role, seen[-1]))
    return f"lengths, keys, values and logits as in one masked pass, {len(s.cuts())} groupings, largest difference {worst:.1g}"


def check_length(s: Subject, role: str, session: ModelSession, stages: int) -> None:
    rows = s.pair.pyramid.offsets[stages]
    if session.cache.length != rows:
        raise Wrong(
            f"{role}, KV cache after stage {stages - 1}: {session.cache.length} rows, stages 0-{stages - 1} have {rows}"
        )


def contents(session: ModelSession, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cached keys and values of one block up to the cache's length."""
    return session.cache.view(block, slice(0, len(session.condition.class_NC)), 0)


def _kept(s: Subject, role: str, session: ModelSession, stop: int, mask: str = "") -> float:
    """Compare every cached key and value of the stages < stop. mask: of the last pass, in words."""
    worst, batch, offsets = 0.0, len(s.labels_B), s.pair.pyramid.offsets
    for block in range(session.model.depth):
        for name, got in zip(("keys", "values"), contents(session, block), strict=True):
            for half, word, known in ((0, "conditional", s.of(role).cond), (1, "unconditional", s.of(role).null)):
                want, part = getattr(known, name)[block], got[half * batch : (half + 1) * batch]
                cuts = [slice(offsets[k], offsets[k + 1]) for k in range(stop)]
                off, found = first_off(((k, part[:, :, c], want[:, :, c]) for k, c in enumerate(cuts)), s.limit)
                if off is not None:
                    start, end = offsets[off.stage], offsets[off.stage + 1] - 1
                    more = (
                        _what_kept(off, want, start)
                        if block == 0
                        else (
                            f"; block {block - 1} holds the right keys and values, so its attention is wrong: "
                            f"the mask ({mask})?"
                        )
                    )
                    raise Wrong(
                        f"{role}, KV cache, stage {off.stage} (rows {start}-{end}), {name} of block {block}, "
                        f"{word} half: {off}{more}"
                    )
                worst = max(worst, found)
    return worst


def _what_kept(off: Off, want: torch.Tensor, offset: int) -> str:
    """The row of the pass that the first wrong row of the cache is."""
    if off.got.shape != off.want.shape:
        return ""
    wrong = ((off.got - off.want).abs() > off.allowed).any(dim=3).any(dim=1).any(dim=0).nonzero().flatten()
    row = int(wrong[0]) if len(wrong) else 0
    found = int((want - off.got[:, :, row : row + 1]).abs().amax(dim=(0, 1, 3)).nan_to_num(torch.inf).argmin())
    same = largest(off.got[:, :, row], want[:, :, found]) <= off.allowed
    return f"; row {offset + row} holds what belongs to row {found}" if same else f"; row {offset + row} is the first"


def _logits(s: Subject, role: str, f: Forward) -> float:
    """Compare the logits of one forward behind the cache with those of the full pass."""
    model, batch, worst = s.model(role), len(s.labels_B), 0.0
    halves: list[tuple[str, FullPass, torch.Tensor]] = [
        ("conditional", s.of(role).cond, f.logits_NqV[:batch]),
        ("unconditional", s.of(role).null, f.logits_NqV[batch:]),
    ]
    for word, known, part in halves:
        off, found = first_off(((k, x, known.logits[k]) for k, x in by_stage(model, f, part)), s.limit)
        if off is not None:
            raise Wrong(
                f"{role}, stage {off.stage}, logits ({word} half) of {named_pass(f.first, f.stop)} behind {f.before} "
                f"cached rows: {off}, against one masked pass without a cache; rows, keys and values are right, so "
                f"look at the attention mask ({_mask_words(f)})"
            )
        worst = max(worst, found)
    return worst


def _mask_words(f: Forward) -> str:
    return "none: all open" if f.mask_qK is None else f"{'×'.join(map(str, f.mask_qK.shape))}, {int(f.mask_qK.sum())} open"


def rollback(s: Subject, role: str) -> str:
    """Feed other codes, truncate, feed the right ones: the cache is bit for bit what it was, the logits what they should be."""
    _needs(s, 3)
    keep = max(1, s.stages // 2)
    session, _ = s.session(role)
    session.logits(s.f_hats, keep, want=0)
    before = [tuple(t.clone() for t in contents(session, b)) for b in range(session.model.depth)]
    other = [f.flip(0) * 0.5 for f in s.f_hats]
    session.logits(other, s.stages, want=keep)
    session.truncate(keep)
    check_length(s, role, session, keep)
    for block, kept in enumerate(before):
        for name, was, now in zip(("keys", "values"), kept, contents(session, block), strict=True):
            if not torch.equal(was, now):
                rows = (was != now).any(dim=3).any(dim=1).any(dim=0).nonzero().flatten()
                stage = s.pair.pyramid.stage_of[int(rows[0])]
                raise Wrong(
                    f"{role}, KV cache after a rollback to stage {keep - 1}, stage {stage}, {name} of block {block}: "
                    f"{len(rows)} rows changed, the first is row {int(rows[0])}; what was dropped left traces"
                )
    session.logits(s.f_hats, s.stages, want=keep)
    check_length(s, role, session, s.stages)
    worst = _kept(s, role, session, s.stages)
    return f"from stage {s.stages - 1} back to {keep - 1} bit for bit, then fed again, largest difference {worst:.1g}"


def leaks(s: Subject, role: str) -> str:
    """Other codes of stage k in a merged pass: no logit of the stages ≤ k moves, those of stage k+1 do."""
    _needs(s, 2)
    session, _ = s.session(role)
    before = session.logits(s.f_hats, s.stages, want=0)
    moved_least = float("inf")
    for k in sorted({0, s.stages // 2, s.stages - 2} & set(range(s.stages - 1))):
        codes = list(s.tokens)
        codes[k] = (codes[k] + 1 + s.pair.target.vocab_size // 2) % s.pair.target.vocab_size
        again, _ = s.session(role)
        after = again.logits(plain_f_hats(s.pair.vae.quantize, codes), s.stages, want=0)
        off, _ = first_off(((j, after[j], before[j]) for j in range(k + 1)), s.limit)
        if off is not None:
            raise Wrong(
                f"{role}, stage {off.stage}, logits of a merged pass over all stages move with the codes of stage {k}: "
                f"{off}; a row sees a later stage"
            )
        moved = largest(after[k + 1], before[k + 1])
        moved_least = min(moved_least, moved)
        if moved <= bound(before[k + 1], s.limit):
            raise Wrong(f"{role}, stage {k + 1}, logits do not depend on the codes of stage {k}: they move by {moved:.1g}")
    return f"codes of a stage move the logits behind it (by {moved_least:.2g} at least) and none before"
