"""What figures show, computed: effects of factors, predicted speed-ups, γ traces, masks, time, power of a study."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from sdvar_exp.errors import UserError
from sdvar_exp.report import summarise
from sdvar_exp.report.effects import effects, interactions
from sdvar_exp.report.material import Material, Skipped
from sdvar_exp.report.plots import breakdown, gamma, masks, schedules, tradeoff
from sdvar_exp.report.power import power_table
from sdvar_exp.report.predicted import measured, predicted


@pytest.fixture(scope="module")
def material(study, tmp_path_factory) -> Material:
    summary = summarise(study).assign(number=range(1, len(study.runs) + 1))
    return Material(study, summary, tmp_path_factory.mktemp("images"))


def row(table: pd.DataFrame, change: str, metric: str) -> dict:
    (found,) = table[(table["change"] == change) & (table["metric"] == metric)].to_dict("records")
    return found


def test_a_change_of_one_factor_is_a_paired_difference(study):
    table = effects(study)
    found = row(table, "block_causal → block_diagonal", "pixel_mae")
    samples = study.samples.set_index(["name", "label", "seed"])["pixel_mae"]
    difference = samples["test3 entry_num=5 block_diagonal"] - samples["test3 entry_num=5 block_causal"]
    assert found["factor"] == "mask" and found["n"] == 24 and found["pairs"] == 1
    assert found["effect"] == pytest.approx(difference.mean())
    assert found["low"] < found["effect"] < found["high"]
    assert found["p"] <= found["p_holm"] <= 1
    speed = row(table, "block_causal → block_diagonal", "speedup")
    assert speed["effect"] == pytest.approx(1.63 / 1.62, abs=0.05)


def test_changes_start_at_the_reference_and_double_changes_are_in_no_pair(study):
    table = effects(study)
    assert all(change.startswith("sequential → ") for change in table.loc[table["factor"] == "strategy", "change"])
    found = row(table, "sequential → draft_only", "pixel_mae")
    assert found["effect"] == pytest.approx(summarise(study).set_index("name").loc["draft_only", "pixel_mae"])
    noisy = replace(study, samples=study.samples.assign(speedup=study.samples["speedup"]))
    own = noisy.samples["cell"] == study.ids["sequential"]
    noisy.samples.loc[own, "speedup"] = 7.0
    change = ("sequential → draft_only", "speedup")
    assert row(effects(noisy), *change)["effect"] == row(table, *change)["effect"], "the reference's speed-up is 1"
    # parallel_v1 γ=2 exact and γ=3 match_rate differ in two factors; γ=3 and aimd at another τ too
    assert set(table["factor"]) == {"mask", "strategy"}


@dataclass
class Small:
    samples: pd.DataFrame
    runs: pd.DataFrame


def small(configs: list[dict], values: list[float], seeds: int = 3) -> Small:
    cells = [f"c{i}" for i in range(len(configs))]
    runs = pd.DataFrame({"cell": cells, "baseline": "base", "order": range(len(cells)), "config": map(json.dumps, configs)})
    samples = pd.DataFrame(
        [
            {"cell": c, "label": y, "seed": s, "pixel_mae": v + 0.01 * y + 0.001 * s * i}
            for i, (c, v) in enumerate(zip(cells, values, strict=True))
            for y in (0, 1)
            for s in range(seeds)
        ]
    )
    return Small(samples, runs)


def config(tau: float, gamma: int, strategy: str = "parallel_v1") -> dict:
    return {
        "strategy": {"name": strategy},
        "acceptance": {"name": "match_rate", "tau": tau},
        "gamma": {"name": "fixed", "value": gamma},
    }


def test_pairs_of_one_change_are_averaged_by_unit():
    table = effects(small([config(0.9, 2), config(0.5, 2), config(0.9, 3), config(0.5, 3)], [0.1, 0.3, 0.2, 0.6]))
    tau = row(table, "0.5 → 0.9", "pixel_mae")  # numbers go upwards, whatever the order of the plan
    assert tau["factor"] == "acceptance.tau" and tau["pairs"] == 2 and tau["n"] == 6
    assert tau["effect"] == pytest.approx(((0.1 - 0.3) + (0.2 - 0.6)) / 2 - 0.001)
    assert row(table, "2 → 3", "pixel_mae")["pairs"] == 2


FOUR = [config(tau, gamma) for gamma in (2, 3) for tau in (0.5, 0.9)]


def test_an_interaction_is_the_difference_of_differences():
    study = small([*FOUR, config(0.5, 4), config(0.9, 4)], [0.1, 0.3, 0.2, 0.6, 0.5, 0.5])
    table = interactions(study).set_index("by_change")
    assert table[["factor", "change", "by", "metric"]].drop_duplicates().to_numpy().tolist() == [
        ["acceptance.tau", "0.5 → 0.9", "gamma.value", "pixel_mae"]
    ]
    assert table["squares"].tolist() == [1, 1] and table["n"].tolist() == [6, 6]
    assert table.loc["2 → 3", "effect"] == pytest.approx((0.6 - 0.2) - (0.3 - 0.1))
    assert table.loc["2 → 4", "effect"] == pytest.approx((0.5 - 0.5) - (0.3 - 0.1))
    assert table["p"].tolist() == [2 / 64] * 2 and table["p_holm"].tolist() == [4 / 64] * 2
    assert interactions(study, most=1).attrs["changes"] == 2 and len(interactions(study, most=1)) == 1


def test_of_speed_ups_it_is_a_ratio_and_rounding_is_none():
    study = small(FOUR, [0.1, 0.3, 0.4, 0.6])
    speeds = dict(zip(study.runs["cell"], (1.0, 1.3, 1.7, 2.21), strict=True))
    study.samples = study.samples.assign(speedup=study.samples["cell"].map(speeds) * (1 + 0.3 * study.samples["seed"]))
    table = interactions(study).set_index("metric")
    assert table.loc["speedup", "effect"] == 1 and table.loc["pixel_mae", "effect"] == 0, "additive, or multiplicative"
    assert (table["p"] == 1).all()
    doubled = study.samples["speedup"].where(study.samples["cell"] != "c3", 2 * study.samples["speedup"])
    study.samples = study.samples.assign(speedup=doubled)
    assert interactions(study).set_index("metric").loc["speedup", "effect"] == pytest.approx(2)


def test_squares_of_a_larger_design_are_averaged_and_incomplete_ones_left_out():
    """Three factors of two values: each pair has two squares; without one cell those that it belongs to are missing."""
    configs = [
        {**config(tau, gamma), "mask": {"name": m}} for m in ("full", "diagonal") for gamma in (2, 3) for tau in (0.5, 0.9)
    ]
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0]
    table = interactions(small(configs, values))
    assert table["squares"].tolist() == [2, 2, 2] and table["effect"].tolist() == pytest.approx([0.1, 0.1, 0.1])
    less = interactions(small(configs[:-1], values[:-1]))
    assert less["squares"].tolist() == [1, 1, 1] and less["effect"].abs().max() == 0
    assert interactions(small(FOUR[:3], values[:3])).empty


def test_the_reference_that_is_in_no_square_does_not_say_where_changes_start():
    masks = [
        {"strategy": {"name": name}, "mask": {"name": mask}} for name in ("test3", "hybrid") for mask in ("full", "diagonal")
    ]
    study = small([{"strategy": {"name": "sequential"}}, *masks], [0.0, 0.1, 0.2, 0.3, 0.6])
    study.runs["baseline"] = "c0"
    (found,) = interactions(study).to_dict("records")
    assert (found["factor"], found["change"]) == ("strategy", "test3 → hybrid") and found["by_change"] == "full → diagonal"
    assert found["effect"] == pytest.approx(0.2)


@pytest.mark.long
def test_false_alarms_of_interactions_are_rare_and_a_true_one_is_found():
    """Three factors without any interaction, images with noise that cells share in part: at most 5 % of studies have one."""
    rng = np.random.default_rng(19)
    configs = [
        {**config(tau, gamma), "mask": {"name": m}} for m in ("full", "diagonal") for gamma in (2, 3) for tau in (0.5, 0.9)
    ]
    study = small(configs, [0.0] * 8, seeds=5)
    cells = study.samples["cell"].str[1:].astype(int).to_numpy()
    main = 0.3 * (cells % 2) + 0.2 * (cells // 2 % 2) - 0.1 * (cells // 4)
    unit = study.samples.groupby(["label", "seed"]).ngroup().to_numpy()
    alarms, found, inside, studies = 0, 0, 0, 100
    for trial in range(studies):
        noise = rng.normal(0, 0.05, 10)[unit] + rng.normal(0, 0.05, len(cells))
        for extra in (0.0, 0.3)[: 1 + (trial % 10 == 0)]:
            study.samples["pixel_mae"] = main + noise + extra * (cells % 2) * (cells // 2 % 2)
            table = interactions(study)
            own = table[(table["factor"] == "acceptance.tau") & (table["by"] == "gamma.value")].iloc[0]
            if extra:
                found += own["low"] > 0
            else:
                alarms += bool((table["p_holm"] <= 0.05).any())
                inside += own["low"] <= 0 <= own["high"]
    assert alarms / studies <= 0.05 + 2 * (0.05 * 0.95 / studies) ** 0.5
    assert inside / studies >= 0.95 - 2.5 * (0.05 * 0.95 / studies) ** 0.5 and found >= 9


def test_a_change_has_one_row_whatever_the_order_of_its_cells():
    one, other = config(0.5, 2), config(0.7, 2)
    handed = {"strategy": {"name": "test3"}, "mask": {"name": "block_causal"}}
    table = effects(small([one, handed, other], [0.1, 0.2, 0.4]))
    assert not table.duplicated(["factor", "change", "metric"]).any()
    assert row(table, "parallel_v1 → test3", "pixel_mae")["pairs"] == 2


def test_a_value_of_the_reference_comes_first_whatever_the_order():
    """`off` is met first and has as many partners; the reference has `linear`."""
    configs = [
        {"strategy": {"name": name}, "cfg_schedule": {"name": schedule}}
        for name, schedule in (("draft_only", "off"), ("draft_only", "linear"), ("sequential", "linear"), ("sequential", "off"))
    ]
    study = small(configs, [0.3, 0.2, 0.0, 0.1])
    study.runs["baseline"] = "c2"
    table = effects(study)
    assert set(table["change"]) == {"linear → off", "sequential → draft_only"}
    assert row(table, "linear → off", "pixel_mae")["pairs"] == 2
    study.runs["baseline"] = ["c1", "c1", "c2", "c3"]  # each cell has a reference of its own: pairs of these say nothing
    assert effects(study).empty


def test_a_group_without_choices_is_told_by_its_values():
    """`sampling=var` changes two values at once, and has no name."""
    plain, cut = (
        {**config(0.5, 2), "sampling": {"top_k": k, "top_p": p, "temperature": 1.0}} for k, p in ((0, 0.0), (900, 0.95))
    )
    table = effects(small([plain, cut], [0.1, 0.3]))
    assert row(table, "top_k=0, top_p=0.0 → top_k=900, top_p=0.95", "pixel_mae")["factor"] == "sampling"


def test_the_loop_under_another_name_is_the_same_loop():
    other = {**config(0.5, 2, "dynamic_gamma"), "gamma": {"name": "aimd"}}
    table = effects(small([config(0.5, 2), other], [0.1, 0.2]))
    assert table[["factor", "change"]].to_numpy().tolist() == [["gamma", "fixed → aimd"]]


def test_a_linear_cost_is_found_from_the_other_cells(study):
    cells = measured(study, summarise(study).assign(number=range(1, 9)))
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 400, (8, 4)).astype(float)
    cells[["target_calls", "target_rows", "draft_calls", "draft_rows"]] = counts
    cells["cell_ms"] = counts @ np.array([5.0, 0.3, 0.4, 0.05])
    out = predicted(cells, None)
    base = cells.loc[cells["is_baseline"], "cell_ms"].iloc[0]
    assert out["predicted"].to_numpy() == pytest.approx(base / cells.loc[~cells["is_baseline"], "cell_ms"].to_numpy())
    shifted = cells.assign(cell_ms=cells["cell_ms"].where(cells["number"] != 2, 1e6))
    own = predicted(shifted, None).set_index("number")["predicted"]
    assert own[2] == pytest.approx(out.set_index("number")["predicted"][2])  # its own time has no say
    profile = {"target_call": 5.0, "target_row": 0.3, "draft_call": 0.4, "draft_row": 0.05}
    assert predicted(cells, profile)["predicted"].to_numpy() == pytest.approx(out["predicted"].to_numpy())
    assert predicted(cells.iloc[:4], None).empty  # too few others


def test_gamma_traces_count_decodes_by_round(material):
    data = gamma.frame(material)
    own = data[data["number"] == 8]
    assert set(own["gamma"]) == {1, 2}
    assert (own[own["round"] == 1]["count"] == 24).all()
    assert (own["running"] <= 24).all() and own["running"].is_monotonic_decreasing


def test_masks_are_means_over_their_cells(material):
    data = masks.frame(material).set_index(["strategy", "mask", "quantity"])
    both = material.summary[material.summary["strategy"] == "parallel_v1"]
    assert data.loc[("parallel_v1", "block_causal", "pixel_mae"), "mean"] == pytest.approx(both["pixel_mae"].mean())
    assert data.loc[("parallel_v1", "block_causal", "speedup"), "cells"] == 2
    with pytest.raises(Skipped, match="two masks"):
        next(masks.figures(replace(material, summary=material.summary[material.summary["strategy"] == "hybrid"])))


def test_parts_of_the_time_add_up(material):
    data = breakdown.frame(material)
    parts = data[[name for name, *_ in breakdown.PARTS]].sum(axis=1)
    assert parts.to_numpy() == pytest.approx(data["total_ms"].to_numpy(float), rel=0.05)
    assert (data["low"] <= data["total_ms"]).all()


def test_schedules_are_those_of_the_configurations(material):
    data = schedules.frame(material)
    assert data["schedule"].unique().tolist() == ["linear (cfg=1.5)"]
    assert data["weight"].tolist() == pytest.approx([1.5 * k / 9 for k in range(10)])
    assert set(data["cells"]) == {8}


def test_frechet_needs_the_quality_table(material):
    with pytest.raises(Skipped, match="sdvar-exp quality"):
        next(tradeoff.frechet_figures(material))
    refused = pd.DataFrame(
        {
            "cell": material.summary["cell"],
            "fd_real": None,
            "fd_real_low": None,
            "fd_real_high": None,
            "note": "fd to real: needs at least 640 samples",
        }
    )
    with pytest.raises(Skipped, match="needs at least 640 samples"):
        next(tradeoff.frechet_figures(replace(material, quality=refused)))


def test_power_of_a_study(study):
    table = power_table(study, "pixel_mae", 0.01, against=study.ids["draft_only"]).set_index("name")
    assert "draft_only" not in table.index and set(table["at_labels"]) == {3}
    assert (table["needed_cautious"] >= table["needed"]).all() and set(table["freedom"]) == {21}
    smaller = power_table(study, "pixel_mae", 0.001, against=study.ids["draft_only"]).set_index("name")
    assert (smaller["needed"] > table["needed"]).all()
    speed = power_table(study, "speedup", 1.05).set_index("name")
    assert "sequential" not in speed.index
    assert speed.loc["draft_only", "spread"] == pytest.approx(0.03, abs=0.012)
    for metric, effect, message in (
        ("speedup", 1.0, "ratio other than 1"),
        ("speedup", 0.05, "1.05 for five per cent"),
        ("pixel_mae", 0.0, "other than 0"),
        ("speed", 2.0, "unknown metric"),
    ):
        with pytest.raises(UserError, match=message):
            power_table(study, metric, effect)


def test_masks_count_images_and_not_rows(material):
    """Two cells of one strategy and mask on the same 24 images."""
    data = masks.frame(material).set_index(["strategy", "mask", "quantity"])
    assert data.loc[("parallel_v1", "block_causal", "pixel_mae"), ["cells", "n"]].tolist() == [2, 24]


def test_options_that_only_some_cells_say():
    """An exit's depth, which other schedules do not have, and a precision that is not the usual one."""

    def schedule(stages: str, **said: object) -> dict:
        return {"strategy": {"name": "model_schedule", "stages": stages, **said}, "model": {"name": "embedded"}}

    half = {**schedule("T6 D4"), "model": {"name": "embedded", "target_dtype": "bfloat16"}}
    configs = [schedule("T6 D4"), schedule("T6 e4", exit_depth=4), schedule("T6 e4", exit_depth=5), half]
    table = effects(small(configs, [0.1, 0.2, 0.3, 0.15]))
    assert row(table, "4 → 5", "pixel_mae")["factor"] == "strategy.exit_depth"
    assert row(table, "usual → bfloat16", "pixel_mae")["factor"] == "model.target_dtype"
    assert "model_schedule(stages=T6 D4) → model_schedule(exit_depth=4, stages=T6 e4)" in set(table["change"])
    assert interactions(small(configs, [0.1, 0.2, 0.3, 0.15])).empty
