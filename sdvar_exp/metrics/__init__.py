"""Numbers from arrays: how far an image moved, and how sure a mean is. numpy and SciPy only, no torch, no tables."""

from sdvar_exp.metrics.fidelity import fidelity, token_agreement
from sdvar_exp.metrics.noise_floor import noise_floor
from sdvar_exp.metrics.statistics import Interval, identical_bound, mean_interval, ratio_interval, unit_means

__all__ = [
    "Interval",
    "fidelity",
    "identical_bound",
    "mean_interval",
    "noise_floor",
    "ratio_interval",
    "token_agreement",
    "unit_means",
]
