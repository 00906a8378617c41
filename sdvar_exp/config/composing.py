"""One Hydra job: choices composed by Hydra, then values set one by one so that each mistake gets a line of its own.

Values are applied to the composed tree exactly as Hydra applies them (after all files, in order). A composition takes
a tenth of a second, so compositions are kept by their choices (those of conf/ alone for the whole process, until a file or
an entry changes), and in large sweeps and busy processes the nodes of self-contained groups are composed once each and put
together (`Composer.assembled`).
"""

from __future__ import annotations

import copy
import dataclasses
import os
import threading
import typing
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from sdvar_exp.config.errors import explain, one_line
from sdvar_exp.config.folder import CELL_GROUPS, GROUPS, STUDY_GROUPS, conf_folder, find, names
from sdvar_exp.config.overrides import Item, Known, choice_text, owners_text, quoted, unquoted
from sdvar_exp.config.reading import reading
from sdvar_exp.config.schema import stored, type_text, writable
from sdvar_exp.errors import UserError
from sdvar_exp.guest import check_working_folder
from sdvar_exp.words import did_you_mean

CONFIG_NAME = "config"
T = TypeVar("T")
_one_at_a_time = threading.RLock()
_process: dict[tuple[Any, ...], Tree | str] = {}  # compositions of conf/ alone
MOST_KEPT = 500  # of them
MANY = 20  # compositions of a process; one that has made so many is to make more
LEAVES = ("model", "mask", "cfg_schedule", "acceptance", "gamma", "proposer", "sampling")


def version_arguments() -> dict[str, str]:
    """Hydra 1.3 asks for `version_base`; later versions no longer take one."""
    major, minor = (int(x) for x in hydra.__version__.split(".")[:2])
    return {"version_base": "1.3"} if (major, minor) == (1, 3) else {}


@contextmanager
def started(extra: Path | None = None) -> Iterator[None]:
    """Hydra set up on the conf folder, for the length of a `with`; inside a Hydra job, that job's set-up comes back after.

    Hydra has one state for the whole process: a second thread waits. extra: the user's `--config-dir`, whose choices are
    names too.
    """
    check_working_folder()
    with _one_at_a_time:
        yield from _started(extra)


def _started(extra: Path | None) -> Iterator[None]:
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with (
            reading(partial(names, extra=extra)),
            initialize_config_dir(config_dir=str(conf_folder()), job_name="sdvar-exp", **version_arguments()),
        ):
            yield
    finally:
        GlobalHydra.instance().clear()
        if before is not None:
            GlobalHydra.instance().initialize(before)


def compose_file(name: str, settings: type[T], overrides: Sequence[str]) -> T:
    """An object of a dataclass from conf/<name>.yaml, whose schema is `schema_<name>`, and overrides.

    Raises `UserError` in one line for anything wrong.
    """
    schema = OmegaConf.structured(settings)
    writable(schema)
    ConfigStore.instance().store(name=f"schema_{name}", node=schema)
    try:
        with started():
            return typing.cast(T, OmegaConf.to_object(hydra.compose(name, list(overrides))))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(str(error).splitlines()[0]) from None


@dataclass
class Tree:
    """A composed configuration. choices: option of each group; params: `hydra.sweeper.params`."""

    cfg: DictConfig
    choices: dict[str, str | None]
    params: dict[str, str]

    def copy(self) -> Tree:
        return Tree(copy.deepcopy(self.cfg), dict(self.choices), dict(self.params))


