"""Reads yaml files so that a name means the choice of that name, whatever YAML makes of the word.

YAML 1.1, which PyYAML reads, takes a bare `off` for a truth value, `1e3` for a number and `null` for nothing. Here `on`,
`off`, `yes` and `no` are text everywhere (keys that hold truth values take them as text), and where the name of a choice
stands (a defaults list, `exclude`, `require`, `hydra.sweeper.params`) a word that is the name of one means it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from omegaconf import DictConfig, OmegaConf

from sdvar_exp.cell import ROLES
from sdvar_exp.config.folder import GROUPS
from sdvar_exp.errors import UserError
from sdvar_exp.words import did_you_mean, nearest

LOADERS = "omegaconf._yaml" if find_spec("omegaconf._yaml") else "omegaconf._utils"
"""Home of OmegaConf's yaml loader: a module of its own from 2.4 on, which Hydra 1.4 needs."""
TEXT = yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG
BOOL, NULL = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:null"
SPELLINGS = {"on": True, "yes": True, "off": False, "no": False}
"""Words that YAML 1.1 takes for truth values and YAML 1.2 for text."""
MOST_REPEATED = 1_000  # values that the aliases of one file repeat: nine lines of nested ones stand for 9⁹
MOST_BYTES = 4_000_000  # of one file
MOST_INTERPOLATIONS = 24  # of one file or command line: each can double or treble what the one before it stands for
MISSING = "???"
WITHOUT = ("experiment",)  # groups of which nothing may be chosen
Names = Callable[[str], Iterable[str]]


def _loader(text: str) -> Any:
    """OmegaConf's loader of yaml, with the truth values of YAML 1.2."""
    made = import_module(LOADERS).get_yaml_loader()
    made.yaml_implicit_resolvers = {
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != BOOL]
        for letter, resolvers in made.yaml_implicit_resolvers.items()
    }
    made.add_implicit_resolver(BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    return made(text)


def read_yaml(text: str, names: Names, file: str = "") -> Any:
    """The configuration that a yaml text holds. names: the choices of a group, none of a word that is no group.

    file: what a message calls it.
    Raises `yaml.YAMLError` for what is no yaml, `OSError` for a single value, `UserError` for what stands for too much.
    """
    loader = _loader(text)
    loader.name = file
    try:
        root = loader.get_single_node()
        if root is not None:
            _check_size(root, file)
        if isinstance(root, yaml.MappingNode):
            _mark(root, names)
        data = None if root is None else loader.construct_document(root)
    finally:
        loader.dispose()
    if data is not None and not isinstance(data, dict | list | str):
        raise OSError(f"it holds a single value, {data!r}, and no keys")
    return OmegaConf.create({} if data is None else data)


def _check_size(root: yaml.Node, file: str) -> None:
    """Raise `UserError` where aliases or interpolations make a short text stand for very much."""
    visited: dict[int, int] = {}
    if _expanded(root, lambda node: 1, visited) - len(visited) > MOST_REPEATED:
        raise UserError(f"{file}: its aliases (*) repeat more than {MOST_REPEATED} values; write out those that are needed")
    check_interpolations(_expanded(root, lambda node: node.value.count("${") if node.id == "scalar" else 0, {}), file)


def _expanded(node: yaml.Node, weight: Callable[[yaml.Node], int], kept: dict[int, int]) -> int:
    """The sum of a weight over a node and all within, as often as aliases repeat them; each is visited once.

    Raises `RecursionError` for a node inside of itself.
    """
    if id(node) not in kept:
        kept[id(node)] = -1
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in inner for part in pair]
        kept[id(node)] = weight(node) + sum(_expanded(part, weight, kept) for part in inner)
    if kept[id(node)] < 0:
        raise RecursionError
    return kept[id(node)]


def check_interpolations(number: int, where: str) -> None:
    """Raise `UserError` for so many `${…}` that texts which double from one to the next could fill the memory."""
    if number > MOST_INTERPOLATIONS:
        raise UserError(f"{where} has {number} interpolations (${{…}}), more than {MOST_INTERPOLATIONS}: write the values out")


def _spread_roles(node: yaml.MappingNode) -> None:
    """Write `target: {file: F, dtype: T}` as the schema has it, `target: F` and `target_dtype: T`."""
    out = []
    for key, value in node.value:
        named = dict(_pairs(value)) if isinstance(key.value, str) and key.value in ROLES else {}
        if not named or not named.keys() <= {"file", "dtype"}:
            out.append((key, value))
            continue
        words = {"file": key.value, "dtype": f"{key.value}_dtype"}
        out += [(yaml.ScalarNode(TEXT, words[word], key.start_mark, key.end_mark), own) for word, own in named.items()]
    node.value = out


def _mark(root: yaml.MappingNode, names: Names) -> None:
    """Turn names of choices into text, each where it stands."""
    _spread_roles(root)
    for key, value in _pairs(root):
        if key == "model" and isinstance(value, yaml.MappingNode):
            _spread_roles(value)
        if key == "name" or (key in ("study", "results_dir") and value.tag != NULL):
            _as_text(value)
        elif key == "defaults":
            for item in _items(value):
                for group, choice in _pairs(item):
                    _as_name(choice, group.split(" ")[-1].partition("@")[0].lstrip("/"), names)
        elif key in ("exclude", "require"):
            for rule in _items(value):
                for group, choices in _pairs(rule):
                    for choice in _items(choices) or [choices]:
                        _as_name(choice, group, names)
        elif key == "hydra":
            for params in (p for k, s in _pairs(value) if k == "sweeper" for q, p in _pairs(s) if q == "params"):
                for _, swept in _pairs(params):
                    _as_text(swept)


