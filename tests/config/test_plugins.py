"""Entries and yamls of a user's own: `plugins=[…]`, `--config-dir`, types that OmegaConf knows only by detours."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from sdvar_exp import registry
from sdvar_exp.cli import main
from sdvar_exp.cli.new import EXAMPLES
from sdvar_exp.config import compose, schema
from sdvar_exp.config.template import entry_yaml
from sdvar_exp.errors import UserError, require
from sdvar_exp.store import load_results

PLUGIN = '''"""A rule and a strategy."""
from dataclasses import dataclass
from sdvar_exp.registry import Empty, register

@dataclass(frozen=True)
class Odd:
    """every: which stages pass."""
    every: int = 2

@register("acceptance", "odd", Odd)
def odd(rule, view):
    """Every second stage passes."""

@register("strategy", "mine", Empty, reads=("acceptance", "noise"))
def mine(_, decoder):
    """A strategy of my own."""
'''


@pytest.fixture
def plugin(clean_registry: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module `my_plugin` in the working directory."""
    Path("my_plugin.py").write_text(PLUGIN)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "plugins=[my_plugin]"
    sys.modules.pop("my_plugin", None)


def test_plugin_needs_no_yaml(plugin: str) -> None:
    plan = compose([plugin, "strategy=mine,sequential", "acceptance=odd", "acceptance.every=2,3"])
    assert [planned.name for planned in plan.cells] == ["mine odd every=2", "mine odd every=3", "sequential"]
    assert plan.settings.plugins == ("my_plugin",)


def test_plugin_is_checked_like_the_rest(plugin: str, lines: Any) -> None:
    assert lines(plugin, "strategy=mine", "acceptance=odd", "acceptance.evry=3") == [
        "unknown key 'acceptance.evry': acceptance=odd has every; did you mean 'every'?"
    ]


def test_experiment_names_its_plugins(plugin: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/own.yaml").write_text(
        "# @package _global_\n# Mine.\ndefaults:\n  - override /strategy: mine\n  - _self_\nplugins: [my_plugin]\n"
    )
    plan = compose(["--config-dir", str(tmp_path), "experiment=own"])
    assert plan.cells[0].cell.strategy.name == "mine" and plan.study == "own"


def test_yaml_of_a_user_is_a_preset(tmp_path: Path) -> None:
    (tmp_path / "strategy").mkdir()
    (tmp_path / "strategy/late.yaml").write_text(
        "# Late hand-off.\ndefaults:\n  - /schema/strategy/test3@_here_\n  - _self_\nentry_num: 8\n"
    )
    (planned,) = compose(["--config-dir", str(tmp_path), "strategy=late"]).cells
    assert (planned.cell.strategy.name, planned.name) == ("test3", "test3 K=8")
    assert planned.cell.id == compose(["strategy=test3", "strategy.entry_num=8"]).cells[0].cell.id


class Kind(Enum):
    """Names differ from values."""

    continue_ = "continue"
    stop = "stop"


@dataclass(frozen=True)
class Inner:
    """A frozen class inside."""

    depth: int = 1


@dataclass(frozen=True)
class Awkward:
    """All that needs a detour."""

    kind: Kind = Kind.continue_
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = field(default_factory=Inner)
    limit: float | None = None
    free: Any = "auto"

    def __post_init__(self) -> None:
        require(self.kind in tuple(Kind), f"not a kind of this class: {self.kind!r}")
        require(self.sizes[0] > 0, f"gamma.sizes must be > 0, got {self.sizes}")


@pytest.fixture
def awkward(clean_registry: None) -> None:
    @registry.register("gamma", "awkward", Awkward)
    def awkward(*_: Any) -> None:
        """A controller with awkward parameters."""


def gamma_of(*argv: str) -> Any:
    (planned,) = compose(["strategy=dynamic_gamma", "gamma=awkward", *argv]).cells
    assert planned.cell.gamma is not None
    return planned.cell.gamma.params


def test_awkward_types_come_back_as_they_are(awkward: None) -> None:
    assert gamma_of() == Awkward()
    changed = gamma_of("gamma.kind=stop", "gamma.sizes=[3]", "gamma.inner.depth=4", "gamma.limit=0.5", "gamma.free=[1,a]")
    assert changed == Awkward(Kind.stop, (3,), Inner(4), 0.5, [1, "a"])
    assert gamma_of("gamma.kind=continue").kind is Kind.continue_


def test_awkward_types_are_checked(awkward: None, lines: Any) -> None:
    argv = ("strategy=dynamic_gamma", "gamma=awkward")
    assert lines(*argv, "gamma.kind=continue_") == ["gamma.kind must be one of continue, stop, got 'continue_'"]
    assert lines(*argv, "gamma.inner.dept=3") == [
        "unknown key 'gamma.inner.dept': gamma=awkward has depth; did you mean 'depth'?"
    ]
    assert lines(*argv, "gamma.sizes=[0]") == ["gamma.sizes must be > 0, got (0,)"]


