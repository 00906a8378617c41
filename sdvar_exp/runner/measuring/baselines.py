"""Gives what the sequential target makes of each unit, from memory, a cache or a decode, and its noise floor.

Caches are the study's own and those of the studies beside it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Set as AbstractSet
from itertools import combinations

from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding.api import NoiseBook, decode, decode_images
from sdvar_exp.metrics.quantities.fidelity import noise_floor
from sdvar_exp.registry import plain
from sdvar_exp.runner.measuring.prepare import Prepared
from sdvar_exp.runner.measuring.results import Body, Result, result_of, to_numpy
from sdvar_exp.store.baseline import baseline_key
from sdvar_exp.store.provenance import definitions
from sdvar_exp.store.study import Study

log = logging.getLogger(__name__)

KEPT = 64
"""Results held in memory; groups need the baselines of their own units only."""
SEEDS = 16
"""Seeds per label that the noise floor compares, each with each: 120 pairs are plenty, and they grow with the square."""

SeedPair = tuple[str, int, int, int]


class Baselines:
    """Results of baseline cells by unit."""

    def __init__(self, study: Study, prepared: Prepared) -> None:
        self.study, self.prepared = study, prepared
        self._kept: OrderedDict[str, Result] = OrderedDict()

    def get(self, cell: Cell, unit: Unit, noise: NoiseBook | None = None) -> tuple[Result, bool]:
        """The result of a baseline cell, and whether it came from the cache. noise: of this unit alone."""
        key = self.key(cell, unit)
        if key in self._kept:
            return self._kept[key], True
        found = self._read(key, shared=bool(self.prepared.pairs[cell.model].hashes))
        hit = found is not None
        if found is None:
            found = self._decode(cell, unit, noise)
            self.study.baseline_put(key, found.to_cache())
        self._kept[key] = found
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found, hit

    def key(self, cell: Cell, unit: Unit) -> str:
        """Everything that the target's own image depends on; the draft is no part of it."""
        made, pair = self.prepared.fingerprint, self.prepared.pairs[cell.model]
        checkpoints = {role: pair.hashes[role] for role in ("vae", "target", "products") if role in pair.hashes}
        return baseline_key(
            model=cell.model.identity(),
            checkpoints=checkpoints,
            label=unit.label,
            seed=unit.seed,
            guidance=cell.cfg_schedule.as_dict(),
            sampling=plain(cell.sampling),
            machine={k: v for k, v in made.items() if k not in ("checkpoints", "entries")},
            entries=definitions([cell], metrics=False),
        )

    def _read(self, key: str, shared: bool) -> Result | None:
        """From the caches. shared: models are known by what is in their files, so that those of other studies will do."""
        values = self.study.baseline_get(key, shared)
        try:
            return Result.from_cache(values) if values is not None else None
        except KeyError as error:
            log.warning("cached baseline %s lacks %s and will be made again", key, error)
            return None

    def _decode(self, cell: Cell, unit: Unit, noise: NoiseBook | None) -> Result:
        pair = self.prepared.pairs[cell.model]
        decoded = decode(pair, cell, [unit], noise=noise)
        return result_of(decoded, 0, to_numpy(decode_images(pair, decoded.f_hat)[0]))

    def record_noise(self) -> None:
        """Append what the ledger lacks of the noise floor: the references' own images, compared between seeds of a label."""
        plan, done, known = self.prepared.plan, self.study.done(), self.study.noise_pairs()
        references = {planned.cell.compared_with(plan.reference).id for planned in plan.cells}
        for planned in plan.cells:
            if planned.id not in references:
                continue
            for label in plan.labels:
                units = [Unit(label, s) for s in plan.seeds[:SEEDS] if (planned.id, label, s) in done]
                self.study.append(*self._noise(planned.cell, units, known))

    def _noise(self, cell: Cell, units: list[Unit], known: AbstractSet[SeedPair]) -> list[Body]:
        """Records of the pairs of `units` that are not known; images are read only if there is one."""
        pairs = {(cell.id, a.label, min(a.seed, b.seed), max(a.seed, b.seed)) for a, b in combinations(units, 2)}
        if pairs <= known:
            return []
        images = {(u.label, u.seed): self.get(cell, u)[0].image for u in units}
        bodies = [{"type": "noise", "cell": cell.id, **row} for row in noise_floor(images)]
        return [b for b in bodies if (b["cell"], b["label"], b["seed"], b["other_seed"]) not in known]
