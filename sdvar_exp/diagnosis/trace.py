"""A decode written down: one record per forward of a model and one per round, as plain data for JSON.

An observer and a clock, so that the decoder knows nothing of it. It synchronises the device at every record: its times say
where time goes, those of the timing phase say how much there is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from sdvar_exp.cell import Cell, Unit
from sdvar_exp.decoding.api import NoiseBook, decode
from sdvar_exp.decoding.clock import Clock, now_ms
from sdvar_exp.decoding.decoder import Decoder
from sdvar_exp.decoding.evidence import Judged, Proposal
from sdvar_exp.decoding.records import Decoded
from sdvar_exp.decoding.session import Forward, ModelSession
from sdvar_exp.models.pair import Pair
from sdvar_exp.registry import plain

Record = dict[str, Any]


class Stopwatch(Clock):
    """A clock that also knows when the present section began."""

    def __init__(self, device: torch.device | str) -> None:
        super().__init__(device)
        self.device, self.began = device, 0.0

    @contextmanager
    def __call__(self, section: str) -> Iterator[None]:
        self.began = now_ms(self.device)
        with super().__call__(section):
            yield


class Trace:
    """See `Observer`. write: takes each record as it happens, so that what led to a crash is there."""

    def __init__(self, write: Callable[[Record], None], device: torch.device | str) -> None:
        self.write, self.device = write, device
        self.clock = Stopwatch(device)
        self._last = 0.0
        self._calls = 0
        self._spent: dict[str, float] = {}

    def forward(self, role: str, session: ModelSession, forward: Forward) -> None:
        """One record per model call; `ms` is since its section began, or since the call before it in the section."""
        now = now_ms(self.device)
        f, x, cache = forward, forward.x_NqC, session.cache
        self.write(
            {
                "event": "call",
                "call": self._calls,
                "model": role,
                "first": f.first,
                "stop": f.stop,
                "rows": x.shape[1],
                "halves": x.shape[0] // session.batch,
                "left_out": sorted(k for k in session.left_out if k < f.stop),
                "batch_rows": [f.batch_rows.start, f.batch_rows.stop],
                "input": about(x),
                "mask": _mask(f.mask_qK),
                "cache": {
                    "before": f.before,
                    "after": f.after,
                    "capacity": cache.capacity,
                    "dtype": _word(cache.kv.dtype),
                    "device": str(cache.kv.device),
                    "bytes": cache.nbytes,
                },
                "guidance": [round(t, 6) for t in session.weights[f.first : f.stop]],
                "logits": about(f.logits_NqV),
                "finite": bool(f.logits_NqV.isfinite().all()),
                "ms": round(now - max(self.clock.began, self._last), 3),
            }
        )
        self._calls += 1
        self._last = now_ms(self.device)

    def round(self, decoder: Decoder, proposal: Proposal, verdicts: Sequence[Judged]) -> None:
        """One record per round: γ and why, every judged stage, what was committed, what the caches hold now."""
        spent = self.clock.ms()
        sections = {name: round(ms - self._spent.get(name, 0.0), 3) for name, ms in spent.items()}
        self._spent = spent
        closed, sessions = decoder.rounds[-1], decoder.sessions
        self.write(
            {
                "event": "round",
                "round": closed.index,
                "gamma": closed.gamma,
                "reason": closed.reason,
                "first": closed.first,
                "proposed": closed.proposed,
                "passed": closed.passed,
                "committed": closed.committed,
                "stages": [judged_stage(decoder, v) for v in verdicts],
                "cache": {role: sessions[role].cache.length for role in ("draft", "target") if role in sessions},
                "ms": {name: ms for name, ms in sections.items() if ms},
                "total_ms": round(sum(sections.values()), 3),
            }
        )


def judged_stage(decoder: Decoder, judged: Judged) -> Record:
    """A judged stage, image by image: share of tokens equal to the target's sample, share accepted, passed or not."""
    view, verdict = judged.view, judged.verdict
    match = (view.draft_tokens_Bl == view.target_tokens_Bl).double().mean(dim=1)
    return {
        "stage": view.stage,
        "passed": judged.passed,
        "passed_each": verdict.passed_B.tolist(),
        "match": [round(x, 6) for x in match.tolist()],
        "acceptance": [round(x, 6) for x in verdict.accepted_Bl.double().mean(dim=1).tolist()],
        "committed": view.stage < decoder.committed,
    }


def trace_decode(
    pair: Pair, cell: Cell, units: Sequence[Unit], noise: NoiseBook | None, write: Callable[[Record], None], name: str = ""
) -> Decoded:
    """Decode with every call and round written down: records `start`, `call` and `round`, then `end` or `error`."""
    write(
        {
            "event": "start",
            "cell": cell.id,
            "name": name,
            "config": cell.as_dict(),
            "pair": pair.name,
            "units": [{"label": u.label, "seed": u.seed} for u in units],
            "patch_nums": list(pair.pyramid.patch_nums),
            "device": str(pair.target.device),
            "dtype": _word(pair.target.dtype),
        }
    )
    trace = Trace(write, pair.target.device)
    try:
        decoded = decode(pair, cell, units, noise=noise, clock=trace.clock, record=False, observer=trace)
    except Exception as error:
        write({"event": "error", "error": f"{type(error).__name__}: {error}"})
        raise
    write(
        {
            "event": "end",
            "tokens": tokens_digest(decoded),
            "counts": plain(decoded.counts),
            "ms": {name: round(ms, 3) for name, ms in trace.clock.ms().items()},
        }
    )
    return decoded


def tokens_digest(decoded: Decoded) -> str:
    """16 hexadecimal digits of the SHA-256 of all tokens: equal where two decodes committed the same."""
    flat = torch.cat(decoded.tokens, dim=1).cpu().numpy()
    return hashlib.sha256(flat.tobytes()).hexdigest()[:16]


def about(x: torch.Tensor) -> Record:
    """Shape, dtype and device of a tensor."""
    return {"shape": list(x.shape), "dtype": _word(x.dtype), "device": str(x.device)}


def _mask(mask_qK: torch.Tensor | None) -> Record | None:
    return None if mask_qK is None else {"shape": list(mask_qK.shape), "open": int(mask_qK.sum())}


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
