"""Every mistake is one line that says what is wrong and what to do; all of them at once."""

from __future__ import annotations

import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdvar_exp import registry
from sdvar_exp.config import compose, folder, multirun, passthrough
from sdvar_exp.config.cells import ENOUGH
from sdvar_exp.config.composing import Composer
from sdvar_exp.config.schema import SlurmNode
from sdvar_exp.errors import UserError
from sdvar_exp.tracking.options import resolve

Lines = Callable[..., list[str]]
LOOP = "on_reject, bonus, skip_last, draft_stale, target_stale, draft_cfg, candidates"

ONE_LINE = {
    # unknown choices
    "strategy=tset3": "unknown strategy 'tset3'; did you mean 'test3'?",
    "mask=3": "mask=3: masks are chosen by name; did you mean mask=block_causal?",
    "engine=9": "unknown engine '9'; choose one of inprocess, pool, slurm",
    "gamma=3": "unknown gamma '3'; did you mean gamma.value=3?",
    "experiment=mine": "unknown experiment 'mine'; choose one of "
    f"{', '.join(folder.names('experiment'))}; one of your own needs --config-dir FOLDER",
    "strategy=mine": "unknown strategy 'mine'; choose one of "
    f"{', '.join(folder.names('strategy'))}; one of your own needs --config-dir FOLDER or --plugin MODULE",
    "experiment=gide": "unknown experiment 'gide'; did you mean 'guide'?",
    "strategy=[test3,sequential]": "strategy=[test3,sequential]: strategy takes one name; to sweep over several write strategy=test3,sequential",
    "mask={window:3}": "mask={window:3}: mask takes a name; set its parameters with mask.<parameter>=…",
    "~mask": "~mask: mask cannot be removed; write mask=…",
    "mask@x=block_causal": "mask@x=block_causal: packages (@) are not used here; write mask=…",
    "+experiment=guide": "+experiment=guide: experiment is there already; write it without +",
    # unknown keys
    "labls=3": "unknown key 'labls'; did you mean 'labels'?",
    "+labls=3": "unknown key 'labls'; did you mean 'labels'?",
    "++labls=3": "unknown key 'labls'; did you mean 'labels'?",
    "+labels=3": "+labels=3: labels is there already; write it without +",
    "~labels": "~labels: labels cannot be removed; write labels=…",
    "entry_num=3": "unknown key 'entry_num'; did you mean 'strategy.entry_num'?",
    "tua=0.3": "unknown key 'tua'; did you mean 'acceptance.tau'?",
    "timings.units=3": "unknown key 'timings.units'; did you mean 'timing.units'?",
    "strategy.bnus=true": f"unknown key 'strategy.bnus': strategy=parallel_v1 has {LOOP}; did you mean 'bonus'?",
    "+strategy.typo=1": f"unknown key 'strategy.typo': strategy=parallel_v1 has {LOOP}",
    "strategy.entry_num=3": f"unknown key 'strategy.entry_num': strategy=parallel_v1 has {LOOP}; entry_num is of strategy=test3",
    "+gamma.value=3": "+gamma.value=3: gamma.value is there already; write it without +",
    "strategy.name=test3": "strategy.name=test3: strategy.name is set by the choice of strategy; write strategy=…",
    "experiment.x=3": "unknown key 'experiment.x': experiment has no parameters",
    # types and ranges
    "gamma.value=abc": "gamma.value must be an integer, got 'abc'",
    "gamma.value=1.5": "gamma.value must be an integer, got 1.5",
    "gamma.value=0": "gamma.value must be ≥ 1, got 0",
    "gamma.value=11": "gamma.value must lie in 1 … 10, got 11",
    "acceptance.tau=x": "acceptance.tau must be a number, got 'x'",
    "acceptance.tau=2": "acceptance.tau must lie in [0, 1], got 2.0",
    "acceptance.mode=foo": "acceptance.mode must be one of coupled, argmax, got 'foo'",
    "strategy.on_reject=foo": "strategy.on_reject must be one of correct, continue, redraft, got 'foo'",
    "strategy.bonus=maybe": "strategy.bonus must be true or false, got 'maybe'",
    "strategy.draft_cfg=foo": "strategy.draft_cfg must be same, off or a number ≥ 0, got 'foo'",
    "sampling.temperature=0": "sampling.temperature must be ≥ 1e-06, got 0.0; greedy decoding, the limit of temperature 0, is sampling.top_k=1",
    "sampling.temperature=1e-40": "sampling.temperature must be ≥ 1e-06, got 1e-40; greedy decoding, the limit of temperature 0, is sampling.top_k=1",
    "sampling.temperature=inf": "sampling.temperature must be a number within ±2⁵³, got inf",
    "cfg_schedule.cfg=1e308": "cfg_schedule.cfg must be a number within ±2⁵³, got 1e+308",
    "batch=18446744073709551617": "batch must be a number within ±2⁵³, got 18446744073709551617",
    "threads=100000": "threads must be ≤ 1024, got 100000",
    "timing.repeats=1000000000000": "timing.repeats must be ≤ 10000, got 1000000000000",
    "engine.unit_timeout_s=inf": "engine.unit_timeout_s must be ≤ 100000000, got inf",
    "engine.unit_timeout_s=nan": "engine.unit_timeout_s must be ≤ 100000000, got nan",
    "engine.retries=1000000000000": "engine.retries must be ≤ 1000, got 1000000000000",
    "device=cuda:99999999999": "device must be auto, cpu, cuda or cuda:N, got 'cuda:99999999999'",
    "tracking.project=team/proj": "tracking.project must be 1 to 128 characters without / \\ # ? % :, got 'team/proj'; "
    "the team is a key of its own: tracking.entity=team tracking.project=proj",
    "tracking.project='a#b'": "tracking.project must be 1 to 128 characters without / \\ # ? % :, got 'a#b'",
    "tracking.entity=a/b": "tracking.entity must be a user or a team of W&B, got 'a/b'",
    "tracking.base_url=wandb.me": "tracking.base_url must begin with https:// or http://, got 'wandb.me'",
    "sampling.noise=loud": "sampling.noise must be one of shared, independent, got 'loud'",
    "batch=0": "batch must be ≥ 1, got 0",
    "timing=${seeds}": "timing must be set by its keys (units, repeats, band), got 4",
    "timing=3": "timing must be set by its keys (units, repeats, band), got 3",
    "timing.band=[1,2]": "timing.band must be two numbers, one below and one above 1, e.g. [0.95,1.05]; got [1.0, 2.0]",
    "timing.band=[0.9]": "timing.band must be two numbers, one below and one above 1, e.g. [0.95,1.05]; got [0.9]",
    "timing.units=-3": "timing.units must be ≥ 0, got -3",
    "timing.repeats=0": "timing.repeats must be ≥ 1, got 0",
    "threads=-1": "threads must be ≥ 0, got -1",
    "images=-3": "images must be all, none or a number ≥ 0, got -3",
    "dtype=float31": "dtype must be one of float32, float64, bfloat16, float16, got 'float31'",
    "device=gpu": "device must be auto, cpu, cuda or cuda:N, got 'gpu'",
    "study=a/b": "study must be a folder name of letters, digits and . _ + = -, got 'a/b'",
    "results_dir=": "results_dir must not be empty",
    # labels and seeds
    "labels=10": "label 10 is out of range: embedded has the classes 0 … 9",
    "labels=-1": "label -1 is out of range: embedded has the classes 0 … 9",
    "labels=[0,a]": "labels must be a class, a list of classes or all, got [0, 'a']",
    "labels=1.5": "labels must be a class, a list of classes or all, got 1.5",
    "labels=[]": "labels must be a class, a list of classes or all, got []",
    "seeds=0": "seeds=n means the seeds 0 … n-1 and needs n ≥ 1, got 0; one seed: seeds=[0]",
    "seeds=-1": "seeds=n means the seeds 0 … n-1 and needs n ≥ 1, got -1; one seed: seeds=[0]",
    "seeds=4294967296": "seeds=n means n seeds and takes n ≤ 1000000, got 4294967296; one seed: seeds=[4294967296]",
    "seeds=1.5": "seeds must be a number n (seeds 0 … n-1) or a list of integers ≥ 0, or until, got 1.5",
    "seeds=[a]": "seeds must be a number n (seeds 0 … n-1) or a list of integers ≥ 0, or until, got ['a']",
    "seeds=true": "seeds must be a number n (seeds 0 … n-1) or a list of integers ≥ 0, or until, got True",
    "seeds=[0,-1]": "a seed must lie in 0 … 2³²-1, got -1",
    # what does not go together
    "gamma=aimd": "parallel_v1 takes gamma=fixed only, got gamma=aimd; use strategy=dynamic_gamma for it",
    "mask=no_prefix": "mask=no_prefix is for strategy=test3 only",
    "dtype=float32,float64": "dtype=float32,float64: dtype belongs to the whole study and cannot be swept; give one command per value",
    "cells=3": "cells must be a list of lists of overrides, "
    "as [['strategy=sequential'], ['strategy=test3', 'strategy.entry_num=3']], not 3",
    'cells=[["labels=3"]]': "labels belongs to the whole study: it cannot stand in cells or hydra.sweeper.params; write it beside them (labels: …)",
    "hydra/launcher=joblib": "hydra/launcher: Hydra's own sweepers and launchers belong to `sdvar-exp run`, on the command line",
    "hydra.run.dir=x": "hydra.run.dir has no effect here: nothing is written outside results_dir; remove it",
    # what could not end, or means nothing
    "labels=range(1,1e9)": "labels=range(1,1e9): has more than 100000 values; give fewer",
    "gamma.value=range(0,inf)": "gamma.value=range(0,inf): has more than 100000 values; give fewer",
    "gamma.value=range(0,3,0)": "gamma.value=range(0,3,0): cannot be counted out (range() arg 3 must not be zero); list the values",
    "strategy=glob(zz*)": "strategy=glob(zz*): no strategy is called like that; "
    f"choose one of {', '.join(folder.names('strategy'))}",
    "labels=[range(1,3)]": "labels=[range(1,3)]: a sweep inside of a value cannot be expanded; list the values",
    "labels=choice(1,2),3": "labels=choice(1,2),3: a sweep inside of a value cannot be expanded; list the values",
    "cells={a:choice(1,2)}": "cells={a:choice(1,2)}: a sweep inside of a value cannot be expanded; list the values",
    "hydra.searchpath=3": "hydra.searchpath must be a list of folders, got 3",
    "hydra.searchpath=null": "hydra.searchpath must be a list of folders, got null",
    "hydra.searchpath=nowhere": "hydra.searchpath nowhere: no such folder",
    "hydra.searchpath=[pkg://nope]": "hydra.searchpath pkg://nope: no such package; install it, or give a folder",
    "hydra.searchpath=[pkg://]": "hydra.searchpath pkg://: no such package; install it, or give a folder",
    "hydra.searchpath=[pkg://json/nope]": "hydra.searchpath pkg://json/nope: no such package; install it, or give a folder",
    "hydra.searchpath=[s3://x]": "hydra.searchpath s3://x: give a folder, file://FOLDER or pkg://PACKAGE",
    "hydra.mode=9": "hydra.mode must be RUN or MULTIRUN, got 9",
    "hydra.mode=null": "hydra.mode must be RUN or MULTIRUN, got None",
    "hydra.verbose=3": "hydra.verbose must be true, false or the name of a logger, got 3",
    "hydra.modes=RUN": "hydra.modes has no effect here: nothing is written outside results_dir; remove it",
    "results_dir=/dev/null": "results folder /dev/null/default: /dev/null is not a folder; choose another results_dir",
    "study=???": "study=???: ??? stands for a value that is missing; give one",
    "labels=[0,???]": "labels=[0,???]: ??? stands for a value that is missing; give one",
    "study=${x}": "study: Interpolation key 'x' not found",
    "labels=${hydra:runtime.cwd}": "labels must be a class, a list of classes or all, got '${hydra:runtime.cwd}'",
    "strategy.bonus=${x}": "strategy: Interpolation key 'x' not found",
    "cells=${x}": "cells: Interpolation key 'x' not found",
    "exclude=[[[[": "cannot read 'exclude=[[[[' (no viable alternative at input '[[[['); quote values that hold special characters",
    f"labels={'[' * 40}1{']' * 40}": f"labels={'[' * 33}…: too long or too deeply nested for the command line; write it into an experiment yaml",
    f"labels=[{'1,' * 1001}1]": "labels=[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,…: too long or too deeply nested for the command line; write it into an experiment yaml",
    # what cannot be read
    "foo": "cannot read 'foo': write key=value",
    "labels=interval(0,3)": "labels=interval(0,3): an interval needs an optimising sweeper (hydra/sweeper=…); list the values instead",
}


