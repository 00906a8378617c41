"""Experiments and ablations in speculative decoding of visual autoregressive (next-scale) models."""

__version__ = "0.1.0"
