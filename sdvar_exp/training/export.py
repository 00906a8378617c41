"""From training checkpoints to the shipped pair: float16 safetensors, hashes and the card's numbers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from sdvar_exp.errors import UserError
from sdvar_exp.models.checkpoint import sha256
from sdvar_exp.models.pair import Pair
from sdvar_exp.models.var import VAR
from sdvar_exp.models.vqvae import VQVAE
from sdvar_exp.training import distill as distill_training
from sdvar_exp.training import var as var_training
from sdvar_exp.training import vqvae as vqvae_training
from sdvar_exp.training.card import FASHION_MNIST, About, write_card
from sdvar_exp.training.data import DEFAULT_FOLDER, load_split

LEFT_OUT = ("attn_bias_for_masking", "zero_k_bias", "ema_vocab_hit_SV")  # the constructor makes them


def as_stored(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors as they are shipped: floating point in float16, derived buffers left out."""
    return {
        name: (t.half() if t.is_floating_point() else t.to(torch.int32)).contiguous()
        for name, t in state.items()
        if name.rsplit(".", 1)[-1] not in LEFT_OUT
    }


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A training checkpoint, in main memory; `UserError` where there is none."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: train that part first")
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def load_checkpoint(module: nn.Module, path: Path) -> dict[str, Any]:
    """Fill `module` with a training checkpoint, rounded to what is shipped; give the checkpoint's other entries."""
    saved, own = read_checkpoint(path), module.state_dict()
    module.load_state_dict(
        {
            k: saved["model"][k].half().to(v.dtype)
            if v.is_floating_point() and k in saved["model"] and k.rsplit(".", 1)[-1] not in LEFT_OUT
            else v
            for k, v in own.items()
        }
    )
    module.eval().requires_grad_(False)
    return {"steps": saved["step"], "minutes": round(saved["seconds"] / 60, 1)}


def load_vae(settings: vqvae_training.VQVAESettings, folder: Path) -> VQVAE:
    """The trained VQVAE as it is shipped: that of `folder`, or the one that `settings.init` names."""
    vae = vqvae_training.build(settings)
    if settings.init:
        var_training.start_from(vae, Path(settings.init))
        vae.eval().requires_grad_(False)
    else:
        load_checkpoint(vae, folder / "vqvae.ckpt")
    return vae


def load_transformer(settings: var_training.VARSettings, vae: VQVAE, folder: Path) -> VAR:
    """A trained transformer as it is shipped."""
    return _trained(settings, vae, folder)[0]


def _trained(settings: var_training.VARSettings, vae: VQVAE, folder: Path) -> tuple[VAR, dict[str, Any]]:
    """A transformer of as many classes as it was trained on, and the checkpoint's other entries."""
    path = folder / f"{settings.name}.ckpt"
    classes = read_checkpoint(path)["model"].get("class_emb.weight")
    if classes is None:
        raise UserError(f"{path} has matrices for hidden rows beside the draft: its two safetensors files are all")
    model = var_training.build(settings, vae, len(classes) - 1)
    return model, load_checkpoint(model, path)


def vae_steps(settings: vqvae_training.VQVAESettings, folder: Path, earlier: dict[str, Any]) -> dict[str, Any]:
    """Steps and minutes of the VQVAE; for a given one as the earlier card has them, if it is of the same file."""
    if not settings.init:
        saved = torch.load(folder / "vqvae.ckpt", map_location="cpu", weights_only=True)
        return {"steps": saved["step"], "minutes": round(saved["seconds"] / 60, 1)}
    digest, known = sha256(Path(settings.init)), earlier.get("vae", {})
    steps = {key: known[key] for key in ("steps", "minutes")} if known.get("sha256") == digest else {"steps": 0, "minutes": 0.0}
    return {"init": digest, **steps}


def started_from(digest: str, known: Sequence[Any]) -> dict[str, Any]:
    """The card's words on the weights that a training began with, by their SHA-256 ("": fresh ones).

    Steps and minutes of those weights are added where an entry of `known`, of this card or of the one that it replaces,
    describes them.
    """
    out: dict[str, Any] = {"init": digest}
    for about in (entry for entry in known if digest and isinstance(entry, dict)):
        if about.get("sha256") == digest:
            out["steps_before"] = about["steps"] + about.get("steps_before", 0)
            out["minutes_before"] = round(about["minutes"] + about.get("minutes_before", 0), 1)
        elif about.get("init") == digest and "steps_before" in about:  # exported before
            out |= {key: about[key] for key in ("steps_before", "minutes_before")}
    return out


