"""Hydra's own multirun, for its sweepers (Optuna, Ax, Nevergrad, …) and launchers (joblib, submitit, …).

Without one of them `sdvar-exp run` expands sweeps itself. With one, Hydra calls `job` once for each of its jobs, with the
job's overrides; what the job returns is the sweeper's objective. Hydra's own files go to `<results_dir>/.hydra`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from sdvar_exp.config.command import load_entries, read_command
from sdvar_exp.config.composing import CONFIG_NAME, version_arguments
from sdvar_exp.config.errors import explain
from sdvar_exp.config.folder import conf_folder, names
from sdvar_exp.config.overrides import Known, for_hydra, parse
from sdvar_exp.config.reading import reading
from sdvar_exp.errors import UserError

Job = Callable[[Sequence[str]], float | tuple[float, ...] | None]
OURS = ("hydra.sweeper.params", "hydra.searchpath", "hydra.verbose")
HINTS = {
    "hydra/sweeper": "a sweeper is a package, e.g. hydra-optuna-sweeper",
    "hydra/launcher": "a launcher is a package, e.g. hydra-joblib-launcher",
}


def wanted(words: Sequence[str]) -> bool:
    """Whether a command names a sweeper or a launcher of Hydra's, or settings of one."""
    keys = [word.lstrip("+~").partition("=")[0] for word in words if not word.startswith("-")]
    theirs = ("hydra/sweeper", "hydra/launcher", "hydra.sweeper.", "hydra.launcher.", "hydra.sweep.")
    return any(key.startswith(theirs) and not key.startswith(OURS) for key in keys)


def run(words: Sequence[str], job: Job) -> int:
    """Run Hydra's multirun on a command line; 0 if it came to its end.

    Raises `UserError` for a mistake in the words; whatever a job raises and its sweeper lets pass, as `RuntimeError`.
    """
    command = read_command(words)
    load_entries(command)
    check_groups(command.overrides)
    overrides = for_hydra(command.overrides, Known(command.extra))
    place = command.place
    own = [
        *place,
        *(word for name in command.plugins for word in ("--plugin", name)),
        *(word for word in overrides if word.startswith("hydra.searchpath=")),
    ]
    swept = {o.key_or_group for o in parse(overrides, []) if o.is_sweep_override()}

    begun = []

    def task(cfg: Any) -> float | tuple[float, ...] | None:
        begun.append(cfg)
        settings = HydraConfig.get()
        many = swept | set(settings.sweeper.get("params") or ())
        return job([*own, *(_one_seed(word) if "seeds" in many else word for word in settings.overrides.task)])

    main = hydra.main(config_path=str(conf_folder()), config_name=CONFIG_NAME, **version_arguments())(task)
    with _command_line([*place, "-m", *overrides]), reading(partial(names, extra=command.extra)):
        try:
            main()
        except UserError:
            raise
        except Exception as error:
            if isinstance(error.__cause__, UserError):
                raise error.__cause__ from None
            if begun and not isinstance(error, HydraException | OmegaConfBaseException):
                raise
            # before the first job, whatever is raised comes of the words
            hint = next((f"; {text}" for key, text in HINTS.items() if key in str(error)), "")
            raise UserError(f"{explain(error)}{hint}") from error
    return 0


def check_groups(overrides: Sequence[str]) -> None:
    """Raise `UserError` unless each sweeper and launcher is chosen by a name."""
    for override in parse(overrides, []):
        group = override.key_or_group
        if group in HINTS and (override.package is not None or not isinstance(override.value(), str) or not override.value()):
            raise UserError(f"{override.input_line}: write {group}=NAME; {HINTS[group]}")


def _one_seed(word: str) -> str:
    """`seeds=[3]` of a job for which a sweeper chose `seeds=3`: the seed 3, not the three seeds 0, 1, 2."""
    key, _, value = word.partition("=")
    return f"seeds=[{value}]" if key.lstrip("+") == "seeds" and value.isdecimal() else word


@contextmanager
def _command_line(argv: list[str]) -> Iterator[None]:
    """Gives Hydra its words from the process's arguments, and that errors are to be raised, not printed."""
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    logger = logging.getLogger("hydra")
    level = logger.level
    logger.setLevel(logging.WARNING)  # handlers and levels of this process are not Hydra's to set (conf/config.yaml)
    sys.argv = ["sdvar-exp", *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = before
        logger.setLevel(level)
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full
