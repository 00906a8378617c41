"""A cell: the resolved semantic configuration of one decoder, without labels, seeds, device or logging.

Plain frozen data, no torch. The cell id is a hash of it; factors that the strategy does not read are dropped first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import PurePath
from typing import Any

from sdvar_exp.errors import UserError
from sdvar_exp.registry import Choice, choose, plain


class Noise(Enum):
    """`shared`: draft and target read one Gumbel stream; `independent`: each its own."""

    shared = "shared"
    independent = "independent"


@dataclass(frozen=True)
class Sampling:
    """Sampling of tokens from logits: ÷ temperature, top-k, top-p, Gumbel-max. 0 switches top_k and top_p off."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    noise: Noise = Noise.shared

    def __post_init__(self) -> None:
        if not self.temperature >= COLDEST:
            greedy = "greedy decoding, the limit of temperature 0, is sampling.top_k=1"
            raise UserError(f"sampling.temperature must be ≥ {COLDEST:g}, got {self.temperature}; {greedy}")
        if self.top_k < 0:
            raise UserError(f"sampling.top_k must be ≥ 0, got {self.top_k}")
        if not 0 <= self.top_p <= 1:
            raise UserError(f"sampling.top_p must lie in [0, 1], got {self.top_p}")


COLDEST = 1e-6  # a lower temperature takes logits beyond the range of float32
EXECUTIONS = ("eager", "auto", "compile", "graphs")
AUTOCASTS = ("none", "bfloat16", "float16")
ROLES = ("vae", "draft", "target")
PRECISIONS = ("float32", "float64", "bfloat16", "float16", "int8")


@dataclass(frozen=True)
class ModelSpec:
    """A pair of models: a name (`embedded`, `var_d16_d30`, …) and, for checkpoints, files and their folder.

    execution: eager, auto (each product of a transformer in the way that is fastest on this CPU), compile (`torch.compile`) or
    graphs (CUDA graphs); all but the first round differently: another cell.
    autocast: none, bfloat16 or float16: matrix products and attention in that type, norms and the residual stream in float32,
    as VAR's own demo samples; another cell too.
    vae_dtype, draft_dtype, target_dtype: precision of a role, one of `PRECISIONS`; empty: the study's dtype. int8 has the
    products of a transformer in whole numbers (`models/products.py`); the VQVAE has its image decoder in that type.
    """

    name: str = "embedded"
    vae: str = ""
    draft: str = ""
    target: str = ""
    folder: str = ""
    published: str = ""
    execution: str = "eager"
    autocast: str = "none"
    vae_dtype: str = ""
    draft_dtype: str = ""
    target_dtype: str = ""

    def __post_init__(self) -> None:
        if self.execution not in EXECUTIONS:
            raise UserError(f"model.execution must be one of {', '.join(EXECUTIONS)}, got {self.execution!r}")
        if self.autocast not in AUTOCASTS:
            raise UserError(f"model.autocast must be one of {', '.join(AUTOCASTS)}, got {self.autocast!r}")
        for role, dtype in self.dtypes.items():
            known = [name for name in PRECISIONS if name != "int8" or role != "vae"]
            if dtype not in known:
                raise UserError(f"model.{role}.dtype must be one of {', '.join(known)}, got {dtype!r}")
            if self.autocast != "none" and role != "vae" and dtype != "float32":
                raise UserError(
                    f"model.autocast={self.autocast} needs float32, not model.{role}.dtype={dtype}; set one of the two"
                )
            if self.execution in ("compile", "graphs") and dtype == "int8":
                raise UserError(f"model.{role}.dtype=int8 needs model.execution=eager, got {self.execution}")

    def target_identity(self) -> tuple[str, ...]:
        """Tells whether two pairs have the same VQVAE and target: by their files' names, or by the shipped pair's."""
        files = tuple(PurePath(getattr(self, role)).name for role in ("vae", "target"))
        return files if any(files) else (self.name.partition("_")[0],)  # embedded_plain, embedded_late

    @property
    def key(self) -> str:
        """As the fingerprint of a study names it: its name, its files where it names any, what is unusual in its arithmetic."""
        plain = self.plainly()
        return " ".join(part for part in (*plain.identity().values(), *self.words(plain)) if part)

    def plainly(self) -> ModelSpec:
        """The same files under the usual arithmetic."""
        return replace(
            self, execution=ModelSpec.execution, autocast=ModelSpec.autocast, vae_dtype="", draft_dtype="", target_dtype=""
        )

    @property
    def dtypes(self) -> dict[str, str]:
        """Precision of each role that has one of its own."""
        return {role: dtype for role in ROLES if (dtype := getattr(self, f"{role}_dtype"))}

    def under(self, dtype: str) -> ModelSpec:
        """The same in a study of this dtype, which is not said of a role again."""
        return replace(self, **{f"{role}_dtype": "" for role, own in self.dtypes.items() if own == dtype})

    def arithmetic(self) -> dict[str, str]:
        """Texts of its settings that are not the default: execution, autocast, dtypes of roles."""
        named = {"execution": (self.execution, "eager"), "autocast": (self.autocast, "none")}
        unusual = {name: value for name, (value, usual) in named.items() if value != usual}
        return unusual | {f"{role}_dtype": dtype for role, dtype in self.dtypes.items()}

    def words(self, usual: ModelSpec) -> list[str]:
        """Words of a name: its own name, where the files differ, and what is unusual in its arithmetic."""
        own = [] if self.plainly().identity() == usual.plainly().identity() else [self.name]
        texts = ((key, value) for key, value in self.arithmetic().items())
        return own + [value if key == "execution" else f"{key.removesuffix('_dtype')}={value}" for key, value in texts]

    def identity(self) -> dict[str, str]:
        """Plain data that the cell id is a hash of: the files' names, not where they lie."""
        own = {"name": self.name} | {role: PurePath(getattr(self, role)).name for role in ("vae", "draft", "target")}
        return own | self.arithmetic()


