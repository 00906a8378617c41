"""Counts and times: metrics that the report derives from columns of `samples`.

Each function is given whole columns as floats and is applied elementwise; division by zero gives null.
"""

from __future__ import annotations

from typing import Any

from sdvar_exp.registry import register

Column = Any
"""A column of floats, or one number where sums are pooled."""
COUNT = (0.0, float("inf"))


@register(
    "metric",
    "target_calls",
    heading="target calls",
    digits=1,
    range=COUNT,
    better=-1,
    headline="calls",
    values="int",
    formula="forwards of the target, both guidance halves together: the baseline has S",
    unit="calls of the batch",
)
def target_calls(target_calls: Column) -> Column:
    """Forwards of the target per image, both guidance halves together."""
    return target_calls


@register(
    "metric",
    "draft_calls",
    heading="draft calls",
    digits=1,
    range=COUNT,
    better=-1,
    shown="rows",
    values="int",
    formula="forwards of the draft, both guidance halves together",
    unit="calls of the batch",
)
def draft_calls(draft_calls: Column) -> Column:
    """Forwards of the draft per image."""
    return draft_calls


@register(
    "metric",
    "target_token_forwards",
    heading="token-\u00adforwards",
    digits=2,
    range=COUNT,
    better=-1,
    figures=False,
    formula="`target_rows` ÷ `rows_reference`: 1 for the reference",
    unit="",
)
def target_token_forwards(target_rows: Column, rows_reference: Column) -> Column:
    """Rows fed to the target, both guidance halves, ÷ rows of the reference: the target alone under the study's guidance."""
    return target_rows / rows_reference


@register(
    "metric",
    "draft_token_forwards",
    heading="draft token-forwards",
    digits=2,
    range=COUNT,
    better=-1,
    shown="summary",
    formula="`draft_rows` ÷ `rows_reference`: 1 for the draft alone under the reference's guidance",
)
def draft_token_forwards(draft_rows: Column, rows_reference: Column) -> Column:
    """Rows fed to the draft ÷ rows of a model alone under the reference's guidance."""
    return draft_rows / rows_reference


@register(
    "metric",
    "committed_per_call",
    heading="commits per call",
    digits=2,
    range=COUNT,
    better=1,
    average="pooled",
    shown="wide",
    interval=False,
    formula="Σ `committed_by_verify` ÷ Σ `target_calls`",
    unit="null without target calls",
)
def committed_per_call(committed_by_verify: Column, target_calls: Column) -> Column:
    """Stages committed by draft-verify rounds ÷ target calls."""
    return committed_by_verify / target_calls


@register(
    "metric",
    "speedup",
    heading="speed-up",
    digits=2,
    range=COUNT,
    better=1,
    average="geometric",
    timed=True,
    headline="speed",
    formula="median over repeats of reference ÷ cell, each pair decoded in turn in one process",
    unit="> 1: the cell is faster",
)
def speedup(speedup: Column) -> Column:
    """Reference time ÷ cell time, paired, image decoder left out, geometric mean."""
    return speedup


@register(
    "metric",
    "speedup_with_vae",
    heading="speed-up with image decoder",
    digits=2,
    range=COUNT,
    better=1,
    average="geometric",
    timed=True,
    shown="summary",
    formula="the same with the VAE decode added to both",
)
def speedup_with_vae(speedup_with_vae: Column) -> Column:
    """Reference time ÷ cell time, image decoder included."""
    return speedup_with_vae


@register(
    "metric",
    "latency_ms",
    heading="milliseconds",
    timed=True,
    digits=1,
    range=COUNT,
    better=-1,
    shown="summary",
    formula="time of one decode of the cell, without the VAE decode",
    unit="ms",
)
def latency_ms(latency_ms: Column) -> Column:
    """Milliseconds of one decode, median over its repeats."""
    return latency_ms