@dataclass
class Composer:
    """Composes jobs inside `started()`.

    extra: the user's `--config-dir`; searchpath: of a `hydra.searchpath=`; large: whether the sweep is so large that
    assembling pays.
    """

    extra: Path | None = None
    searchpath: tuple[str, ...] = ()
    large: bool = False
    _kept: dict[tuple[str, ...], Tree | str] = field(default_factory=dict)

    def base(self, choices: Iterable[str]) -> Tree:
        """A fresh tree with these group choices (`group=option`); raises `UserError`."""
        key = tuple(choices)
        tree = self.assembled(key) if self.large or len(_process) > MANY else None
        if tree is not None:
            return tree
        kept = self._composed(key)
        if isinstance(kept, str):
            raise UserError(kept)
        return kept.copy()

    def _composed(self, key: tuple[str, ...]) -> Tree | str:
        if key not in self._kept:
            self._kept[key] = self._compose(key)
        return self._kept[key]

    def _compose(self, choices: tuple[str, ...]) -> Tree | str:
        if self.extra or self.searchpath:
            return self._compose_anew(choices)
        key = (choices, _files(str(conf_folder())), stored())
        if key not in _process:
            if len(_process) >= MOST_KEPT:
                _process.clear()
            _process[key] = self._compose_anew(choices)
        return _process[key]

    def _compose_anew(self, choices: tuple[str, ...]) -> Tree | str:
        paths = [f"file://{self.extra}"] if self.extra else []
        paths += self.searchpath
        more = [f"hydra.searchpath=[{','.join(map(quoted, paths))}]"] if paths else []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cfg = hydra.compose(CONFIG_NAME, overrides=[*choices, *more], return_hydra_config=True)
            params = OmegaConf.to_container(cfg.hydra.sweeper.get("params") or OmegaConf.create({}), resolve=True)
        except Exception as error:  # whatever is raised here comes of a choice or of a yaml file
            return explain(error, Known(self.extra).suggest)
        chosen = {str(k): None if v is None else str(v) for k, v in cfg.hydra.runtime.choices.items()}
        with open_dict(cfg):
            del cfg["hydra"]
        return Tree(cfg, chosen, typing.cast("dict[str, str]", params))

    def assembled(self, choices: tuple[str, ...]) -> Tree | None:
        """The same tree from compositions of one choice each, or None if a yaml reaches beyond its own group.

        The node of a group is merged from the file of its choice and from study-level files (experiment, debug) only.
        """
        split = [(group, unquoted(name)) for group, _, name in (choice.partition("=") for choice in choices)]
        leaves = [(group, name) for group, name in split if group in LEAVES]
        if not all(self._self_contained(group, name) for group, name in split if group not in STUDY_GROUPS):
            return None
        study = tuple(c for c, (group, _) in zip(choices, split, strict=True) if group in STUDY_GROUPS)
        main = self._chosen(study, [(group, name) for group, name in split if group not in (*LEAVES, *STUDY_GROUPS)])
        parts = {group: self._chosen(study, [(group, name)]) for group, name in leaves}
        if isinstance(main, str) or any(isinstance(part, str) for part in parts.values()):
            return None
        tree = main.copy()
        for group, part in parts.items():
            assert isinstance(part, Tree)
            tree.cfg[group] = copy.deepcopy(part.cfg[group])
            tree.choices[group] = part.choices[group]
        return tree

    def _chosen(self, study: tuple[str, ...], pairs: Sequence[tuple[str, str]]) -> Tree | str:
        """The composition of study-level choices and `pairs`; that of the former alone where it has chosen the same."""
        given = self._composed(study)
        if isinstance(given, Tree) and all(given.choices.get(group) == name for group, name in pairs):
            return given
        return self._composed((*study, *(choice_text(group, name) for group, name in pairs)))

    def _self_contained(self, group: str, name: str) -> bool:
        """Whether a yaml sets nothing outside its group; a strategy may choose defaults for others."""
        path = find(group, name, self.extra)
        text = path.read_text(encoding="utf-8", errors="replace") if path else ""
        return "@package" not in text and (group == "strategy" or "_global_" not in text) and not self.searchpath

    def job(self, items: Mapping[str, Item], errors: list[str]) -> Tree | None:
        """The tree of one job; what is wrong goes to `errors`. None if the choices do not compose."""
        try:
            tree = self.base(i.text for i in items.values() if i.is_group and i.value is not None)
        except UserError as error:
            errors.append(str(error))
            return None
        cfg, before = tree.cfg, len(errors)
        for group in (*CELL_GROUPS, "tracking", "engine", "design"):
            node = cfg._get_node(group)
            if not isinstance(node, DictConfig) or node._is_none() or OmegaConf.get_type(node) is dict:
                errors.append(
                    f"{group}={tree.choices.get(group)}: its yaml has no schema; begin its defaults with "
                    f"/schema/{group}/<entry>@_here_ and _self_"
                )
        if len(errors) > before:
            return None
        for item in items.values():
            if not item.is_group and not item.key.startswith("hydra"):
                problem = apply(tree, item)
                if problem:
                    errors.append(problem)
        return tree


