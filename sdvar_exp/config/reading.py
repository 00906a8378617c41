"""Reads yaml files so that a name means the choice of that name, whatever YAML makes of the word.

YAML 1.1, which PyYAML reads, takes a bare `off` for a truth value, `1e3` for a number and `null` for nothing. Here `on`,
`off`, `yes` and `no` are text everywhere (keys that hold truth values take them as text), and where the name of a choice
stands (a defaults list, `exclude`, `hydra.sweeper.params`) a word that is the name of one means it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader

from sdvar_exp.config.folder import GROUPS
from sdvar_exp.errors import UserError

TEXT = yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG
BOOL, NULL = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:null"
SPELLINGS = {"on": True, "yes": True, "off": False, "no": False}
"""Words that YAML 1.1 takes for truth values and YAML 1.2 for text."""
Names = Callable[[str], Iterable[str]]


def _loader(text: str) -> Any:
    """OmegaConf's loader of yaml, with the truth values of YAML 1.2."""
    made = get_yaml_loader()
    made.yaml_implicit_resolvers = {
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != BOOL]
        for letter, resolvers in made.yaml_implicit_resolvers.items()
    }
    made.add_implicit_resolver(BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    return made(text)


def read_yaml(text: str, names: Names, file: str = "") -> Any:
    """The configuration that a yaml text holds. names: the choices of a group, none of a word that is no group.

    file: what a message calls it.
    Raises `yaml.YAMLError` for what is no yaml, `OSError` for a single value.
    """
    loader = _loader(text)
    loader.name = file
    try:
        root = loader.get_single_node()
        if isinstance(root, yaml.MappingNode):
            _mark(root, names)
        data = None if root is None else loader.construct_document(root)
    finally:
        loader.dispose()
    if data is not None and not isinstance(data, dict | list | str):
        raise OSError(f"it holds a single value, {data!r}, and no keys")
    return OmegaConf.create({} if data is None else data)


def _mark(root: yaml.MappingNode, names: Names) -> None:
    """Turn names of choices into text, each where it stands."""
    for key, value in _pairs(root):
        if key == "name" or (key in ("study", "results_dir") and value.tag != NULL):
            _as_text(value)
        elif key == "defaults":
            for item in _items(value):
                for group, choice in _pairs(item):
                    _as_name(choice, group.split(" ")[-1].partition("@")[0].lstrip("/"), names)
        elif key == "exclude":
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


def _check_choices(config: Any, where: str) -> None:
    """Raise `UserError` where a file of the whole configuration chooses by a key what the defaults list chooses."""
    for group in GROUPS if isinstance(config, DictConfig) else ():
        if group not in config or group == "debug":
            continue
        value = config._get_node(group)
        name = value.get("name") if isinstance(value, DictConfig) and group != "model" else None
        if name is None and isinstance(value, DictConfig):
            continue
        word = name or config.get(group)
        line = f"- override /{group}: {word if isinstance(word, str) else '<name>'}"
        raise UserError(f"{where}.yaml: {group} is chosen in its defaults list; write there {line!r}")
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
            try:
                text = file.read_text(encoding="utf-8")
                config = read_yaml(text, cache(names), str(file))
            except UnicodeDecodeError:
                raise UserError(f"{file} is no text in UTF-8") from None
            except RecursionError:
                raise UserError(f"{file} is too deeply nested, or refers to itself") from None
            place, header = f"{self.scheme()}://{self.path}", self._get_header_dict(text[:512])
            if config_path.startswith(("experiment/", "debug/")) and header.get("package") == "_global_":
                _check_choices(config, config_path)
            return ConfigResult(self.provider, place, config, header)

    Source.__name__ = FileConfigSource.__name__  # a launcher's job gets this state and registers its own source again, by name
    Plugins.instance()  # registers Hydra's own sources
    types = SourcesRegistry.instance().types
    before, types["file"] = types["file"], Source
    try:
        yield
    finally:
        types["file"] = before
