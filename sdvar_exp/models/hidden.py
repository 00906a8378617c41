"""A draft whose input rows also hold what the target's last hidden rows say of an earlier stage (after EAGLE, 2401.15077).

The rows of stage k take those of the latest stage j < k that the target has been fed, upsampled to the sides of stage k, by a
matrix that belongs to the lag k - j. The target knows more of stage j than the tokens drawn from it tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from sdvar_exp.errors import require
from sdvar_exp.guest import expand
from sdvar_exp.models.accelerate import Wrapped
from sdvar_exp.models.layers import layer_norm
from sdvar_exp.models.reading import read_state
from sdvar_exp.models.var import VAR
from sdvar_exp.pyramid import Pyramid

LAGS = 3  # a longer one is taken as the last


class HiddenRows(nn.Module):
    """Matrices from the target's hidden rows to the draft's input rows, by lag; nothing at the start of a training."""

    def __init__(self, target_width: int, draft_width: int) -> None:
        super().__init__()
        self.lags = nn.ModuleList(nn.Linear(target_width, draft_width, bias=False) for _ in range(LAGS))
        for lag in self.lags:
            nn.init.zeros_(cast(nn.Linear, lag).weight)

    def forward(self, pyramid: Pyramid, stage: int, source: int, hidden_NlC: torch.Tensor) -> torch.Tensor:
        """Maps the hidden rows of stage `source` to a sum for the rows of `stage`, (N, L_k, draft width)."""
        old, new = pyramid.patch_nums[source], pyramid.patch_nums[stage]
        grid = layer_norm(hidden_NlC.float(), 1e-6).transpose(1, 2).unflatten(2, (old, old))
        rows = F.interpolate(grid, size=(new, new), mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
        matrix = cast(nn.Linear, self.lags[min(stage - source, LAGS) - 1]).weight
        return F.linear(rows.to(matrix.dtype), matrix)

    def teacher_rows(self, pyramid: Pyramid, hidden_NLC: torch.Tensor, lag: int, stages: int) -> torch.Tensor:
        """The sum for all rows of a teacher-forced pass in which every stage reads that of `lag` stages before."""
        each = hidden_NLC.split(pyramid.lengths[:stages], dim=1)
        width = cast(nn.Linear, self.lags[0]).out_features
        none = hidden_NLC.new_zeros(len(hidden_NLC), pyramid.count(0, min(lag, stages)), width)
        return torch.cat([none, *(self(pyramid, k, k - lag, each[k - lag]) for k in range(lag, stages))], dim=1)


class Fed(Wrapped):
    """A draft for one decode; `hidden` has the target's rows of the stages that it has been fed, (N, L_j, C) each.

    Rows of the unconditional half take the conditional ones where the target was fed these alone.
    """

    def __init__(self, model: VAR, matrices: HiddenRows, hidden: Mapping[int, torch.Tensor]) -> None:
        super().__init__(model)
        self.matrices, self.hidden = matrices, hidden

    def __call__(
        self, x_NqC: torch.Tensor, condition: Any, cache: Any, mask_qK: Any = None, rows: slice = slice(None), spans: Any = None
    ) -> torch.Tensor:
        pyramid, at, parts = self.model.pyramid, cache.length, list[torch.Tensor]()
        for stage in range(pyramid.stage_of[at], pyramid.stages):
            if pyramid.offsets[stage] >= at + x_NqC.shape[1]:
                break
            own = x_NqC[:, pyramid.offsets[stage] - at : pyramid.offsets[stage + 1] - at]
            source = max((k for k in self.hidden if k < stage), default=None)
            if source is not None:
                known = self.hidden[source]
                known = known if len(known) >= rows.stop else torch.cat((known, known))
                own = own + self.matrices(pyramid, stage, source, known[rows]).to(own.dtype)
            parts.append(own)
        return self.model(torch.cat(parts, dim=1), condition, cache, mask_qK, rows, spans)


@lru_cache(maxsize=8)
def read_matrices(file: str, digest: str, target_width: int, like: torch.Tensor) -> HiddenRows:
    """The matrices of a safetensors file for a draft with this weight (V, width) of its head; its digest is part of the key.

    Raises:
        UserError: a file that is damaged or of other widths.
    """
    saved, made = read_state(expand(file), "VAR"), HiddenRows(target_width, like.shape[1])
    for name, own in made.state_dict().items():
        found = list(saved[name].shape) if name in saved else "none"
        require(
            found == list(own.shape),
            f"proposer.file={file} does not fit this pair: {name} is {found}, its models want {list(own.shape)}",
        )
    made.load_state_dict({name: saved[name].to(own.dtype) for name, own in made.state_dict().items()})
    return made.to(like.device, like.dtype).requires_grad_(False)
