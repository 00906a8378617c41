"""Schemas of the configuration: dataclasses without `_target_`, made from the registry and put into the ConfigStore.

A frozen dataclass becomes a read-only node that Hydra cannot compose, and OmegaConf names enum members by their Python
name, which cannot be `continue`. So each entry gets a plain twin of its parameters: same fields, types and defaults,
enums with their values as names, and a field `name`. `to_choice` turns a composed twin back into the entry's own class.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from enum import Enum
from functools import cache, partial
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdvar_exp import registry
from sdvar_exp.cell import Sampling
from sdvar_exp.config.errors import one_line
from sdvar_exp.config.folder import find
from sdvar_exp.errors import UserError
from sdvar_exp.registry import Choice, Entry

LARGEST = 2**53  # of a number in a configuration: a double holds every integer up to it, and no index overflows


class Dtype(Enum):
    """Floating-point type of models and decoding."""

    float32 = "float32"
    float64 = "float64"
    bfloat16 = "bfloat16"
    float16 = "float16"


class TrackingMode(Enum):
    """Modes of W&B."""

    offline = "offline"
    online = "online"
    none = "none"


@dataclass
class TimingNode:
    """units: how many units of a cell are timed, 0 for none; repeats: how often each; band: where A/A must lie."""

    units: int = MISSING
    repeats: int = MISSING
    band: list[float] = MISSING


@dataclass
class ModelNode:
    """A pair of models. classes and stages are declared so that planning loads no checkpoint.

    execution: eager, auto (the fastest products of this CPU), compile (torch.compile) or graphs (CUDA graphs per stage).
    autocast: none, bfloat16 or float16 (products in that type, the rest in float32).
    vae_dtype, draft_dtype, target_dtype: precision of a role, also written model.target.dtype; empty: the study's dtype.
    guided: whether it is meant to be sampled with guidance; a notice names the cells that do otherwise.
    """

    name: str = MISSING
    vae: str = MISSING
    draft: str = MISSING
    target: str = MISSING
    folder: str = ""
    published: str = ""
    execution: str = "eager"
    autocast: str = "none"
    vae_dtype: str = ""
    draft_dtype: str = ""
    target_dtype: str = ""
    guided: bool = True
    classes: int = MISSING
    stages: int = MISSING


@dataclass
class TrackingNode:
    """mode: offline, online or none; tracker: who is sent to; the rest is null for what WANDB_* or W&B itself says."""

    mode: TrackingMode = MISSING
    tracker: str = "wandb"
    project: str | None = None
    entity: str | None = None
    base_url: str | None = None


@dataclass
class EngineNode:
    """name: which engine runs the units; the rest as in `EngineOptions`, explained in conf/engine/."""

    name: str = MISSING
    unit_timeout_s: float = 0.0
    retries: int = 1
    fail_fast: bool = False
    max_failures: float = 0


@dataclass
class PoolNode(EngineNode):
    """A pool of workers on this machine."""

    workers: int = 0


@dataclass
class SlurmNode(PoolNode):
    """An array of Slurm jobs, each with a pool of its own."""

    detach: bool = False
    partition: str = ""
    time_min: int = 60
    cpus: int = 1
    gpus: int = 0
    memory_gb: float = 0.0
    workers_per_job: int = 1
    requeues: int = 8
    setup: list[str] = field(default_factory=list)
    sbatch: list[str] = field(default_factory=list)


class DesignName(Enum):
    """Ways to combine swept values."""

    product = "product"
    zip = "zip"
    list = "list"
    ofat = "ofat"
    leave_one_out = "leave_one_out"


@dataclass
class DesignNode:
    """name: how swept values are combined."""

    name: DesignName = MISSING


@dataclass
class Root:
    """All root keys; their values and what they mean are in conf/config.yaml."""

    model: Any = MISSING
    mask: Any = MISSING
    cfg_schedule: Any = MISSING
    acceptance: Any = MISSING
    gamma: Any = MISSING
    proposer: Any = MISSING
    sampling: Any = MISSING
    tracking: Any = MISSING
    engine: Any = MISSING
    strategy: Any = MISSING
    debug: Any = MISSING
    labels: Any = MISSING
    seeds: Any = MISSING
    study: str | None = MISSING
    results_dir: str = MISSING
    device: str = MISSING
    dtype: Dtype = MISSING
    threads: int = MISSING
    batch: int = MISSING
    images: Any = MISSING
    stage_images: int = MISSING
    timing: TimingNode = MISSING
    plugins: list[str] = MISSING
    allow_mixed: bool = MISSING
    enforce_clean: bool = MISSING
    quota_gb: float = MISSING
    design: Any = MISSING
    cells: Any = MISSING
    exclude: Any = MISSING
    require: Any = MISSING
    objective: Any = MISSING
    until: Any = MISSING
    reference: Any = MISSING


FIXED_NODES: dict[tuple[str, str], type] = {
    ("model", "pair"): ModelNode,
    ("tracking", "wandb"): TrackingNode,
    ("engine", "engine"): EngineNode,
    ("engine", "pool"): PoolNode,
    ("engine", "slurm"): SlurmNode,
    ("design", "design"): DesignNode,
    ("root", "root"): Root,
}


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


@cache
def _twin_enum(enum: type[Enum]) -> type[Enum]:
    """The enum with its values as member names: `continue_ = "continue"` becomes `continue`."""
    if all(member.name == member.value for member in enum):
        return enum
    members = [(str(member.value), member.value) for member in enum]
    return typing.cast(type[Enum], Enum(enum.__name__, members))


def _twin_default(hint: Any, value: Any) -> Any:
    return _twin_enum(hint)(value.value) if _is_enum(hint) and isinstance(value, Enum) else value


@cache
def twin(params: type, name: str | None) -> type:
    """A plain dataclass with the fields of `params`, and first `name` if given.

    One for each class: a program may know an entry first without its yaml and then with it, and OmegaConf merges no others.
    """
    fields: list[Any] = [] if name is None else [("name", str, field(default=name))]
    hints = typing.get_type_hints(params)
    for f in dataclasses.fields(params):
        if f.name == "name" and name is not None:
            raise UserError(f"{name}: a parameter cannot be called 'name'")
        hint = hints[f.name]
        shown = _twin_enum(hint) if _is_enum(hint) else hint
        if f.default_factory is not dataclasses.MISSING:
            default = field(default_factory=f.default_factory)
        elif isinstance(f.default, tuple):
            default = field(default_factory=partial(list, f.default))
        else:
            known = f.default is not dataclasses.MISSING
            default = field(default=_twin_default(hint, f.default) if known else MISSING)
        fields.append((f.name, shown, default))
    return make_dataclass(params.__name__, fields)


def writable(node: Any) -> None:
    """Clear the read-only flag that frozen dataclasses leave, recursively."""
    OmegaConf.set_readonly(node, None)
    for key in node if isinstance(node, DictConfig) else ():
        if not OmegaConf.is_missing(node, key) and OmegaConf.is_config(node[key]):
            writable(node[key])


def _node(params: type, name: str | None, what: str) -> DictConfig:
    try:
        node: DictConfig = OmegaConf.structured(twin(params, name))
    except OmegaConfBaseException as error:
        raise UserError(
            f"{what}: parameters cannot be configured, use numbers, text, enums, lists or Any: {one_line(error)}"
        ) from error
    writable(node)
    return node


def store_schemas(extra: Path | None = None) -> None:
    """Put the schema of everything registered into the ConfigStore; an entry without a yaml is its own choice."""
    for (group, name), cls in FIXED_NODES.items():
        _store(f"schema/{group}", name, cls, partial(OmegaConf.structured, cls))
    _store("schema/sampling", "sampling", Sampling, lambda: _node(Sampling, None, "sampling"))
    for kind in registry.KINDS:
        for name in registry.names(kind):
            params = registry.get(kind, name).params
            groups = [f"schema/{kind}"] + ([kind] if find(kind, name, extra) is None else [])
            for group in groups:
                _store(group, name, params, partial(_node, params, name, f"{kind}={name}"))


_stored: dict[tuple[str, str], type] = {}


def _store(group: str, name: str, cls: type, make: Callable[[], Any]) -> None:
    """Store a node once for each class: a second time would only warn."""
    if _stored.get((group, name)) is not cls:
        ConfigStore.instance().store(group=group, name=name, node=make())
        _stored[group, name] = cls


def stored() -> frozenset[tuple[tuple[str, str], type]]:
    """The class of every node that is stored, by group and name."""
    return frozenset(_stored.items())


def _back(hint: Any, value: Any) -> Any:
    """A value of a twin as the real class has it."""
    if _is_enum(hint) and isinstance(value, Enum):
        return hint(value.value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)
    return value


def values_of(params: type, node: DictConfig, what: str) -> dict[str, Any]:
    """Keyword arguments for `params` from a composed node. what: the group, for messages.

    Raises `UserError` for a value that cannot be resolved and for numbers that no decode could use, unless it is the default.
    """
    try:
        got = OmegaConf.to_object(node)
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{what}: {one_line(error)}") from error
    hints, out = typing.get_type_hints(params), {}
    for f in dataclasses.fields(params):
        out[f.name] = _back(hints[f.name], getattr(got, f.name))
        if out[f.name] != f.default:
            check_number(f"{what}.{f.name}", out[f.name])
    return out


def check_number(key: str, value: Any) -> None:
    """Raise `UserError` for a number, or one in a list, that is not finite or larger than any index."""
    for one in value if isinstance(value, list | tuple) else [value]:
        if isinstance(one, int | float) and not abs(one) <= LARGEST:
            raise UserError(f"{key} must be a number within ±2⁵³, got {one}")


def to_choice(kind: str, node: DictConfig) -> Choice:
    """A composed group node as a `Choice`; ranges are checked by the entry's own class."""
    entry: Entry = registry.get(kind, node.name)
    try:
        return Choice(kind, entry.name, entry.params(**values_of(entry.params, node, kind)))
    except (TypeError, ValueError) as error:
        raise UserError(f"{kind}={entry.name}: {one_line(error)}") from error


def type_text(hint: Any) -> str:
    """A type as a user would say it."""
    if _is_enum(hint):
        return f"one of {', '.join(str(member.value) for member in hint)}"
    if dataclasses.is_dataclass(hint):
        return f"set by its keys ({', '.join(f.name for f in dataclasses.fields(hint))})"
    plain = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    if hint in plain:
        return plain[hint]
    if typing.get_origin(hint) in (list, tuple):
        inner = [a for a in typing.get_args(hint) if a is not Ellipsis]
        many = {int: "integers", float: "numbers", str: "texts"}
        return f"a list of {many.get(inner[0], 'values') if inner else 'values'}"
    args = [a for a in typing.get_args(hint) if a is not type(None)]
    return type_text(args[0]) if len(args) == 1 else "a value of another type"
