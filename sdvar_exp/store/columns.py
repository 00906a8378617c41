"""Names, order and kinds of the columns of every table, and which of them are not reproducible.

Kinds: str, int, float, bool; each may be null. Columns that a record has and this list lacks follow at the end, sorted.
"""

from __future__ import annotations

from sdvar_exp.metrics.quantities import own

CHOICES = ("strategy", "mask", "acceptance", "gamma", "cfg_schedule")
SPECS = tuple(f"{kind}_spec" for kind in CHOICES)
"""Columns that name a cell's choices, and those that give them with their parameters."""
_CELL = {"study": "str", "cell": "str"}
_LABEL = {"label": "int", "seed": "int"}
_NAMED = {**_CELL, "name": "str", **dict.fromkeys((*CHOICES, *SPECS), "str")}

IDENTITY = {**_NAMED, **_LABEL}

FIDELITY = {m.name: m.values for m in own() if m.measured}

ALGORITHM = {
    "target_calls": "int",
    "draft_calls": "int",
    "target_rows": "int",
    "draft_rows": "int",
    "target_rows_alone": "int",
    "draft_rows_alone": "int",
    "committed_by_verify": "int",
    "replaced_tokens": "int",
    "wasted_tokens": "int",
    "forced_commits": "int",
    "target_calls_alone": "int",
    "near_tie_stages": "int",
    "gamma_trace": "str",
    "kv_bytes": "int",
    "proposer_depth": "float",
}

# Derived from `gamma_trace` and the rows of `stages`, see rounds.py: of rounds that propose at least one stage.
ROUNDS = {
    "rounds": "int",
    "proposed_stages": "int",
    "accepted_stages": "int",
    "round_commits": "int",
    "stage_verdicts": "str",
    "commit_trace": "str",
}

# Derived from timing records. Milliseconds: medians over the repeats that were not contended. speedup is the median over
# those repeats of baseline ÷ cell, without the VAE decode; speedup_with_vae includes it.
TIMED = {
    "latency_ms": "float",
    "baseline_latency_ms": "float",
    "speedup": "float",
    "speedup_with_vae": "float",
    "vae_ms": "float",
    "draft_ms": "float",
    "verify_ms": "float",
    "accept_ms": "float",
    "fhat_ms": "float",
    "contended": "bool",
}

CIRCUMSTANCES = {
    "noise_ms": "float",
    "peak_memory_bytes": "int",
    "host": "str",
    "pid": "int",
    "attempt": "int",
    "finished_at": "str",
    "cache_hit": "bool",
    "fingerprint": "str",
}

# mixed: the row was made under another fingerprint than the study's own (allow_mixed=true).
SAMPLES = IDENTITY | FIDELITY | ALGORITHM | {"mixed": "bool"} | TIMED | CIRCUMSTANCES | ROUNDS

STAGES = {
    **_CELL,
    **_LABEL,
    "stage": "int",
    "source": "str",
    "passed": "bool",
    "accepted_share": "float",
    "match_rate": "float",
    "one_minus_tv": "float",
    "kl": "float",
    "entropy": "float",
    "residual_tries": "int",
    "variant": "int",
    "token_agreement": "float",
}

FORMERLY = {"stages": {"acceptance": "accepted_share"}}
"""Names that columns had, by table; ledgers and kept tables that have them are read all the same."""

# Columns of the fingerprint follow `lossless`; see tables.py.
RUNS = {
    **_NAMED,
    "lossless": "str",
    "config": "str",
    "overrides": "str",
    "order": "int",
    "baseline": "str",  # the cell that headline numbers compare with
    "own_baseline": "str",
    "units": "int",
    "planned": "int",
    "failures": "int",
    "timing_units": "int",
    "timing_repeats": "int",
    "timing_band": "str",
    "code": "str",
    "checkpoints": "str",
    "packages": "str",
    "device_kind": "str",
    "dtype": "str",
    "threads": "int",
}

TIMINGS = {
    **_CELL,
    **_LABEL,
    "repeat": "int",
    "order": "str",
    "baseline_ms": "float",
    "cell_ms": "float",
    "baseline_decode_ms": "float",
    "cell_decode_ms": "float",
    "own_ms": "float",
    "own_decode_ms": "float",
    "draft_ms": "float",
    "verify_ms": "float",
    "accept_ms": "float",
    "fhat_ms": "float",
    "contended": "bool",
    "again": "bool",  # measured in addition, because another pair of the unit lay far off its cell's median
}

FAILURES = {**_CELL, "name": "str", **_LABEL, "attempt": "int", "error": "str", "traceback": "str", "done": "bool"}

# Pairs of baseline images of one label that differ in the seed alone: another seed, an unrelated draw.
NOISE = {**_CELL, **_LABEL, "other_seed": "int", **{m.name: m.values for m in own() if m.has_floor}}

SCHEMA = 1
"""Version of the columns, in the metadata of each parquet file; a higher one is of a later version of this package."""
TABLES = {"samples": SAMPLES, "stages": STAGES, "runs": RUNS, "timings": TIMINGS, "failures": FAILURES, "noise": NOISE}

# Left out of the stable table: what another run of the same study on the same machine need not repeat (times, memory,
# host, process, attempt, timestamps, cache hits), the names of where and with what it ran (study, fingerprint), and what
# follows from other columns.
VOLATILE = frozenset(TIMED) | frozenset(CIRCUMSTANCES) | frozenset(ROUNDS) | {"study", "failures", "speedup_own"}
