"""Decoding strategies: a function (parameters, Decoder) each, one file per strategy (DESIGN 2.3)."""