NO_CHOICE = "is no choice; write e.g. '- override /mask: block_causal'"
DEFAULTS = {
    "3": f"3 {NO_CHOICE}",
    "null": f"None {NO_CHOICE}",
    "true": f"True {NO_CHOICE}",
    "[a]": f"['a'] {NO_CHOICE}",
    "'???'": f"'???' {NO_CHOICE}",
    "{a: 1, b: 2}": f"{{'a': 1, 'b': 2}} {NO_CHOICE}",
    "override /mask: 3": f"{{'override /mask': 3}} {NO_CHOICE}",
    "cfg_schedule: null": "cfg_schedule is chosen already; write there '- override /cfg_schedule: NAME'",
    "mask: block_causal": "mask is chosen already; write there '- override /mask: block_causal'",
    "/mask: block_causal": "mask is chosen already; write there '- override /mask: block_causal'",
    "override mask: block_causal": "mask is chosen already; write there '- override /mask: block_causal'",
    "override /maks: block_causal": "unknown group 'maks'; did you mean 'mask'?",
    "experiment: guide": "to build on another experiment write '- guide'",
}
MISSING_VALUES = {
    "labels: ???": "labels",
    "cells: ???": "cells",
    "timing: {units: '???'}": "timing.units",
    "gamma: {value: '???'}": "gamma.value",
    "hydra: {sweeper: {params: {gamma.value: '???'}}}": "hydra.sweeper.params.gamma.value",
}


