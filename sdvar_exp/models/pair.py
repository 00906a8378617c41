"""A pair of transformers over one VQVAE: the draft proposes, the target decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from sdvar_exp.cell import ModelSpec
from sdvar_exp.errors import UserError
from sdvar_exp.models.accelerate import accelerate
from sdvar_exp.models.checkpoint import build_var, build_vqvae, sha256
from sdvar_exp.models.fastest import ways_of
from sdvar_exp.models.files import SHIPPED as SHIPPED
from sdvar_exp.models.files import WEIGHTS as WEIGHTS
from sdvar_exp.models.files import checkpoint_folder as checkpoint_folder
from sdvar_exp.models.files import model_files
from sdvar_exp.models.files import shipped_files as shipped_files
from sdvar_exp.models.products import round_to_int8
from sdvar_exp.models.var import VAR
from sdvar_exp.models.vqvae import VQVAE
from sdvar_exp.pyramid import Pyramid

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Pair:
    """VQVAE, draft and target on one device; `hashes` are the SHA-256 of the files they came from, by role.

    Under `execution=auto` `hashes["products"]` tells the ways of their products.
    """

    vae: VQVAE
    draft: VAR
    target: VAR
    name: str
    hashes: Mapping[str, str]

    def __post_init__(self) -> None:
        check_pair(self.vae, self.draft, self.target)

    @property
    def pyramid(self) -> Pyramid:
        return self.target.pyramid

    @property
    def num_classes(self) -> int:
        return self.target.num_classes

    def to(self, device: torch.device | str, dtype: str = "float32") -> Pair:
        """The pair on a device (moved in place); transformers in `dtype`, the VQVAE in float32 at least."""
        if dtype not in DTYPES:
            raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        wide = torch.float64 if dtype == "float64" else torch.float32
        self.vae.to(device=device, dtype=wide)
        self.draft.to(device=device, dtype=DTYPES[dtype])
        self.target.to(device=device, dtype=DTYPES[dtype])
        return self

    def round(self, dtypes: Mapping[str, str]) -> None:
        """Put roles into a precision of their own, in place: of a transformer all of it, of the VQVAE its image decoder.

        Raises:
            UserError: int8 on a device without it.
        """
        for role, dtype in dtypes.items():
            if role == "vae":
                for part in (self.vae.post_quant_conv, self.vae.decoder):
                    part.to(DTYPES[dtype])
            elif dtype == "int8":
                model = getattr(self, role)
                round_to_int8(model if model.dtype in (torch.float32, torch.float64) else model.float())
            else:
                getattr(self, role).to(DTYPES[dtype])


def check_pair(vae: VQVAE, draft: VAR, target: VAR) -> None:
    """Raise `UserError` unless the three speak the same codes and stages."""
    for what, a, b in (
        ("patch_nums", draft.pyramid.patch_nums, target.pyramid.patch_nums),
        ("codebook sizes", draft.vocab_size, target.vocab_size),
        ("numbers of classes", draft.num_classes, target.num_classes),
        ("code widths", draft.word_embed.in_features, target.word_embed.in_features),
    ):
        if a != b:
            raise UserError(f"draft and target have different {what}: {a} and {b}; use a pair trained on one VQVAE")
    if vae.pyramid.patch_nums != target.pyramid.patch_nums:
        raise UserError(
            f"the VQVAE has patch_nums {vae.pyramid.patch_nums}, the models have {target.pyramid.patch_nums}; use a pair "
            f"trained on it"
        )
    if (vae.quantize.vocab_size, vae.quantize.width) != (target.vocab_size, target.word_embed.in_features):
        raise UserError(
            f"the VQVAE has {vae.quantize.vocab_size} codes of width {vae.quantize.width}, the models were trained on "
            f"{target.vocab_size} of width {target.word_embed.in_features}"
        )


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; `UserError` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={name}: PyTorch sees no CUDA GPU here; use device=cpu or device=auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name}: there are only {torch.cuda.device_count()} GPUs")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    return device


def load_pair(spec: ModelSpec | str = "embedded", device: str | torch.device = "cpu", dtype: str = "float32") -> Pair:
    """Load a pair of models.

    Args:
        spec: `embedded`, `embedded_plain`, `embedded_late` or `emoji` (shipped, see `docs/model_card.md` and
            `models/weights/emoji/README.md`), or a `ModelSpec` with checkpoint files.
        device: where to put it; see `resolve_device`.
        dtype: float32, float64, bfloat16 or float16.
    Raises:
        UserError: a file that is missing, damaged or does not fit; models that do not belong together.
    """
    spec = ModelSpec(spec) if isinstance(spec, str) else spec
    paths = model_files(spec)
    target, draft = build_var(paths["target"]), build_var(paths["draft"])
    vae = build_vqvae(paths["vae"], target.pyramid.patch_nums)
    digests = {path: sha256(path) for path in set(paths.values())}
    pair = Pair(vae, draft, target, spec.name, {role: digests[path] for role, path in paths.items()})
    pair.to(resolve_device(str(device)), dtype)
    pair.round(spec.dtypes)
    how = (spec.execution, spec.autocast)
    pair = replace(pair, draft=accelerate(draft, *how), target=accelerate(target, *how))
    ways = ways_of(draft, target) if spec.execution == "auto" else ""
    return replace(pair, hashes={**pair.hashes, "products": ways}) if ways else pair
