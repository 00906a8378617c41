"""Every yaml composes and says what its entry says; every entry has one."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sdvar_exp import registry
from sdvar_exp.config import compose, folder
from sdvar_exp.config.template import entry_yaml, parameters

CHOICES = [(group, path.stem) for group in folder.GROUPS for path in sorted((folder.conf_folder() / group).glob("*.yaml"))]
ENTRIES = [(kind, name) for kind in registry.KINDS for name in registry.names(kind)]
NEEDS = {  # what a choice cannot do without
    ("model", "files"): ["model.vae=a", "model.draft=b", "model.target=c", "model.classes=10", "model.stages=10"],
    ("mask", "no_prefix"): ["strategy=test3"],
    ("design", "list"): ["cells=[['strategy=test3']]"],
}


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_yaml_composes(group: str, name: str) -> None:
    more = NEEDS.get((group, name), [])
    if group == "gamma":
        more = ["strategy=dynamic_gamma"]
    plan = compose([f"{group}={name}", *more])
    assert plan.cells
    if group in registry.KINDS:
        choice = getattr(plan.cells[0].cell, group)
        assert choice.name == name
        assert choice == registry.choose(group, name)


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_entry_has_a_yaml(kind: str, name: str) -> None:
    """First line and values are the entry's own."""
    path = folder.conf_folder() / kind / f"{name}.yaml"
    assert path.is_file(), f"write {path} with this text:\n{entry_yaml(kind, name)}"
    assert folder.header(path) == registry.get(kind, name).doc
    values = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(values, dict)
    defaults = values.pop("defaults")
    assert defaults[:2] == [f"/schema/{kind}/{name}@_here_", "_self_"]
    assert values == parameters(kind, name), f"the text should be\n{entry_yaml(kind, name)}"


@pytest.mark.parametrize("path", sorted(folder.conf_folder().rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_says_what_it_is(path: Path) -> None:
    assert len(folder.header(path)) > 5


def test_groups_are_those_of_the_design() -> None:
    assert {path.name for path in folder.conf_folder().iterdir() if path.is_dir()} == {
        "model",
        "mask",
        "cfg_schedule",
        "acceptance",
        "gamma",
        "proposer",
        "sampling",
        "strategy",
        "tracking",
        "engine",
        "debug",
        "experiment",
        "design",
        "train",  # settings of trainings: not for runs
    }


def test_root_keys_are_documented() -> None:
    keys = {key.name: key for key in folder.root_keys()}
    assert {
        "labels",
        "seeds",
        "study",
        "results_dir",
        "device",
        "dtype",
        "batch",
        "images",
        "timing.units",
        "timing.repeats",
        "plugins",
    } <= set(keys)
    assert all(key.doc and key.default for key in keys.values())


def test_models_declare_what_planning_needs() -> None:
    """Classes and stages stand in the yaml, so that planning loads no checkpoint."""
    for name in folder.names("model"):
        if name != "files":
            text = (folder.conf_folder() / "model" / f"{name}.yaml").read_text()
            classes, stages = ("9", "9") if name == "emoji" else ("1", "10")  # 10 or 1000
            assert f"name: {name}" in text and f"\nclasses: {classes}" in text and f"\nstages: {stages}" in text