@pytest.mark.parametrize(("argument", "line"), ONE_LINE.items(), ids=list(ONE_LINE))
def test_one_line(argument: str, line: str, lines: Lines) -> None:
    assert lines(argument) == [line]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("strategy=test3 strategy.entry_num=12", "strategy.entry_num must lie in 0 … 10, got 12"),
        ("strategy=test3 strategy.entry_num=-1", "strategy.entry_num must be ≥ 0, got -1"),
        ("strategy=hybrid strategy.verify_until=11", "strategy.verify_until must lie in 0 … 10, got 11"),
        ("strategy=collaborative strategy.target_stages=11", "strategy.target_stages must lie in 0 … 10, got 11"),
        (
            "gamma=aimd gamma.value=3",
            "unknown key 'gamma.value': gamma=aimd has start, smallest, largest, decrease; value is of gamma=fixed",
        ),
        ("mask=local_stages mask.window=0", "mask.window must be ≥ 1, got 0"),
        ("strategy=dynamic_gamma gamma=table gamma.values=[1,a]", "gamma.values must be a list of integers, got [1, 'a']"),
        (
            "experiment=seed_parallel_v1 strategy=test3",
            "conf experiment/seed_parallel_v1: unknown key 'strategy.on_reject': "
            "the chosen strategy has no parameter 'on_reject'; "
            "on_reject is of strategy=dynamic_gamma, strategy=hybrid, strategy=model_schedule",
        ),
        (
            "strategy=test3,",
            "cannot read 'strategy=test3,' (something is missing at its end); quote values that hold special characters",
        ),
        ("labels=all model=embedded,var_d16_d30", "labels=all differs between embedded, var_d16_d30; list the labels"),
    ],
)
def test_one_line_of_several_arguments(argv: str, line: str, lines: Lines) -> None:
    assert lines(*argv.split()) == [line]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e308", "-1e308", "9223372036854775808", "1e400"])