def _files(folder: str) -> tuple[tuple[str, int, int], ...]:
    """Path, time of change and size of every file in a folder and below."""
    found = [(entry.path, entry.stat(), entry.is_dir()) for entry in os.scandir(folder)]
    own = [(path, stat.st_mtime_ns, stat.st_size) for path, stat, is_folder in found if not is_folder]
    return (*own, *(file for path, _, is_folder in found if is_folder for file in _files(path)))


def apply(tree: Tree, item: Item) -> str | None:
    """Set one value in the tree; what is wrong with it, or None."""
    path = item.key.split(".")
    node: Any = tree.cfg
    for depth, part in enumerate(path[:-1]):
        if not _has(node, part):
            return _unknown(tree, item.key, ".".join(path[:depth]))
        node = node[part]
    if not _has(node, path[-1]):
        return _unknown(tree, item.key, ".".join(path[:-1]))
    if item.override.is_add() and not item.override.is_force_add():
        return f"{item.text}: {item.key} is there already; write it without +"
    if item.override.is_delete():
        return f"{item.text}: {item.key} cannot be removed; write {item.key}=…"
    cls = OmegaConf.get_type(node)
    hint = typing.get_type_hints(cls).get(path[-1]) if dataclasses.is_dataclass(cls) else None
    value = item.value
    if isinstance(value, bool | int | float) and hint in (str, str | None):  # e.g. study=1e5, whose text is meant
        value = item.text.partition("=")[2].strip()
    try:
        OmegaConf.update(tree.cfg, item.key, value, merge=True)
    except OmegaConfBaseException as error:
        if hint is None:
            return f"{item.key}: {one_line(error)}"
        return f"{item.key} must be {type_text(hint)}, got {shown(item.value)}"
    return None


def _has(node: Any, key: str) -> bool:
    """Whether a node has a key; `in` would not count one without a value."""
    return isinstance(node, DictConfig) and key in list(node)


def _unknown(tree: Tree, key: str, parent: str) -> str:
    node = OmegaConf.select(tree.cfg, parent) if parent else tree.cfg
    siblings = [str(k) for k in node if k != "name"] if isinstance(node, DictConfig) else []
    guess = did_you_mean(key.rpartition(".")[2], siblings)
    group = key.split(".")[0]
    if group not in GROUPS:
        return f"unknown key {key!r}{guess}"
    chosen = OmegaConf.select(tree.cfg, f"{group}.name") or tree.choices.get(group)
    return f"unknown key {key!r}: {group}={chosen} has {', '.join(siblings) or 'no parameters'}{guess or owners_text(key)}"


def shown(value: Any) -> str:
    """A value as it stands in a message."""
    return "null" if value is None else repr(value)


def plain(cfg: DictConfig, key: str) -> Any:
    """A value as plain data, enums by their value; `UserError` where it is missing or cannot be resolved."""
    try:
        value = cfg[key]
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{getattr(error, 'full_key', None) or key} has no value here: set it") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{key}: {one_line(error)}") from error
    return value.value if isinstance(value, Enum) else value
