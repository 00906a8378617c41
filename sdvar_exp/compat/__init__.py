"""Drop-in names of the official VAR code and of the SDVAR scripts: change the import, keep the script.

A thin layer over `sdvar_exp.models` and `sdvar_exp.decoding`; nothing is implemented a second time. What differs from those
sources, and why, is in docs/compat.md.
"""

from sdvar_exp.compat.builders import build_vae_var, build_vae_var_speculative_decoding
from sdvar_exp.compat.models import VAR, VQVAE
from sdvar_exp.compat.sdvar import SDVAR
from sdvar_exp.compat.tester import SDVARParallelV1Tester

__all__ = ["SDVAR", "VAR", "VQVAE", "SDVARParallelV1Tester", "build_vae_var", "build_vae_var_speculative_decoding"]
