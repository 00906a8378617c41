"""`SDVAR(draft_model, target_model)` with the method names of the SDVAR scripts."""

from __future__ import annotations

import logging

import torch

from sdvar_exp.cell import Cell, Sampling
from sdvar_exp.compat.models import VAR, draw_units
from sdvar_exp.decoding.api import decode, decode_images
from sdvar_exp.decoding.records import Decoded
from sdvar_exp.errors import UserError
from sdvar_exp.models.pair import Pair, shipped_files
from sdvar_exp.registry import choose, get, names

log = logging.getLogger(__name__)


def mask_of(code: int) -> str:
    """Name of the mask that the SDVAR sources number `code`."""
    for name in names("mask"):
        if get("mask", name).meta.get("code") == code:
            return name
    raise UserError(f"sd_mask must lie in 0 … 5, got {code}")


class SDVAR(torch.nn.Module):
    """Draft and target over one VQVAE. `last` holds what the last call recorded (`Decoded`: calls, rounds, verdicts)."""

    def __init__(self, draft_model: VAR, target_model: VAR, similarity_thresh: float = 0.5) -> None:
        super().__init__()
        self.draft_model, self.target_model, self.similarity_thresh = draft_model, target_model, similarity_thresh
        self.last: Decoded | None = None
        self.pair  # noqa: B018 (checks that the two belong together)

    @classmethod
    def embedded(cls, similarity_thresh: float = 0.5) -> SDVAR:
        """The pair that ships with the package: Fashion-MNIST, ten stages, runs on a CPU."""
        from sdvar_exp.compat.builders import from_files

        files = shipped_files("embedded")
        return from_files(files["vae"], files["draft"], files["target"], similarity_thresh)

    @property
    def pair(self) -> Pair:
        return Pair(self.target_model.vae_proxy[0], self.draft_model, self.target_model, "SDVAR", {})

    def _images(
        self, cell: Cell, B: int, label_B: int | torch.Tensor | None, g_seed: int | None, more_smooth: bool, verbose: bool
    ) -> torch.Tensor:
        pair = self.pair
        self.last = decode(pair, cell, draw_units(B, label_B, g_seed, pair.num_classes, more_smooth))
        if verbose:
            for r in self.last.rounds:
                log.warning(
                    "round %d: stages %d-%d proposed, %d passed, %d committed",
                    r.index,
                    r.first,
                    r.first + r.proposed - 1,
                    r.passed,
                    r.committed,
                )
            log.warning("target calls %d, draft calls %d", self.last.counts.target_calls, self.last.counts.draft_calls)
        return decode_images(pair, self.last.f_hat)

    @torch.no_grad()
    def sdvar_autoregressive_infer_cfg_parallel_v1(
        self,
        B: int,
        label_B: int | torch.Tensor | None = None,
        g_seed: int | None = None,
        cfg: float = 1.5,
        gamma: int = 2,
        top_k: int = 0,
        top_p: float = 0.0,
        more_smooth: bool = False,
        verbose: bool = False,
    ) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] by `parallel_v1` with `match_rate(coupled, τ=similarity_thresh)`, `correct`."""
        cell = Cell(
            choose("strategy", "parallel_v1"),
            choose("cfg_schedule", "linear", cfg=cfg),
            choose("mask", "block_causal"),
            choose("acceptance", "match_rate", tau=self.similarity_thresh),
            choose("gamma", "fixed", value=gamma),
            Sampling(top_k=top_k, top_p=top_p),
        )
        return self._images(cell, B, label_B, g_seed, more_smooth, verbose)

    @torch.no_grad()
    def sdvar_autoregressive_infer_cfg_sd_test3(
        self,
        B: int,
        label_B: int | torch.Tensor | None,
        g_seed: int | None = None,
        cfg: float = 1.5,
        top_k: int = 0,
        top_p: float = 0.0,
        more_smooth: bool = False,
        entry_num: int = 10,
        sd_mask: int = 0,
        verbose: bool = False,
    ) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] by the hand-off `test3`; `sd_mask` is the number of the mask."""
        cell = Cell(
            choose("strategy", "test3", entry_num=entry_num),
            choose("cfg_schedule", "linear", cfg=cfg),
            choose("mask", mask_of(sd_mask)),
            sampling=Sampling(top_k=top_k, top_p=top_p),
        )
        return self._images(cell, B, label_B, g_seed, more_smooth, verbose)
