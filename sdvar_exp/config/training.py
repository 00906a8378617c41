"""The configuration of `scripts/train.py`: conf/train.yaml and overrides, turned into `TrainSettings`."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdvar_exp.config.composing import started
from sdvar_exp.errors import UserError
from sdvar_exp.training.jobs import TrainSettings


def compose_training(overrides: Sequence[str]) -> TrainSettings:
    """`TrainSettings` from conf/train.yaml and command-line overrides; `UserError` in one line for anything wrong."""
    schema = OmegaConf.structured(TrainSettings)
    OmegaConf.set_readonly(schema, None)
    for node in (
        schema.vqvae,
        schema.target,
        schema.draft,
        schema.distilled,
        schema.distilled.student,
        schema.classifier,
        schema.evaluate,
    ):
        OmegaConf.set_readonly(node, None)
    ConfigStore.instance().store(name="schema_train", node=schema)
    GlobalHydra.instance().clear()
    try:
        with started():
            settings = OmegaConf.to_object(compose("train", list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(str(error).splitlines()[0]) from None
    assert isinstance(settings, TrainSettings)
    return settings
