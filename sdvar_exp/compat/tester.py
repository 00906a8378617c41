"""`SDVARParallelV1Tester`: the names of the guide's test framework over the project's own `check`."""

from __future__ import annotations

import torch

from sdvar_exp.compat.sdvar import SDVAR
from sdvar_exp.diagnosis.check import run_checks, subject_of
from sdvar_exp.diagnosis.result import Result

AREAS = ("query_building", "logit_splitting", "state_update", "kv_reset", "kv_cache", "guidance", "exactness")
"""The four areas of the guide first."""


class SDVARParallelV1Tester:
    """Tests of a pair with B images and merged passes over γ stages; `sdvar_exp.diagnosis` makes them.

    Results have `passed`, `test_name` and `message`. Weights are left as they are; nothing needs a KV cache to be reset first.
    """

    def __init__(self, sdvar_model: SDVAR) -> None:
        self.sdvar_model = sdvar_model

    def test_build_combined_query(self, B: int = 2, gamma: int = 2) -> Result:
        """Rows of every stage of a merged pass come from the codes of the stages before it, in both guidance halves."""
        return self._run("query_building", B, gamma)

    def test_split_logits_by_stage(self, B: int = 2, gamma: int = 2) -> Result:
        """Every stage of a merged pass gets its own logits, all of them."""
        return self._run("logit_splitting", B, gamma)

    def test_state_update(self, B: int = 2, gamma: int = 2) -> Result:
        """f̂ is updated once by each committed stage, never in place."""
        return self._run("state_update", B, gamma)

    def test_kv_cache_reset(self, B: int = 2, gamma: int = 2) -> Result:
        """After a rejection the caches hold the committed stages, bit for bit."""
        return self._run("kv_reset", B, gamma)

    def run_all_tests(self, B: int = 2, gamma: int = 2) -> list[Result]:
        """One result per area of `AREAS`."""
        return [self._run(area, B, gamma) for area in AREAS]

    @torch.inference_mode()
    def _run(self, area: str, B: int, gamma: int) -> Result:
        subject = subject_of(self.sdvar_model.pair, batch=B, gamma=gamma)
        found = list(run_checks(subject, lambda name: name == area))
        failed = [r for r in found if not r.passed]
        message = (
            failed[0].message
            if failed
            else "; ".join(f"{role}: {r.message}" if (role := r.test_name.partition(": ")[2]) else r.message for r in found)
        )
        return Result(area, not failed, message, area)
