"""Acceptance rules: a function (parameters, StageView) → Verdict each, one file per idea."""