def _pairs(node: yaml.Node) -> list[tuple[str, yaml.Node]]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return [(key.value, value) for key, value in pairs if isinstance(key, yaml.ScalarNode)]


def _items(node: yaml.Node) -> list[yaml.Node]:
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _as_text(node: yaml.Node) -> None:
    if isinstance(node, yaml.ScalarNode):
        node.tag = TEXT


def _as_name(node: yaml.Node, group: str, names: Names) -> None:
    """`experiment: null` alone keeps its meaning: no experiment."""
    none = group == "experiment" and node.value == "null"
    if isinstance(node, yaml.ScalarNode) and node.tag != TEXT and not none and node.value in names(group):
        _as_text(node)


def _check_defaults(config: Any, where: str) -> None:
    """Raise `UserError` for what cannot stand in the defaults list of an experiment."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    listed = plain.get("defaults", []) if isinstance(plain, dict) else []
    if not isinstance(listed, list):
        raise UserError(f"{where}.yaml: defaults is a list, as ['override /mask: block_causal', _self_], not {listed!r}")
    for item in listed:
        if isinstance(item, str) and item != MISSING:
            continue
        key, value = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else ("", None)
        words = str(key).split()
        group = words[-1].lstrip("/") if words else ""
        if not isinstance(key, str) or not words or not isinstance(value, str | list | None):
            raise UserError(f"{where}.yaml: defaults: {item!r} is no choice; write e.g. '- override /mask: block_causal'")
        if group == "experiment" and value is not None:
            raise UserError(f"{where}.yaml: defaults: to build on another experiment write '- {value}'")
        if group in GROUPS and (words[:-1] != ["override"] or not words[-1].startswith("/")) and group not in WITHOUT:
            name = value if isinstance(value, str) else "NAME"
            raise UserError(f"{where}.yaml: defaults: {group} is chosen already; write there '- override /{group}: {name}'")
        if group in GROUPS and value is None and group not in WITHOUT:
            raise UserError(f"{where}.yaml: defaults: {key}: null chooses nothing; `sdvar-exp ls {group}` lists what there is")
        if group not in GROUPS and "override" in words and not group.startswith("hydra"):
            raise UserError(f"{where}.yaml: defaults: unknown group {group!r}{did_you_mean(group, GROUPS)}")


def _check_values(config: Any, where: str) -> None:
    """Raise `UserError` for a value that is left out; what stands below would count without a word."""
    for key in config if isinstance(config, DictConfig) else ():
        value = config._get_node(key)
        if value is not None and OmegaConf.is_config(value):
            _check_values(value, where)
        if OmegaConf.is_missing(config, key):
            full = config._get_full_key(key)
            raise UserError(
                f"{where}.yaml: {full}: {MISSING} stands for a value that is missing; give one, or leave the key out"
            )


def _check_choices(config: Any, where: str, names: Names) -> None:
    """Raise `UserError` where a file of the whole configuration chooses by a key what the defaults list chooses."""
    for group in GROUPS if isinstance(config, DictConfig) else ():
        if group not in config or group == "debug":
            continue
        value = config._get_node(group)
        name = value.get("name") if isinstance(value, DictConfig) and group != "model" else None
        if name is None and isinstance(value, DictConfig):
            continue
        word = name or config.get(group)
        if group == "gamma" and isinstance(word, int):
            raise UserError(f"{where}.yaml: gamma is chosen in its defaults list; did you mean 'gamma: {{value: {word}}}'?")
        choice = (nearest(word, names(group)) or word) if isinstance(word, str) else "<name>"
        raise UserError(f"{where}.yaml: {group} is chosen in its defaults list; write there '- override /{group}: {choice}'")
    node: Any = config
    for key in ("hydra", "sweeper") if isinstance(config, DictConfig) else ():
        if key not in node:
            return
        node = node._get_node(key)
        if not isinstance(node, DictConfig) or node._is_none():
            raise UserError(f"{where}.yaml: {key} holds keys of its own, e.g. hydra.sweeper.params; give them or leave it out")


@contextmanager
def reading(names: Names) -> Iterator[None]:
    """For the length of a `with`, Hydra reads the files of its search path by `read_yaml`."""

    class Source(FileConfigSource):
        def load_config(self, config_path: str) -> ConfigResult:
            file = Path(self.path) / self._normalize_file_name(config_path)
            if not file.exists():
                raise ConfigLoadError(f"Config not found : {file}")
            if not file.is_file() or file.stat().st_size > MOST_BYTES:
                raise UserError(f"{file} is no file of at most {MOST_BYTES // 10**6} MB: give another as the configuration")
            try:
                text = file.read_text(encoding="utf-8")
                config = read_yaml(text, cache(names), str(file))
            except UnicodeDecodeError:
                raise UserError(f"{file} is no text in UTF-8") from None
            except RecursionError:
                raise UserError(f"{file} is too deeply nested, or refers to itself") from None
            place, header = f"{self.scheme()}://{self.path}", self._get_header_dict(text[:512])
            if config_path.startswith(("experiment/", "debug/")) and header.get("package") == "_global_":
                _check_defaults(config, config_path)
                _check_choices(config, config_path, names)
                _check_values(config, config_path)
            return ConfigResult(self.provider, place, config, header)

    Source.__name__ = FileConfigSource.__name__  # a launcher's job gets this state and registers its own source again, by name
    Plugins.instance()  # registers Hydra's own sources
    types = SourcesRegistry.instance().types
    before, types["file"] = types["file"], Source
    try:
        yield
    finally:
        types["file"] = before
