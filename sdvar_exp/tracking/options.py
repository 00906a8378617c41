"""Settings of tracking: the command line decides, then WANDB_* of the environment, then the configuration files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sdvar_exp.errors import UserError
from sdvar_exp.plan import tracking_faults

MODES = ("offline", "online", "none")
PROJECT = "sdvar_exp"
_SPELLINGS = {"dryrun": "offline", "run": "online", "shared": "online", "disabled": "none", "": "none"}

# Variables that name one run, or tie to a W&B process of the caller: every cell is a run of its own.
_OF_ONE_RUN = ("RUN_ID", "NAME", "NOTES", "RESUME", "RUN_GROUP", "JOB_TYPE", "SWEEP_ID", "SERVICE", "DIR", "RUN_DIR")


@dataclass(frozen=True)
class Options:
    """mode: offline, online or none. entity: user or team, None for the account's default. base_url: None for W&B's.

    tracker: name of a registered tracker.
    """

    mode: str = "offline"
    project: str = PROJECT
    entity: str | None = None
    base_url: str | None = None
    tracker: str = "wandb"

    @property
    def place(self) -> str:
        """The key under which sent records are remembered: the mode of W&B, or another tracker's name."""
        return self.mode if self.tracker == "wandb" else self.tracker

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"tracking must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.mode != "none" and (wrong := tracking_faults(asdict(self))):
            raise UserError("\n".join(wrong))


def resolve(
    command_line: Mapping[str, str | None], files: Mapping[str, str | None], environ: Mapping[str, str] | None = None
) -> Options:
    """Options from three sources, first come first served: command line, WANDB_* where W&B is sent to, configuration files.

    Keys are the fields of `Options`; None is "not said". WANDB_MODE=disabled and WANDB_DISABLED=true mean `none`.
    """
    environ = os.environ if environ is None else environ
    if (command_line.get("tracker") or files.get("tracker") or Options.tracker) != Options.tracker:
        environ = {}
    variables = {"mode": "WANDB_MODE", "project": "WANDB_PROJECT", "entity": "WANDB_ENTITY", "base_url": "WANDB_BASE_URL"}
    environment = {key: environ[name] for key, name in variables.items() if environ.get(name)}
    if environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes"):
        environment.setdefault("mode", "none")
    said: dict[str, str] = {}
    for source in (files, environment, command_line):
        said |= {key: value for key, value in source.items() if value is not None}
    mode = said.pop("mode", "offline")
    return Options(mode=_SPELLINGS.get(mode, mode), **said)


def said_on_command_line(argv: Iterable[str], files: Mapping[str, str | None]) -> dict[str, str | None]:
    """Those of the composed options that Hydra overrides set: `tracking=online`, `tracking.project=name`, …

    `tracking=NAME` sets mode and tracker.
    """
    keys = {word.lstrip("+").partition("=")[0] for word in argv if "=" in word}
    said = {key.removeprefix("tracking.") for key in keys if key.startswith("tracking.")}
    return {k: v for k, v in files.items() if k in said or ("tracking" in keys and k in ("mode", "tracker"))}


def child_environment(folder: Path, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment of the process that imports wandb: the caller's, with every wandb file inside the study.

    Variables that would make all cells one run are dropped. Keys, proxies and certificates stay.
    """
    environ = os.environ if environ is None else environ
    home = (folder / "wandb").resolve()
    out = {k: v for k, v in environ.items() if k not in {f"WANDB_{name}" for name in _OF_ONE_RUN}}
    out |= {"WANDB_CACHE_DIR": str(home / "cache"), "WANDB_DATA_DIR": str(home / "data")}
    out |= {"WANDB_ARTIFACT_DIR": str(home / "artifacts"), "OMP_NUM_THREADS": "1"}
    out.setdefault("WANDB_ERROR_REPORTING", "false")
    out.setdefault("WANDB_SILENT", "true")
    return out
