"""Presets of published checkpoints that are tuned to need no guidance."""

from __future__ import annotations

import pytest

from sdvar_exp.config.build import compose


@pytest.mark.parametrize("name", ["var_d16_ddo", "var_d30_ddo", "var_d16_cca", "var_d30_cca"])
def test_guidance_of_models_that_need_none_is_pointed_out_once(name: str) -> None:
    note = f"model={name} is tuned to need no guidance: use cfg_schedule=off"
    plan = compose(["strategy=sequential,draft_only", "cfg_schedule=off,linear,interval", f"model={name}"])
    assert [text for text in plan.notices if "guidance" in text] == [note]
    assert all(cell.cell.model.name == name for cell in plan.cells)
    unguided = compose(["strategy=sequential", "cfg_schedule=off", f"model={name}"])
    assert not unguided.notices
    spec = unguided.cells[0].cell.model
    depth, way = name.split("_")[1:]
    assert depth in spec.target and way in spec.target.lower() and "d16" in spec.draft and spec.vae == "vae_ch160v4096z32.pth"


def test_guided_models_are_left_alone() -> None:
    assert not compose(["strategy=sequential", "model=embedded,var_d16_d30"]).notices