def test_no_number_is_accepted_that_no_decode_could_use(value: str) -> None:
    """Of every number of every entry, of sampling, engine and root: refused before anything runs, in one line each."""
    accepted = []
    for key, needs in _numbers():
        try:
            compose([*needs, key.format(value)])
            accepted.append(key)
        except UserError as error:
            assert key.partition("=")[0] in str(error) and "\n" not in str(error), str(error)
    assert accepted == []


def _numbers() -> Iterator[tuple[str, list[str]]]:
    """`key={}` of every number, and the words that it needs beside it."""
    beside = {"gamma": ["strategy=dynamic_gamma"], "cfg_schedule": ["strategy=sequential"]}
    for kind in registry.KINDS:
        for name in registry.names(kind):
            params = registry.get(kind, name).params
            for field, hint in typing.get_type_hints(params).items():
                if hint in (int, float):
                    yield f"{kind}.{field}={{}}", [f"{kind}={name}", *beside.get(kind, [])]
                elif hint in (tuple[int, ...], tuple[float, ...]):
                    yield f"{kind}.{field}=[{{}}]", [f"{kind}={name}", *beside.get(kind, [])]
    for field in ("temperature", "top_k", "top_p"):
        yield f"sampling.{field}={{}}", []
    for field, hint in typing.get_type_hints(SlurmNode).items():
        if hint in (int, float):
            yield f"engine.{field}={{}}", ["engine=slurm"]
    for key in ("batch", "threads", "stage_images", "images", "timing.units", "timing.repeats"):
        yield key + "={}", []


