"""Decoding strategies: a function (parameters, Decoder) each, one file per strategy."""