def test_template_of_an_entry(awkward: None) -> None:
    assert entry_yaml("gamma", "awkward") == (
        "# A controller with awkward parameters.\n# All that needs a detour.\ndefaults:\n"
        "  - /schema/gamma/awkward@_here_\n  - _self_\n\n"
        "kind: continue\nsizes: [1, 2]\ninner: {depth: 1}\nlimit: null\nfree: auto\n"
    )


def test_a_parameter_called_name_is_refused(clean_registry: None) -> None:
    @dataclass(frozen=True)
    class Named:
        name: str = "x"

    with pytest.raises(UserError, match="cannot be called 'name'"):
        schema.twin(Named, "entry")


def test_composing_leaves_no_trace_of_hydra() -> None:
    from hydra.core.global_hydra import GlobalHydra

    compose([])
    assert not GlobalHydra.instance().is_initialized()


def _new(kind: str, name: str, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """`new KIND NAME` in this folder; the commands that it prints, as words."""
    capsys.readouterr()
    assert main(["new", kind, name]) == 0
    said = capsys.readouterr().out
    files, commands = said.split("\n\n")
    assert all(Path(line).is_file() for line in files.splitlines())
    return [shlex.split(line) for line in commands.splitlines()]


def test_new_writes_the_example_under_another_name(
    clean_registry: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of each kind registers itself; its function, class, heading and yaml have the new name, and nothing is overwritten."""
    for kind in EXAMPLES:
        (command, *_) = _new(kind, f"own_{kind}", capsys)
        assert f"--plugin own_{kind}" in " ".join(command) or kind == "experiment"
        if kind == "experiment":
            assert Path("my_conf/experiment/own_experiment.yaml").read_text().startswith("# @package _global_")
            continue
        registry.discover([f"own_{kind}"])
        entry = registry.get(kind, f"own_{kind}")
        monkeypatch.delitem(sys.modules, f"own_{kind}")
        assert entry.function.__name__ == f"own_{kind}" and entry.doc
        if kind == "metric":
            assert entry.meta["heading"] == "own metric"
        else:
            assert entry.params.__name__.startswith("Own")
            assert f"/schema/{kind}/own_{kind}@_here_" in Path(f"my_conf/{kind}/own_{kind}.yaml").read_text()
    mistakes = {
        "stratgy x": "unknown kind 'stratgy'; did you mean 'strategy'?",
        "gamma own_gamma": "gamma=own_gamma is there already; choose another name",
        "gamma own_strategy": "own_strategy.py is there already; choose another name, or remove it first",
        "strategy test3": "strategy=test3 is there already; choose another name",
        "strategy my-x": "the name of an entry is one of Python: letters, digits and _, no digit first; got 'my-x'",
        "strategy class": "the name of an entry is one of Python: letters, digits and _, no digit first; got 'class'",
        "strategy random": "Python has a module called 'random', which would be imported instead; choose another name",
        "metric np": "'np' has a meaning in the file of a metric already; choose another name",
        "experiment a/b": "an experiment's name has letters, digits and _ . - and no others, got 'a/b'",
        "experiment demo": "experiment=demo is there already; choose another name",
    }
    before = sorted(Path.cwd().rglob("*"))
    for words, said in mistakes.items():
        assert main(["new", *words.split()]) == 2
        assert capsys.readouterr().err == f"error: {said}\n"
    assert sorted(Path.cwd().rglob("*")) == before


@pytest.mark.long
@pytest.mark.needs("weights")
def test_what_new_writes_runs_by_the_line_that_it_prints(clean_registry: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line composes, and one command decodes with all of them."""
    together = ["strategy=mine_strategy,dynamic_gamma", "acceptance=mine_acceptance", "gamma=mine_gamma", "study=mine"]
    for kind in EXAMPLES:
        command, *then = _new(kind, f"mine_{kind}", capsys)
        plan = compose(command[2:])
        assert len(plan.cells) >= 1 and plan.study == f"mine_{kind}" and plan.labels == (0, 3) and plan.seeds == (0, 1)
        together += ["--plugin", f"mine_{kind}"] if kind != "experiment" else []
        assert bool(then) == (kind == "metric")
    small = ("labels=[3]", "seeds=1", "timing.units=0", "images=none", "threads=1", "tracking=none", "--config-dir", "my_conf")
    assert main(["run", *together, *small]) == 0
    frame = load_results("results/mine")
    assert {"mine_strategy", "dynamic_gamma"} <= set(frame["strategy"]) and frame["mine_metric"].notna().all()
    assert set(frame["acceptance"].dropna()) == {"mine_acceptance"} and set(frame["gamma"].dropna()) == {"mine_gamma"}
    assert main(["table", "mine", "--plugin", "mine_metric", "--csv"]) == 0
    assert "mine_metric_low" in capsys.readouterr().out
