"""Options of the command line as argparse parsers: those that every command takes, and Hydra's own. Imports no Hydra."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from sdvar_exp import registry
from sdvar_exp.config import folder
from sdvar_exp.errors import UserError

Source = Callable[[argparse.Namespace], Iterable[str]]
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
HYDRA = ("cfg", "resolve", "package", "info", "shell_completion", "hydra_help")


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are `UserError`s; every one takes `--config-dir` and `--plugin`.

    On the namespace, `config_dir` is an absolute folder or None, and `plugin` a list of modules, imported already.
    """

    def __init__(self, *, common: bool = True, json: str | None = None, **settings: Any) -> None:
        """common: whether to take the two; those who read a part of a command line only leave them to the others.

        json: the help of `--json`, for those who have it. An epilog keeps its lines.
        """
        form = argparse.RawDescriptionHelpFormatter if settings.get("epilog") else argparse.HelpFormatter
        super().__init__(**{"formatter_class": form, **settings})
        if common:
            more = "a folder with groups of your own, laid out like conf/"
            self.add_argument("--config-dir", "-cd", action=_Folder, nargs="?", metavar="DIR", help=more)
            more = "a module that registers more: strategies, metrics, figures, trackers, …; may be repeated"
            self.add_argument("--plugin", action=_Plugin, default=[], metavar="MODULE", help=more)
        if json:
            self.add_argument("--json", action="store_true", help=json)

    def add_argument(self, *names: Any, source: Source | None = None, **settings: Any) -> argparse.Action:
        """argparse's own, and where the values come from that a shell offers. source: takes what was typed so far."""
        action = super().add_argument(*names, **settings)
        action.source = source  # type: ignore[attr-defined]
        return action

    def typed(self, words: Iterable[str], current: str) -> argparse.Namespace:
        """The namespace of a command line that is still typed; defaults where it is wrong. current: its last word."""
        for action in self._actions:
            action.required = False
            action.nargs = "?" if not action.option_strings and action.nargs is None else action.nargs
        try:
            found, more = self.parse_known_args(list(words))
        except (UserError, SystemExit):
            found, more = self.parse_known_args([])
        for key, value in (word.split("=", 1) for word in more if word.startswith(("results_dir=", "study="))):
            setattr(found, key, value)
        found.current = current
        return found

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Refuse an option's value that is empty or `--`, for which argparse gives an empty list, also behind `--sort=`."""
        if arg_strings in (["--"], [""]) and action.option_strings and action.nargs is None:
            raise UserError(f"{action.option_strings[0]} needs a value, got {arg_strings[0]!r}")
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        """Raise the mistake instead of ending the program."""
        raise UserError(f"{message}; see {self.prog} --help" if self.add_help else message)


class _Folder(argparse.Action):
    """Checks that the folder is there."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if not values:
            raise UserError(f"{option_string} needs a folder")
        setattr(namespace, self.dest, folder.check_config_dir(str(values)))


class _Plugin(argparse.Action):
    """Imports the module when its word is read, so that a verb knows its entries from then on."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        registry.discover([str(values)])
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), str(values)])


def words_parser(prog: str = "sdvar-exp run") -> Parser:
    """The options of `run` and `plan` beside their overrides: Hydra's flags, and what every command takes."""
    parser = Parser(prog=prog, add_help=False, allow_abbrev=False)
    parser.add_argument("--multirun", "-m", action="store_true", help="accepted; sweeps are expanded without it too")
    parser.add_argument("--run", "-r", action="store_true", help="accepted: the default")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"], help="show the configuration that the command means")
    parser.add_argument("--resolve", action="store_true", help="with --cfg: interpolations filled in")
    parser.add_argument("--package", "-p", help="with --cfg: of this group alone")
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=INFO, help="how it was composed")
    parser.add_argument("--shell-completion", "-sc", action="store_true", help="Hydra's; see sdvar-exp completion")
    parser.add_argument("--hydra-help", action="store_true", help="help of Hydra")
    return parser
