"""Draft-and-verify decoding of next-scale models.

Read `speculate.py` for the algorithm, `decoder.py` for its verbs, `options.py` for what may be chosen about them, and
`strategies/` for what uses them. Importing this package
imports no torch; `decode` and the rest of `sdvar_exp.decoding.api` are loaded on first use.
"""

from __future__ import annotations

from typing import Any

_API = ("decode", "decode_images", "make_noise", "Clock", "NoiseBook", "Decoded")


def __getattr__(name: str) -> Any:
    if name in _API:
        from sdvar_exp.decoding import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