@pytest.mark.parametrize("word", ["--strategy=draft_only", "--acceptance.tau=0.5", "--seeds=3", "--experiment=guide"])
def test_words_of_a_wandb_agent(word: str) -> None:
    with pytest.raises(UserError, match=rf"write {word[2:]}, without --; .*\$\{{args_no_hyphens\}}"):
        compose([word])


@pytest.mark.parametrize(
    ("word", "verb"), [("--dry-run", "sdvar-exp plan"), ("--json", "plan, table and status"), ("--study", "study=")]
)
def test_options_that_people_expect(word: str, verb: str) -> None:
    with pytest.raises(UserError, match=verb):
        compose([word, "x"])


def test_project_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "team/proj")
    with pytest.raises(UserError, match=r"tracking\.entity=team tracking\.project=proj"):
        resolve({}, {})
    assert resolve({"mode": "none"}, {}).project == "team/proj"


@pytest.mark.parametrize(
    "key", ["study", "experiment", "strategy", "model.folder", "plugins", "objective", "device", "results_dir"]
)
def test_names_of_300_characters(key: str) -> None:
    with pytest.raises(UserError) as caught:
        compose([f"{key}={'n' * 300}"])
    assert "\n" not in str(caught.value)


def test_no_experiment_may_be_said() -> None:
    assert compose(["experiment=null"]).cells == compose([]).cells
    assert passthrough.answer(["--cfg", "job", "experiment=null"], "sdvar-exp plan") == 0


def test_files_of_a_pair_must_be_given(lines: Lines) -> None:
    roles = ("stages", "classes", "vae", "draft", "target")
    assert lines("model=files") == [f"model.{role} has no value here: set it" for role in roles]


def test_a_product_is_counted_before_it_is_made(lines: Lines) -> None:
    sweeps = [f"{key}=range(0,99)" for key in ("sampling.top_k", "batch", "gamma.value")]
    assert lines(*sweeps) == ["these are 970299 combinations, more than 20000: give several commands"]


