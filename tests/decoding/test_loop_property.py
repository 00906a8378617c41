"""The loop on scripted pairs against an oracle in plain integers: any script, any setting."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sdvar_exp.cell import Unit
from sdvar_exp.decoding import decode
from sdvar_exp.registry import Choice, choose
from tests.decoding.cells import flat, loop, trace
from tests.decoding.oracle import Plan, simulate
from tests.support import FakePair, Script


def rules(tau: float) -> dict[str, tuple[Choice, Any]]:
    return {
        "exact": (choose("acceptance", "exact"), lambda same, n, k: same == n),
        "never": (choose("acceptance", "never"), lambda same, n, k: False),
        "always": (choose("acceptance", "always"), lambda same, n, k: True),
        "until": (choose("acceptance", "always", until=2), lambda same, n, k: k < 2),
        "rate": (choose("acceptance", "match_rate", tau=tau), lambda same, n, k: same >= tau * n - 1e-9),
        "repair": (choose("acceptance", "match_rate", tau=tau, repair=True), lambda same, n, k: same >= tau * n - 1e-9),
    }


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.data())
def test_any_script_under_any_setting_does_what_the_text_says(data: st.DataObject) -> None:
    """Against an oracle in plain integers: tokens, trace, calls, rows, waste."""
    draw = data.draw
    patch_nums = draw(st.sampled_from([(1, 2), (1, 2, 3), (1, 2, 3, 4), (2, 3, 5)]))
    stages = len(patch_nums)
    redraft = draw(st.integers(0, 4)) == 0
    labels = list(range(3, 4 if redraft else 3 + draw(st.integers(1, 3))))
    size = [p * p for p in patch_nums]
    misses = {b: {k: draw(st.sampled_from([0, 0, 1, size[k] // 2, size[k]])) for k in range(stages)} for b in labels}
    tau = draw(st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]))
    names = ["exact", "never", "always", "until", "rate"] + ([] if redraft else ["repair"])
    name = draw(st.sampled_from(names))
    rule, passes = rules(tau)[name]
    on_reject = "redraft" if redraft else draw(st.sampled_from(["correct", "correct", "continue"]))
    bonus = not redraft and draw(st.booleans())
    skip_last = not redraft and not bonus and name == "exact" and draw(st.booleans())
    values = (draw(st.integers(1, stages)),) if redraft else tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)))
    until = None if draw(st.booleans()) else draw(st.integers(0, stages))
    draft_stale, target_stale = draw(st.booleans()), draw(st.booleans())
    cell = loop(
        rule,
        values[0] if redraft else values,
        until=until,
        on_reject=on_reject,
        bonus=bonus,
        skip_last=skip_last,
        draft_stale="recompute" if draft_stale else "keep",
        target_stale="recompute" if target_stale else "keep",
        mask=draw(st.sampled_from(["block_causal", "block_diagonal", "token_causal_blocks_entry_full"])),
    )
    script = Script(misses=misses)
    pair = FakePair(patch_nums, script)
    plan = Plan(
        pair.pyramid,
        script,
        labels,
        lambda n, _: values[min(n, len(values) - 1)],
        passes,
        on_reject,
        name == "repair",
        bonus,
        skip_last,
        draft_stale,
        target_stale,
        99 if until is None else until,
    )
    expected = simulate(plan)
    out = decode(pair, cell, [Unit(label, 0) for label in labels])

    assert flat(out).tolist() == [[c for stage in image for c in stage] for image in expected.tokens]
    assert trace(out) == expected.trace
    counts = out.counts
    assert (counts.target_calls, counts.draft_calls) == (expected.target_calls, expected.draft_calls)
    assert (counts.target_rows, counts.draft_rows) == (2 * expected.target_rows, 2 * expected.draft_rows)
    assert (counts.wasted_tokens, counts.forced_commits) == (expected.wasted, expected.forced)
    assert counts.committed_by_verify == expected.by_verify
    assert counts.replaced_tokens == tuple(expected.replaced)
    assert [r.rows for r in out.rounds] == expected.round_rows
    assert len(out.tokens) == stages
    if counts.target_calls_alone is not None:
        for row, label in enumerate(labels):
            assert decode(pair, cell, [Unit(label, 0)]).counts.target_calls == counts.target_calls_alone[row]