def _default_schedule() -> Choice:
    return choose("cfg_schedule", "linear")


@dataclass(frozen=True)
class Cell:
    """One configuration of the decoder. `mask`, `acceptance`, `gamma` are None where the strategy reads none.

    proposer: who proposes stages, None for the draft.
    """

    strategy: Choice
    cfg_schedule: Choice = field(default_factory=_default_schedule)
    mask: Choice | None = None
    acceptance: Choice | None = None
    gamma: Choice | None = None
    sampling: Sampling = field(default_factory=Sampling)
    model: ModelSpec = field(default_factory=ModelSpec)
    batch: int = 1
    proposer: Choice | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UserError(f"batch must be ≥ 1, got {self.batch}")

    @property
    def reads(self) -> tuple[str, ...]:
        """Factors that the strategy reads, of mask, acceptance, gamma, proposer, noise."""
        return tuple(self.strategy.declares("reads", ()))

    def normalised(self) -> Cell:
        """The same cell without the factors that its strategy does not read, and under its canonical name."""
        cell = replace(
            self,
            mask=self.mask if "mask" in self.reads else None,
            acceptance=self.acceptance if "acceptance" in self.reads else None,
            gamma=self.gamma if "gamma" in self.reads else None,
            proposer=self.proposer if "proposer" in self.reads else None,
        )
        for role in {"draft", "target"} - set(self.strategy.declares("models", ("draft", "target"))):
            cell = replace(cell, model=replace(cell.model, **{f"{role}_dtype": ""}))
        if "noise" not in self.reads:
            cell = replace(cell, sampling=replace(cell.sampling, noise=Noise.shared))
        canonical = self.strategy.entry.meta.get("canonical")
        return canonical(cell) if canonical else cell

    def as_dict(self) -> dict[str, Any]:
        """Semantic configuration as plain data, the input of the hash."""
        out: dict[str, Any] = {"model": self.model.identity(), "strategy": self.strategy.as_dict()}
        for name in ("mask", "acceptance", "gamma", "proposer", "cfg_schedule"):
            choice = getattr(self, name)
            if choice is not None and not (name == "proposer" and choice.declares("usual")):  # the draft is not said
                out[name] = choice.as_dict()
        out["sampling"] = plain(self.sampling)
        out["batch"] = self.batch
        return out

    @property
    def id(self) -> str:
        """12 hexadecimal digits of the SHA-256 of the canonical JSON of `normalised().as_dict()`."""
        text = json.dumps(self.normalised().as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def baseline(self) -> Cell:
        """The cell's own baseline, which isolates the decoder: `sequential`, same model, guidance and sampling, batch 1."""
        return replace(self, strategy=choose("strategy", "sequential"), batch=1).normalised()

    @classmethod
    def sequential(cls, config: Mapping[str, Any], model: ModelSpec) -> Cell:
        """The inverse of `as_dict` for a cell of the target alone. Raises `UserError` for values that do not fit."""
        schedule = dict(config["cfg_schedule"])
        sampling: dict[str, Any] = {k: Noise(v) if k == "noise" else v for k, v in config["sampling"].items()}
        chosen = choose("cfg_schedule", schedule.pop("name"), **{k: v for k, v in schedule.items() if k != "source"})
        return cls(choose("strategy", "sequential"), chosen, sampling=Sampling(**sampling), model=model).normalised()

    def compared_with(self, reference: Cell | None) -> Cell:
        """The cell that headline numbers compare this one with: the study's reference, on this cell's target.

        A cell of another target is compared with that target alone, under the reference's guidance and sampling. Without a
        reference it is the cell's own baseline.
        """
        if reference is None:
            return self.baseline()
        if self.model.target_identity() == reference.model.target_identity():
            return reference
        return replace(reference, model=self.model.plainly()).normalised()


@dataclass(frozen=True, order=True)
class Unit:
    """One image of a cell. `row` is 0 except in the drop-in functions, where it is the batch row."""

    label: int
    seed: int
    row: int = 0