def test_the_same_mistake_in_every_combination_is_not_looked_for_in_all(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    made, job = [], Composer.job
    monkeypatch.setattr(Composer, "job", lambda *args: made.append(None) or job(*args))
    assert len(lines("mask=block_causal", "mask.window=range(1,2000)")) == 1
    assert len(made) < 2 * ENOUGH


@pytest.mark.parametrize(
    "sweep", ["labels=choice(1,2)", "labels=range(0,2)", "mask=glob(block*)", "labels=shuffle(1,2)", "labels=sort(2,1)"]
)
def test_a_sweep_beside_another_mistake(sweep: str, lines: Lines) -> None:
    assert "unknown key 'foo'" in lines(sweep, "foo=1")


@pytest.mark.parametrize(
    "word",
    ["hydra/sweeper=9", "+hydra/launcher@_global_=bool(2)", "hydra/launcher=", "hydra/sweeper=[a]", "hydra/sweeper=nope"],
)
def test_a_sweeper_is_chosen_by_a_name(word: str) -> None:
    with pytest.raises(UserError, match=r"hydra/(sweeper|launcher)|unknown") as caught:
        multirun.run([word], lambda words: None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", ["", "x", "query=x", "query=bash labels=3", "labels=3"])
def test_shell_completion_of_hydra_takes_one_word(words: str) -> None:
    with pytest.raises(UserError, match="-sc takes one word"):
        passthrough.answer(["-sc", *words.split()], "sdvar-exp run")


def test_all_mistakes_at_once(lines: Lines) -> None:
    assert lines(
        "strategy=sequental,test4",
        "mask=blok_causal",
        "labls=3",
        "seeds=0",
        "labels=12",
        "dtype=float31",
        "timing.units=-1",
        "acceptance=match_rate",
        "acceptance.tau=3",
    ) == [
        "unknown strategy 'sequental'; did you mean 'sequential'?",
        "unknown strategy 'test4'; did you mean 'test3'?",
        "unknown mask 'blok_causal'; did you mean 'block_causal'?",
        "unknown key 'labls'; did you mean 'labels'?",
        "dtype must be one of float32, float64, bfloat16, float16, got 'float31'",
        "acceptance.tau must lie in [0, 1], got 3.0",
        "label 12 is out of range: embedded has the classes 0 … 9",
        "seeds=n means the seeds 0 … n-1 and needs n ≥ 1, got 0; one seed: seeds=[0]",
        "timing.units must be ≥ 0, got -1",
    ]


def test_unknown_choice_makes_no_other_line(lines: Lines) -> None:
    """Nothing is said about parameters and factors of a choice that is not known."""
    assert lines("strategy=tset3", "strategy.entry_num=12", "mask=no_prefix") == [
        "unknown strategy 'tset3'; did you mean 'test3'?"
    ]


def test_one_bad_combination_of_a_sweep_is_left_out_and_alone_is_refused(lines: Lines) -> None:
    plan = compose(["strategy=test3,parallel_v1", "mask=block_causal,no_prefix"])
    assert plan.notices == ("1 combination left out: mask=no_prefix is for strategy=test3 only",) and len(plan.cells) == 3
    assert lines("strategy=parallel_v1", "mask=no_prefix") == ["mask=no_prefix is for strategy=test3 only"]


def test_equal_lines_are_shown_once_and_many_are_cut(lines: Lines) -> None:
    found = lines(*(f"typo{i}z=1" for i in range(50)), "labls=1", "labls=2")
    assert len(found) == 41 and found[-1] == "… and 11 more"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--foo"], "unknown option --foo"),
        (["--multi-run"], "unknown option --multi-run; did you mean '--multirun'?"),
        (["--seeds", "3"], "--seeds 3: write seeds=3, without --"),
        (["--study", "x", "strategy=test3"], "--study x: write study=x, without --"),
        (["--strategy", "mask=block_causal"], "--strategy: write strategy=…, without --"),
        (["--seeds=3"], "--seeds=3: write seeds=3, without --; a W&B agent does so with ${args_no_hyphens} for ${args}"),
        (["--dry-run"], "unknown option --dry-run; sdvar-exp plan shows what a command would do"),
        (["--json"], "unknown option --json; sdvar-exp plan, table and status have --json"),
        (["--config-dir"], "--config-dir needs a folder"),
        (["--config-dir", "nowhere"], "--config-dir nowhere: no such folder"),
        (["plugins=[no.such.module]"], "plugins: cannot import 'no.such.module': No module named 'no'"),
    ],
)
def test_options(argv: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(argv)
    assert str(caught.value).split("; did you mean '--info")[0] == line


class TestYamlFiles:
    """Mistakes in files of the user."""

    def write(self, folder: Path, name: str, text: str) -> list[str]:
        path = folder / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return ["--config-dir", str(folder)]

    @pytest.mark.parametrize("text", ["strategy: test3\n", "", "- a\n"])
    def test_an_experiment_without_its_first_line(self, tmp_path: Path, lines: Lines, text: str) -> None:
        argv = self.write(tmp_path, "experiment/mine", text)
        assert lines(*argv, "experiment=mine") == [
            "experiment/mine.yaml sets keys of the whole configuration: its first line must be '# @package _global_'"
        ]

    def test_unknown_root_key(self, tmp_path: Path, lines: Lines) -> None:
        argv = self.write(tmp_path, "experiment/mine", "# @package _global_\nlabls: 3\n")
        assert lines(*argv, "experiment=mine") == ["conf experiment/mine: unknown key 'labls'; did you mean 'labels'?"]

    def test_unknown_parameter(self, tmp_path: Path, lines: Lines) -> None:
        argv = self.write(tmp_path, "experiment/mine", "# @package _global_\ngamma:\n  valu: 3\n")
        assert lines(*argv, "experiment=mine") == [
            "conf experiment/mine: unknown key 'gamma.valu': the chosen gamma has no parameter 'valu'; "
            "did you mean 'gamma.value'?"
        ]

    def test_wrong_type(self, tmp_path: Path, lines: Lines) -> None:
        argv = self.write(tmp_path, "experiment/mine", "# @package _global_\ngamma:\n  value: x\n")
        assert lines(*argv, "experiment=mine") == [
            "conf experiment/mine: gamma.value: Value 'x' of type 'str' could not be converted to Integer"
        ]

    def test_unknown_choice(self, tmp_path: Path, lines: Lines) -> None:
        text = "# @package _global_\ndefaults:\n  - override /mask: blok_causal\n"
        argv = self.write(tmp_path, "experiment/mine", text)
        assert lines(*argv, "experiment=mine") == ["unknown mask 'blok_causal'; did you mean 'block_causal'?"]

    def test_no_schema(self, tmp_path: Path, lines: Lines) -> None:
        argv = self.write(tmp_path, "mask/mine", "window: 3\n")
        assert lines(*argv, "strategy=test3", "mask=mine") == [
            "mask=mine: its yaml has no schema; begin its defaults with /schema/mask/<entry>@_here_ and _self_"
        ]

    def test_not_yaml(self, tmp_path: Path, lines: Lines) -> None:
        argv = self.write(tmp_path, "experiment/mine", "# @package _global_\nlabels: [0\n")
        (line,) = lines(*argv, "experiment=mine")
        assert "mine.yaml" in line

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            (
                "tracking: null",
                "experiment/mine.yaml: tracking is chosen in its defaults list; write there '- override /tracking: <name>'",
            ),
            (
                "strategy: hybrid",
                "experiment/mine.yaml: strategy is chosen in its defaults list; write there '- override /strategy: hybrid'",
            ),
            (
                "strategy: hybird",
                "experiment/mine.yaml: strategy is chosen in its defaults list; write there '- override /strategy: hybrid'",
            ),
            ("gamma: 3", "experiment/mine.yaml: gamma is chosen in its defaults list; did you mean 'gamma: {value: 3}'?"),
            (
                "timing: {unitz: 3}",
                "conf experiment/mine: unknown key 'timing.unitz': the chosen timing has no parameter 'unitz'; "
                "did you mean 'timing.units'?",
            ),
            (
                "cfg_schedule: off",
                "experiment/mine.yaml: cfg_schedule is chosen in its defaults list; write there '- override /cfg_schedule: off'",
            ),
            (
                "strategy: {name: test3}",
                "experiment/mine.yaml: strategy is chosen in its defaults list; write there '- override /strategy: test3'",
            ),
            (
                "engine: 3",
                "experiment/mine.yaml: engine is chosen in its defaults list; write there '- override /engine: <name>'",
            ),
            (
                "defaults: [{override /strategy: null}]",
                "experiment/mine.yaml: defaults: override /strategy: null chooses nothing; "
                "`sdvar-exp ls strategy` lists what there is",
            ),
            *((f"defaults: [{item}, _self_]", f"experiment/mine.yaml: defaults: {said}") for item, said in DEFAULTS.items()),
            ("defaults: 3", "experiment/mine.yaml: defaults is a list, as ['override /mask: block_causal', _self_], not 3"),
            *(
                (text, f"experiment/mine.yaml: {key}: ??? stands for a value that is missing; give one, or leave the key out")
                for text, key in MISSING_VALUES.items()
            ),
            ("timing: null", "conf experiment/mine: timing: field 'timing' is not Optional"),
            ("device: null", "conf experiment/mine: device: Incompatible value 'None' for field of type 'str'"),
            (
                "hydra: null",
                "experiment/mine.yaml: hydra holds keys of its own, e.g. hydra.sweeper.params; give them or leave it out",
            ),
            (
                "hydra: {sweeper: 3}",
                "experiment/mine.yaml: sweeper holds keys of its own, e.g. hydra.sweeper.params; give them or leave it out",
            ),
            ("gamma: {value: '${x}'}", "gamma: Interpolation key 'x' not found"),
            ("hydra: {sweeper: {params: {foo: 3}}}", "unknown key 'foo'"),
        ],
    )
    def test_values_of_another_kind(self, text: str, line: str, tmp_path: Path, lines: Lines) -> None:
        argv = self.write(tmp_path, "experiment/mine", f"# @package _global_\n{text}\n")
        assert lines(*argv, "experiment=mine") == [line]

    @pytest.mark.parametrize(
        ("content", "said"), [(b"\xff\xfe", "is no text in UTF-8"), (b"labels: &a [*a]\n", "refers to itself")]
    )
    def test_no_text(self, content: bytes, said: str, tmp_path: Path, lines: Lines) -> None:
        argv = self.write(tmp_path, "experiment/mine", "")
        (tmp_path / "experiment/mine.yaml").write_bytes(content)
        (line,) = lines(*argv, "experiment=mine")
        assert said in line and "mine.yaml" in line

    @pytest.mark.parametrize("merged", ["", "<<: "])
    def test_a_short_text_cannot_stand_for_very_much(self, merged: str, tmp_path: Path, lines: Lines) -> None:
        """Each line repeats the one before nine times: 9⁹ values; each doubles the text before: 8²⁰ letters."""
        rows = ["a0: &a0 {x: 1, y: 2}" if merged else "a0: &a0 [x, x]"]
        rows += [f"a{i}: &a{i} {{{merged or 'l: '}[{','.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 10)]
        argv = self.write(tmp_path, "experiment/mine", "# @package _global_\n" + "\n".join(rows))
        start = time.process_time()
        (line,) = lines(*argv, "experiment=mine")
        assert "experiment/mine.yaml: its aliases (*) repeat more than 1000 values" in line
        doubled = [f"  a{i}: " + f"${{reference.a{i - 1}}}" * 8 for i in range(1, 21)]
        argv = self.write(tmp_path, "experiment/mine", "# @package _global_\nreference:\n  a0: x\n" + "\n".join(doubled))
        (line,) = lines(*argv, "experiment=mine")
        assert "has 160 interpolations (${…}), more than 24" in line
        with pytest.raises(UserError, match="the command line has 40 interpolations"):
            compose([f"reference={{a:x,b:'{'${reference.a}' * 20}',c:'{'${reference.b}' * 20}'}}"])
        assert time.process_time() - start < 5

    def test_an_alias_is_fine(self, tmp_path: Path) -> None:
        text = "# @package _global_\ncells:\n  - &a [strategy=sequential]\n  - *a\n  - [strategy=test3]\n"
        argv = self.write(tmp_path, "experiment/mine", text)
        assert [p.cell.strategy.name for p in compose([*argv, "experiment=mine"]).cells] == ["sequential", "test3"]

    def test_a_choice_that_is_no_file(self, tmp_path: Path, lines: Lines) -> None:
        (tmp_path / "experiment/folder.yaml").mkdir(parents=True)
        (tmp_path / "experiment/zero.yaml").symlink_to("/dev/zero")
        for name in ("folder", "zero"):
            (line,) = lines("--config-dir", str(tmp_path), f"experiment={name}")
            assert line.startswith(f"unknown experiment '{name}'")

    def test_bad_cells(self, tmp_path: Path, lines: Lines) -> None:
        text = "# @package _global_\ncells:\n  - [strategy=tset3]\n  - [strategy=test3, strategy.entry_num=12]\n"
        argv = self.write(tmp_path, "experiment/mine", text)
        assert lines(*argv, "experiment=mine")[0] == "unknown strategy 'tset3'; did you mean 'test3'?"
