"""Acceptance rules: a function (parameters, StageView) → Verdict each, standard ones in one file, the largest in its own."""
