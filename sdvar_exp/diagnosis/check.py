"""`check`: the invariants of the decoding core on any pair of models, from inputs to outputs: the first failure is the cause.

Two images, codes drawn at random, guidance of another strength at each stage. Time and memory are those of some two dozen
forwards; on a CPU, large models are checked on their first stages only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from sdvar_exp.diagnosis import decodes, passes
from sdvar_exp.diagnosis.reference import Subject, draw_codes
from sdvar_exp.diagnosis.result import NotChecked, Result, Wrong
from sdvar_exp.errors import UserError, require
from sdvar_exp.models.pair import Pair

CPU_BUDGET = 1e11
"""Weights × rows of one forward that a CPU takes in seconds: decides how many stages of a large model are checked."""
LIMITS = {torch.float64: 1e-9, torch.float32: 2e-4}
"""Relative differences that rounding may make; in half precision it would explain anything."""
Check = Callable[[Subject], str]


@dataclass(frozen=True)
class Area:
    """name: in the results. what: for people. each: a check made of both models; both: one made of the pair."""

    name: str
    what: str
    each: Callable[[Subject, str], str] | None = None
    both: Check | None = None
    roles: tuple[str, ...] = ("draft", "target")


AREAS = (
    Area("weights", "weights are numbers", each=decodes.weights, roles=("vae", "draft", "target")),
    Area("query_building", "input rows come from the codes of the stages before", each=passes.queries),
    Area("classes", "labels and null class, batch doubling", each=decodes.classes),
    Area("kv_cache", "cached passes equal one masked pass", each=passes.cache),
    Area("kv_reset", "a rollback is bit for bit", each=passes.rollback),
    Area("logit_splitting", "a merged pass gives each stage its own logits", each=passes.splitting),
    Area("guidance", "the weight of each row's own stage", each=passes.guidance),
    Area("causality", "codes of a stage move later logits only", each=passes.leaks),
    Area("state_update", "f̂ and rows follow from the committed codes", both=decodes.state),
    Area("rejection", "failing everything gives the sequential tokens", both=decodes.rejects),
    Area("exactness", "exact equals sequential", both=decodes.exact),
    Area("acceptance", "the target accepts itself", both=decodes.accepts_itself),
    Area("image", "f̂ decodes to an image", both=decodes.image),
)


def subject_of(pair: Pair, stages: int | None = None, seed: int = 0, batch: int = 2, gamma: int = 3) -> Subject:
    """The subject of the checks: `batch` images, merged passes over `gamma` stages among others.

    stages: None for all, or for as many as a CPU takes in seconds.
    """
    require(batch >= 1, f"B must be ≥ 1, got {batch}")
    require(1 <= gamma <= pair.pyramid.stages, f"gamma must lie in 1 … {pair.pyramid.stages}, got {gamma}")
    total = pair.pyramid.stages
    if stages is not None and not 1 <= stages <= total:
        raise UserError(f"--stages must lie in 1 … {total}, got {stages}")
    if pair.target.dtype not in LIMITS:
        raise UserError("check takes dtype=float64 or float32: in half precision rounding explains too much")
    stages = stages or affordable(pair)
    spread = np.linspace(0, pair.num_classes - 1, batch).round().astype(int)
    labels = torch.tensor(spread.tolist(), device=pair.target.device)
    guidance = tuple(0.5 + 0.25 * k for k in range(total))
    codes = draw_codes(pair, stages, batch, seed)
    return Subject(pair, stages, labels, codes, guidance, LIMITS[pair.target.dtype], seed, min(gamma, stages))


def affordable(pair: Pair) -> int:
    """Stages that are checked unless said otherwise: all, but on a CPU no more than `CPU_BUDGET` allows."""
    if pair.target.device.type != "cpu":
        return pair.pyramid.stages
    count = sum(p.numel() for p in pair.target.parameters())
    return max([3, *(k for k in range(1, pair.pyramid.stages + 1) if count * pair.pyramid.offsets[k] <= CPU_BUDGET)])


@torch.inference_mode()
def run_checks(subject: Subject, only: Callable[[str], bool] = lambda _: True) -> Iterator[Result]:
    """One result after another; an area that breaks off is a failure of its own. only: which areas, by name."""
    damaged: set[str] = set()
    for area in AREAS:
        if not only(area.name):
            continue
        if area.each is not None:
            for role in area.roles:
                if role in damaged or "vae" in damaged:
                    continue
                result = _one(area, f"{area.name}: {role}", area.each, subject, role)
                if area.name == "weights" and not result.passed:
                    damaged.add(role)
                yield result
        elif area.both is not None and not damaged:
            yield _one(area, area.name, area.both, subject)


def _one(area: Area, name: str, check: Callable[..., str], *of: object) -> Result:
    try:
        return Result(name, True, check(*of), area.name)
    except NotChecked as why:
        return Result(name, True, str(why), area.name, checked=False)
    except Wrong as wrong:
        return Result(name, False, str(wrong), area.name)
    except Exception as error:  # the fault that is looked for may raise anything
        where = _where(error)
        return Result(
            name,
            False,
            f"stopped with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}{where}",
            area.name,
        )


def _where(error: BaseException) -> str:
    """File and line where an error came up."""
    last, found = error.__traceback__, ""
    while last is not None:
        code = last.tb_frame.f_code
        if "sdvar_exp" in code.co_filename:
            found = f" (in {code.co_name}, {code.co_filename.rsplit('sdvar_exp', 1)[-1].lstrip('/')}:{last.tb_lineno})"
        last = last.tb_next
    return found
