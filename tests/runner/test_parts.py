"""Interrupts, progress, rows: the small parts of the runner."""

from __future__ import annotations

import io
import mmap
import os
import signal

import numpy as np
import pytest
import torch
from rich.console import Console

from sdvar_exp.cell import Unit
from sdvar_exp.pyramid import SKIPPED, Pyramid
from sdvar_exp.runner.measuring.pictures import amplified_difference
from sdvar_exp.runner.measuring.results import Result, compared, to_numpy
from sdvar_exp.runner.measuring.units import PeakMemory
from sdvar_exp.runner.running.interrupt import interruptible
from sdvar_exp.runner.running.progress import phase

PYRAMID = Pyramid((1, 2))


def result(margins: list[float]) -> Result:
    return Result(np.zeros(5, np.int64), np.zeros((1, 2, 2)), np.zeros((3, 4, 4)), np.array(margins))


def near_tie(tokens: np.ndarray, baseline: Result, pyramid: Pyramid) -> bool:
    """What the row says of an image with these tokens."""
    own = Result(tokens, baseline.f_hat, baseline.image, baseline.margins, stages=({"stage": 0}, {"stage": 1}))
    return bool(compared(Unit(0, 0), own, (baseline,), pyramid, exact=False, seen={})[0]["near_tie"])


def test_a_signal_inside_a_unit_waits_for_its_end() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interruptible() as interrupt, interrupt.shield():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("finished")
    assert done == ["finished"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_second_signal_stops_at_once(number: signal.Signals) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interruptible() as interrupt, interrupt.shield():
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        done.append("never")
    assert not done


def test_a_signal_between_units_stops_at_once_and_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_error_inside_a_unit_is_not_hidden_by_a_signal() -> None:
    with pytest.raises(ValueError, match="mine"), interruptible() as interrupt, interrupt.shield():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("mine")


def test_without_a_terminal_progress_is_a_few_plain_lines() -> None:
    out = io.StringIO()
    with phase(Console(file=out, width=60), "decode", 100) as step:
        for _ in range(100):
            step()
    lines = out.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [f"decode: {n}/100" for n in (25, 50, 75, 100)]
    assert "left" in lines[0] and "left" not in lines[-1] and "\x1b" not in out.getvalue()


def test_on_a_terminal_progress_shows_the_time_left() -> None:
    out = io.StringIO()
    with phase(Console(file=out, force_terminal=True, width=120), "decode", 2) as step:
        step(1, "some cell")
        step(1, "some cell")
    assert "2/2" in out.getvalue() and "left" in out.getvalue() and "some cell" in out.getvalue()


def test_a_near_tie_excuses_every_divergent_token_of_the_first_divergent_stage() -> None:
    tight = result([1, 1e-5, 1, 1e-5, 1])
    tokens = tight.tokens.copy()
    assert not near_tie(tokens, tight, PYRAMID), "equal tokens need no excuse"
    tokens[[1, 3]] = 7
    assert near_tie(tokens, tight, PYRAMID)
    tokens[2] = 7
    assert not near_tie(tokens, tight, PYRAMID), "position 2 was a clear choice"


def test_a_near_tie_excuses_what_follows_in_later_stages() -> None:
    tokens = np.array([7, 7, 7, 7, 7])
    assert near_tie(tokens, result([1e-5, 1, 1, 1, 1]), PYRAMID)
    assert not near_tie(tokens, result([1e-3, 0, 0, 0, 0]), PYRAMID)


def test_a_stage_without_tokens_is_no_near_tie() -> None:
    tight = result([1, 1e-5, 1e-5, 1e-5, 1e-5])
    tokens = tight.tokens.copy()
    tokens[1:] = SKIPPED
    assert not near_tie(tokens, tight, PYRAMID)


def test_the_difference_is_amplified_and_clipped() -> None:
    a, b = np.full((3, 2, 2), 0.5), np.full((3, 2, 2), 0.4)
    np.testing.assert_allclose(amplified_difference(a, b), 0.4)
    assert amplified_difference(a, b * 0).max() == 1


def test_half_precisions_become_float32() -> None:
    assert to_numpy(torch.ones(2, dtype=torch.bfloat16)).dtype == np.float32
    assert to_numpy(torch.ones(2, dtype=torch.float64)).dtype == np.float64


def test_peak_memory_sees_an_allocation() -> None:
    peak = PeakMemory(torch.device("cpu"))
    before = peak.bytes()
    if before is None:  # not Linux
        return
    with mmap.mmap(-1, 128 * 2**20) as pages:  # not from the heap, which may have freed memory that is resident
        for _ in range(128):
            pages.write(b"\1" * 2**20)
    after = peak.bytes()
    assert after is not None and after - before > 100 * 2**20
