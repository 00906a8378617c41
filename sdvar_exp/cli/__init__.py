"""The console command `sdvar-exp`: one file per verb, imported when it is asked for.

Exit codes: 0 fine, 1 something failed while running, 2 the command makes no sense, 130 interrupted, 143 by SIGTERM.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from sdvar_exp import __version__
from sdvar_exp.errors import UserError
from sdvar_exp.guest import check_working_folder, guarded, guest
from sdvar_exp.store.records import watched

VERBS = {
    "run": "decode every cell of a command, or continue where it stopped",
    "plan": "what `run` would do: cells, units, what is left, how long; runs nothing",
    "status": "how far studies are, and whether one is running",
    "logs": "what happened to a cell or in a study: starts, failures with tracebacks",
    "table": "the result table of a study: filtered, grouped, or stable for comparing",
    "diff": "what differs between two cells or studies; a regression gate with --fail-on",
    "figures": "write the figures of a study as PDF, PNG and SVG, at the size of a venue",
    "verify": "draw the figures again and compare data and pixels with the files",
    "power": "how many labels × seeds show a given effect, from the spread of a study",
    "report": "one self-contained HTML page of a study",
    "collect": "make tables and figures again from the ledger",
    "worst": "the images that come out worst by a metric, and where their pictures lie",
    "validate": "is a study whole: ledger, cells, images, tables; exit code 1 if not",
    "merge": "make one study of folders of it from several machines; conflicts are listed",
    "ls": "what can be chosen: strategies, masks, rules, controllers, schedules, models, experiments",
    "new": "write the file of a strategy, rule, metric, … or experiment of your own, and its yaml",
    "quality": "class accuracy, Fréchet and kernel distance, precision and recall of each cell's images",
    "export": "a cell's images as one npz or a folder of PNG files, or a study as a dataset, for other programs",
    "push": "send a study to W&B",
    "dashboard": "make a W&B workspace and a report of a study",
    "check": "run the invariants of decoding on a pair of models; say which stage and tensor is wrong",
    "doctor": "check this machine, and say how to mend what is missing",
    "gc": "find, and with --delete remove, files that nothing needs",
    "completion": "teach bash, zsh or fish to complete sdvar-exp",
}
FAILED, USAGE, INTERRUPTED = 1, 2, 130

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: that of the process) and return its exit code."""
    with guest(), guarded():
        return _main(list(sys.argv[1:] if argv is None else argv))


def _main(words: list[str]) -> int:
    try:
        with watched() as left_out:
            code = _dispatch(words)
        return code or _said(words[:1], len(left_out))
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, e.g. `| head`
        _leave_output()
        return 0
    except OSError as error:
        log.debug("the machine refused", exc_info=True)
        said = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        try:
            check_working_folder()
        except UserError as gone:
            said = str(gone)
        with suppress(OSError):
            print(f"error: {said}", file=sys.stderr)
        _leave_output()
        return FAILED


def _said(verb: list[str], left_out: int) -> int:
    """Exit code of a command that went well but for what its readers left out; `run` makes that again, `plan` counts it."""
    if not left_out or verb in (["run"], ["plan"]):
        return 0
    print(f"error: {left_out} of the study's records or files left out, named above; the rest is shown", file=sys.stderr)
    return FAILED


def _leave_output() -> None:
    """Nothing more goes to standard output, not even what lies in its buffer at exit; a stand-in without a file is let be."""
    with suppress(AttributeError, OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else USAGE
    verb, rest = words[0], words[1:]
    if verb == "--version":
        print(f"sdvar-exp {__version__}")
        return 0
    if verb not in VERBS:
        raise UserError(f"unknown command {verb!r}{_guess(verb)}")
    result = import_module(f"sdvar_exp.cli.{verb}").main(rest)
    sys.stdout.flush()
    return int(result)


def _guess(verb: str) -> str:
    if "=" in verb or verb in ("-m", "--multirun"):
        return f"; did you mean 'sdvar-exp run {verb} …'?"
    from sdvar_exp.words import choices_text, did_you_mean

    return did_you_mean(verb, VERBS, choices_text(VERBS, "commands are"))


def _help() -> str:
    lines = ["usage: sdvar-exp COMMAND …", "", "Experiments in speculative decoding of visual autoregressive models.", ""]
    lines.append("commands:")
    lines += [f"  {verb:10} {text}" for verb, text in VERBS.items()]
    lines += [
        "",
        "sdvar-exp COMMAND --help says more.",
        "",
        "  sdvar-exp run experiment=demo",
        "  sdvar-exp run strategy=sequential,parallel_v1 acceptance=exact 'labels=[0,3,8]' seeds=4",
    ]
    return "\n".join(lines)