def export(
    vqvae: vqvae_training.VQVAESettings,
    target: var_training.VARSettings,
    draft: var_training.VARSettings,
    distilled: distill_training.DistillSettings,
    late: distill_training.DistillSettings,
    folder: Path,
    out: Path,
    docs: Path,
    data_folder: Path,
    held_out: int = 2000,
    words: About | None = None,
) -> dict[str, Any]:
    """Write `vae`, `target`, `draft` (distilled), `draft_plain` .safetensors and the card to `out`, its page to `docs`.

    Also `draft_late`, where `folder` has a checkpoint of `late`; without one its earlier entry stays beside the same target.

    The card holds `words`, settings, steps, hashes, what part=classifier wrote to `out`, and metrics; those are measured on
    the first `held_out` test images, agreement with the target on the held-out samples of the distillation.
    """
    out.mkdir(parents=True, exist_ok=True)
    previous = out / "card.json"
    earlier = json.loads(previous.read_text(encoding="utf-8")) if previous.is_file() else {}
    vae = load_vae(vqvae, folder)
    about = vae_steps(vqvae, folder, earlier)
    images, labels = load_split(data_folder, "t10k")
    side = vae.pyramid.side * vae.downsample
    words = words or About()
    data = FASHION_MNIST
    if data_folder.resolve() != DEFAULT_FOLDER.resolve():
        trained = len(load_split(data_folder, "train")[1])
        data = f"{words.data or data_folder.name}; {trained:,} training and {len(images):,} test images"
    card: dict[str, Any] = {
        "pair": words.pair,
        "data": data,
        "licence": words.licence,
        "stored": "float16 safetensors; every number is of the weights as stored",
        "held_out": held_out,
        "vae": {**dataclasses.asdict(vqvae), **about, **vqvae_training.reconstruction(vae, images[:held_out], side)},
    }
    tokens, _ = var_training.encode_split(vae, data_folder, "t10k", folder / "test_tokens.pt")
    files = sorted((folder / f"samples-{distilled.student.name}").glob("samples-*.pt"))
    held = distill_training.load_samples(files[-(distilled.held_out // distilled.chunk) :])
    card["distillation"] = {**dataclasses.asdict(distilled), "student": distilled.student.name}
    models: dict[str, VAR] = {}
    roles = {"target": target, "draft_plain": draft, "draft": distilled.student}
    if (folder / f"{late.student.name}.ckpt").is_file():
        roles["draft_late"] = late.student
    for role, settings in roles.items():
        model, about = _trained(settings, vae, folder)
        models[role] = model
        losses = var_training.stage_losses(model, vae, tokens[:held_out], labels[:held_out])
        card[role] = {
            **dataclasses.asdict(settings),
            **about,
            **losses,
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        if role != "target":
            card[role] |= distill_training.agreement(model, vae, held, distilled.cfg)
    Pair(vae, models["draft"], models["target"], "embedded", {})
    begun = {role: sha256(Path(s.init)) for role, s in roles.items() if s.init}  # before a file that is read is replaced
    for role, module in {"vae": vae, **models}.items():
        card[role] |= store(module, out / f"{role}.safetensors")
    if "draft_late" in roles:
        card["draft_late"]["first_stage"] = late.first_stage
    elif "draft_late" in earlier and all(earlier[role]["sha256"] == card[role]["sha256"] for role in ("vae", "target")):
        card["draft_late"] = earlier["draft_late"]
    for role in roles:
        card[role] |= started_from(begun.get(role, ""), [*card.values(), *earlier.values()])
    if (out / "classifier.json").is_file():
        card["classifier"] = json.loads((out / "classifier.json").read_text(encoding="utf-8"))
    write_card(card, out, docs)
    return card


def store(module: nn.Module, path: Path) -> dict[str, Any]:
    """Write a module as it is shipped; its hash and size for the card."""
    save_file(as_stored(module.state_dict()), path)
    path.chmod(0o644)
    return {"sha256": sha256(path), "bytes": path.stat().st_size}
