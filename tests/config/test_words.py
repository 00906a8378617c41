"""Words mean what they look like: sweeps of seeds, names that YAML reads as something else, a ~ for the home folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sdvar_exp.cli import main
from sdvar_exp.config import compose
from sdvar_exp.errors import UserError

Lines = Callable[..., list[str]]
ODD = ("null", "1e3", "on", "no", "yes", "true", "inf", "nan", "007", "0x10", "1_000", "12:30", "2024-05-01")


@pytest.mark.parametrize(
    ("word", "seeds"),
    [
        ("seeds=3", (0, 1, 2)),
        ("seeds=1,2,3", (1, 2, 3)),
        ("seeds=0,1,2", (0, 1, 2)),
        ("seeds=3,1,3", (3, 1)),
        ("seeds=range(1,4)", (1, 2, 3)),
        ("seeds=range(5,6)", (5,)),
        ("seeds=choice(7)", (7,)),
        ("seeds=[1,2],[9]", (1, 2, 9)),
        ("seeds=4,[0,2]", (4, 0, 2)),
        ("seeds=[3]", (3,)),
    ],
)
def test_a_sweep_of_seeds_means_these_seeds(word: str, seeds: tuple[int, ...]) -> None:
    plan = compose([word, "labels=3"])
    assert plan.seeds == seeds
    alone = [int(s) for s in word.removeprefix("seeds=").split(",") if s.isdecimal()]
    assert any("a sweep of seeds means these seeds" in notice for notice in plan.notices) == (
        len(alone) > 1 or "range" in word or "choice" in word or word == "seeds=4,[0,2]"
    )


@pytest.mark.parametrize("word", ["seeds=0,-1", "seeds=range(-1,1)", "seeds=1,a", "seeds=range(0,2,0.5)"])
def test_seeds_that_are_none(word: str, lines: Lines) -> None:
    assert all("seed" in line for line in lines(word))


@pytest.mark.parametrize("key", ["device=cpu,cuda", "dtype=float32,float64", "study=a,b", "images=all,none", "threads=1,2"])
def test_other_keys_of_the_study_are_not_swept(key: str, lines: Lines) -> None:
    (line,) = lines(key)
    assert line.endswith("belongs to the whole study and cannot be swept; give one command per value")


def test_labels_that_are_swept_twice_count_once() -> None:
    assert compose(["labels=3,0,3", "seeds=1"]).labels == (3, 0)


class TestNames:
    """A choice is found under its bare name wherever a name can stand, whatever YAML or Hydra reads it as."""

    def write(self, own: Path, name: str, text: str) -> None:
        path = own / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def strengths(self, own: Path, *words: str) -> list[float]:
        plan = compose(["--config-dir", str(own), "strategy=sequential", *words])
        return [getattr(planned.cell.cfg_schedule.params, "cfg", 0.0) for planned in plan.cells]

    @pytest.fixture
    def own(self, tmp_path: Path) -> Path:
        """A folder of guidance schedules with such names: linear guidance of strength 2, 3, …"""
        for i, name in enumerate(ODD):
            text = f"defaults:\n  - /schema/cfg_schedule/linear@_here_\n  - _self_\ncfg: {i + 2}\n"
            self.write(tmp_path, f"cfg_schedule/{name}", text)
        return tmp_path

    @pytest.mark.long
    def test_on_the_command_line(self, own: Path) -> None:
        all_of_them = [float(i + 2) for i in range(len(ODD))]
        assert self.strengths(own, f"cfg_schedule={','.join(ODD)}") == all_of_them
        assert self.strengths(own, f"cfg_schedule=choice({','.join(ODD[1:7])})") == all_of_them[1:7]
        rows = ",".join(f"['cfg_schedule={name}']" for name in ODD)
        assert self.strengths(own, f"cells=[{rows}]") == all_of_them
        rules = ",".join(f"{{cfg_schedule:{name},reason:no}}" for name in ODD[:4])
        assert self.strengths(own, f"cfg_schedule={','.join(ODD[:6])}", f"exclude=[{rules}]") == all_of_them[4:6]
        assert self.strengths(own, "cfg_schedule=1e3") == [3.0]
        assert self.strengths(own, "cfg_schedule=null") == [2.0]

    @pytest.mark.long
    def test_in_yaml(self, own: Path) -> None:
        text = "# @package _global_\n# t\ndefaults:\n  - override /cfg_schedule: {0}\n  - _self_\n"
        for name in ("1e3", "off", "null"):
            self.write(own, f"experiment/chooses_{name}", text.format(name))
            expected = [2.0 + ODD.index(name)] if name in ODD else [0.0]
            assert self.strengths(own, f"experiment=chooses_{name}") == expected
        text = "# @package _global_\n# t\nhydra:\n  sweeper:\n    params:\n      cfg_schedule: {0}\n"
        self.write(own, "experiment/sweeps", text.format(",".join((*ODD[:4], "off"))))
        self.write(own, "experiment/sets", text.format("off"))
        excluding = text + "exclude:\n  - {{cfg_schedule: null, reason: no}}\n  - {{cfg_schedule: [1e3, off], reason: no}}\n"
        self.write(own, "experiment/excludes", excluding.format(",".join((*ODD[:4], "off"))))
        self.write(own, "experiment/lists", "# @package _global_\n# t\ncells: [[cfg_schedule=off], [cfg_schedule=1e3]]\n")
        found = [self.strengths(own, f"experiment={e}") for e in ("sweeps", "sets", "excludes", "lists")]
        assert found == [[2.0, 3.0, 4.0, 5.0, 0.0], [0.0], [4.0, 5.0], [0.0, 3.0]]

    def test_an_experiment_is_found_by_a_number(self, tmp_path: Path) -> None:
        for name in ("2024", "01", "off"):
            self.write(tmp_path, f"experiment/{name}", "# @package _global_\n# t\nlabels: 7\n")
            plan = compose(["--config-dir", str(tmp_path), f"experiment={name}"])
            assert (plan.study, plan.labels) == (name, (7,))

    def test_a_large_sweep(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write(tmp_path, "mask/1e3", "defaults:\n  - /schema/mask/local_stages@_here_\n  - _self_\nwindow: 3\n")
        argv = ["--config-dir", str(tmp_path), "strategy=test3", "mask=block_causal,1e3", "cfg_schedule=linear,off"]
        composed = compose(argv).cells
        assert len(composed) == 4
        monkeypatch.setattr("sdvar_exp.config.cells.LARGE", 0)
        assert compose(argv).cells == composed

    def test_truth_values_may_be_written_as_people_do(self, tmp_path: Path) -> None:
        text = "# @package _global_\n# t\nallow_mixed: yes\nstrategy:\n  bonus: on\n  draft_cfg: off\n"
        text += "exclude:\n  - {gamma.value: 3, strategy.bonus: on, reason: no}\n"
        self.write(tmp_path, "experiment/a", text)
        plan = compose(["--config-dir", str(tmp_path), "experiment=a", "gamma.value=2,3"])
        (cell,) = (planned.cell for planned in plan.cells)
        assert plan.settings.allow_mixed is True
        assert cell.strategy.params.bonus is True and cell.strategy.params.draft_cfg == "off"

    def test_a_rule_that_names_nothing_is_a_mistake(self, lines: Lines) -> None:
        assert lines("exclude=[{mask:blok_causal,reason:no}]") == [
            "exclude: unknown mask 'blok_causal'; did you mean 'block_causal'?"
        ]

    def test_hydra_answers_for_such_a_name(self, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["run", "--config-dir", str(own), "cfg_schedule=1e3", "--cfg", "job", "--package", "cfg_schedule"]) == 0
        assert "cfg: 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "where"),
    [
        ("results_dir=~/x", "{home}/x"),
        ("results_dir=~", "{home}"),
        ("results_dir='~/x y'", "{home}/x y"),
        ("results_dir=~/x y", "{home}/x y"),
        ("results_dir=/tmp/a~b", "/tmp/a~b"),
    ],
)
def test_home(word: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(compose([word]).results_dir) == where.format(home=tmp_path)


def test_home_wherever_a_path_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    plan = compose(["model=embedded,embedded_plain", "model.folder=~/a", "engine=slurm", "engine.setup=[source ~/.env, b]"])
    assert {planned.cell.model.folder for planned in plan.cells} == {"~/a"}
    assert plan.settings.engine_options.setup == ("source ~/.env", "b")
    (tmp_path / "own/experiment").mkdir(parents=True)
    (tmp_path / "own/experiment/mine.yaml").write_text("# @package _global_\n# t\nlabels: 7\n")
    assert compose(["--config-dir=~/own", "experiment=mine"]).labels == (7,)
    (line,) = lines("results_dir=~nobody-of-this-name/x")
    assert line.startswith("results_dir: there is no home folder ~nobody-of-this-name")


def test_paths_that_no_file_system_has(lines: Lines) -> None:
    (line,) = lines(f"results_dir={'x' * 300}")
    assert "a name may have 255 bytes" in line and len(line) < 200
    with pytest.raises(UserError, match="a name may have"):
        compose(["--config-dir", "y" * 300])


@pytest.mark.parametrize("name", ["1e5", "007", "1_000", "true", "12e4567", "0x10", "2024-05-01"])
def test_a_study_may_be_called_like_a_number(name: str, tmp_path: Path) -> None:
    """As a commit's first digits can be: `12e4567` is no infinity."""
    assert compose([f"study={name}"]).folder.name == name
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(f"# @package _global_\n# own\nstudy: {name}\n")
    assert compose(["--config-dir", str(tmp_path), "experiment=own"]).folder.name == name


def test_sweeps_of_a_yaml_are_not_set_by_words(lines: Lines) -> None:
    """They would have no effect."""
    for sign in ("", "+", "++"):
        (line,) = lines(f"{sign}hydra.sweeper.params.acceptance.tau=0.5")
        assert "on the command line write acceptance.tau=…" in line
