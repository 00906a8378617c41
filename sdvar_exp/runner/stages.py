"""One decode stage by stage as a picture: what was proposed, which tokens were replaced, what was committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from sdvar_exp.models.pair import Pair
from sdvar_exp.runner.result import Result
from sdvar_exp.store.images import STAGE_COLOURS, to_bytes


@torch.inference_mode()
def stage_picture(
    pair: Pair, result: Result, proposed: Sequence[np.ndarray | None], image_of: Callable[[torch.Tensor], np.ndarray]
) -> np.ndarray:
    """uint8 (3·side, S·side, 3): one column per stage, three rows of tiles of the image's side.

    Row 0: the draft's tokens of the stage on top of what is committed before it, decoded; white where the draft made
    none. Row 1: its tokens in the colours of `store.images.STAGE_COLOURS`. Row 2: the committed f̂, decoded.

    proposed: the draft's tokens (L_k,) of each stage that was judged, None elsewhere; may be empty. image_of: the image
    (3, H, W) in [0, 1] of a f̂ (1, c, h, w).
    """
    quantize, pyramid = pair.vae.quantize, pair.pyramid
    f_hat, columns = quantize.empty(1), []
    for stage, outcome in enumerate(result.stages):
        tokens = result.tokens[pyramid.rows(stage, stage + 1)]
        draft = proposed[stage] if proposed else None
        after = quantize.accumulate(stage, _row(pair, tokens), f_hat)
        committed = _picture(image_of(after))
        if draft is None:
            top = committed if outcome["source"] == "draft" else np.full_like(committed, 255)
            kinds = np.full(len(tokens), outcome["source"].partition("_")[0])  # `target_draft`: made by the target
        else:
            kinds = np.where(draft == tokens, "kept", "replaced")
            equal = bool((draft == tokens).all())
            top = committed if equal else _picture(image_of(quantize.accumulate(stage, _row(pair, draft), f_hat)))
        columns.append(np.concatenate([top, token_map(kinds, pyramid.patch_nums[stage], len(committed)), committed]))
        f_hat = after
    return np.concatenate(columns, axis=1)


def token_map(kinds: np.ndarray, p: int, side: int) -> np.ndarray:
    """Names of `STAGE_COLOURS` (p²,) as a picture uint8 (side, side, 3), nearest neighbour."""
    colours = np.array([STAGE_COLOURS[kind] for kind in kinds], np.uint8).reshape(p, p, 3)
    at = np.arange(side) * p // side
    return colours[at][:, at]


def _row(pair: Pair, tokens: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(tokens))[None].to(pair.target.device)


def _picture(image: np.ndarray) -> np.ndarray:
    picture = to_bytes(image)
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
