"""Models for tests: the golden ones (weights drawn by name) and a table-driven fake pair."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from sdvar_exp.models.cache import KVCache
from sdvar_exp.models.pair import Pair
from sdvar_exp.models.var import VAR
from sdvar_exp.models.vqvae import VQVAE
from sdvar_exp.pyramid import Pyramid
from tests.goldens.fill_weights import fill_state_dict, tensor_by_name

GOLDENS = Path(__file__).with_name("goldens")
CASES = ("tiny", "tiny-shared-aln", "ten-stage")


def golden_settings(name: str) -> dict:
    return json.loads((GOLDENS / f"{name}.json").read_text())


def golden_keys(name: str) -> dict[str, dict[str, list[int]]]:
    return json.loads((GOLDENS / f"{name}.keys.json").read_text())


@cache
def golden_arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS / f"{name}.npz") as z:
        return {k: z[k] for k in z.files}


def golden_vae(name: str) -> VQVAE:
    h = golden_settings(name)
    vae = VQVAE(
        h["patch_nums"],
        h["vocab_size"],
        h["z_channels"],
        h["ch"],
        using_znorm=h["using_znorm"],
        share_quant_resi=h["share_quant_resi"],
    )
    vae.load_state_dict(fill_state_dict(vae.state_dict(), f"{name}/vae/"))
    return vae.eval().requires_grad_(False)


def golden_var(name: str, role: str) -> VAR:
    h = golden_settings(name)
    model = VAR(
        tuple(h["patch_nums"]),
        h["vocab_size"],
        h["z_channels"],
        h["num_classes"],
        h[role]["depth"],
        h[role]["embed_dim"],
        h[role]["num_heads"],
        shared_aln=h["shared_aln"],
        attn_l2_norm=h["attn_l2_norm"],
    )
    model.load_state_dict(fill_state_dict(model.state_dict(), f"{name}/{role}/"))
    return model.eval().requires_grad_(False)


def golden_pair(name: str, dtype: str = "float32", draft: str = "draft", target: str = "target") -> Pair:
    """The golden pair; with draft="target" the draft is a copy of the target."""
    pair = Pair(golden_vae(name), golden_var(name, draft), golden_var(name, target), name, {})
    return pair.to("cpu", dtype)


def near_pair(name: str, dtype: str = "float32", shift: float = 0.1) -> Pair:
    """The golden pair with a draft that nearly agrees: the target, its head moved by `shift` of its spread."""
    draft = golden_var(name, "target")
    noise = torch.from_numpy(tensor_by_name("head.weight", tuple(draft.head.weight.shape), "near/"))
    draft.head.weight += shift * noise
    return Pair(golden_vae(name), draft, golden_var(name, "target"), f"near {name}", {}).to("cpu", dtype)


# --- a pair without transformers -----------------------------------------------------------------------------------------


def digest(codes_L: list[int]) -> int:
    """A number that any change of the codes before a stage changes (almost surely)."""
    out = 0
    for code in codes_L:
        out = (out * 131 + code + 1) % 1_000_003
    return out


@dataclass
class Script:
    """What both fake models say: `misses[label][stage]` tokens of a stage, its first ones, the draft gets wrong.

    The target's token depends on label, stage, position and every code before the stage; so does the draft's.
    """

    vocab_size: int = 8
    misses: dict[int, dict[int, int]] = field(default_factory=dict)

    def target(self, label: int, stage: int, position: int, before: int) -> int:
        return (7 * stage + 3 * position + 5 * label + before) % self.vocab_size

    def draft(self, label: int, stage: int, position: int, before: int) -> int:
        wrong = position < self.misses.get(label, {}).get(stage, 0)
        return (self.target(label, stage, position, before) + int(wrong)) % self.vocab_size


@dataclass(frozen=True)
class Pass:
    """One forward of a fake model: stages fed, guidance halves fed, cached rows before it, its mask."""

    role: str
    stages: tuple[int, ...]
    halves: int
    behind: int
    mask: torch.Tensor | None = field(compare=False, repr=False, default=None)


class FakeQuantizer:
    """f̂ is the codes themselves: (B, L) int64, code + 1 at the positions known, 0 elsewhere."""

    def __init__(self, pyramid: Pyramid, vocab_size: int) -> None:
        self.pyramid = pyramid
        self.embedding = SimpleNamespace(weight=torch.eye(vocab_size))

    def empty(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch, self.pyramid.total, dtype=torch.int64)

    def code_map(self, stage: int, tokens_Bl: torch.Tensor) -> torch.Tensor:
        return tokens_Bl

    def contribution(self, stage: int, tokens_Bl: torch.Tensor) -> torch.Tensor:
        out = self.empty(len(tokens_Bl))
        out[:, self.pyramid.rows(stage, stage + 1)] = tokens_Bl + 1
        return out

    def accumulate(self, stage: int, tokens_Bl: torch.Tensor, f_hat_BL: torch.Tensor) -> torch.Tensor:
        self.check_prefix(stage, f_hat_BL)
        return f_hat_BL + self.contribution(stage, tokens_Bl)

    def next_input(self, stage: int, f_hat_BL: torch.Tensor) -> torch.Tensor:
        """Rows (B, L_k, 3): stage, position in the flat sequence, digest of all codes before the stage."""
        self.check_prefix(stage, f_hat_BL)
        rows = self.pyramid.rows(stage, stage + 1)
        before = [digest([c - 1 for c in codes]) for codes in f_hat_BL[:, : rows.start].tolist()]
        return torch.tensor([[[stage, i, d] for i in range(rows.start, rows.stop)] for d in before])

    def check_prefix(self, stage: int, f_hat_BL: torch.Tensor) -> None:
        known = (f_hat_BL > 0).all(dim=0).tolist()
        offset = self.pyramid.offsets[stage]
        assert known == [True] * offset + [False] * (self.pyramid.total - offset), "f̂ of another stage"


class FakeModel:
    """Implements what `ModelSession` needs of a transformer, from a script; notes every pass.

    The KV cache holds the rows themselves (stage, position, digest), so that a test can read what was cached.
    """

    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, role: str, pyramid: Pyramid, script: Script, num_classes: int, log: list[Pass]) -> None:
        self.role, self.pyramid, self.script, self.num_classes, self.log = role, pyramid, script, num_classes, log
        self.vocab_size = script.vocab_size

    def new_cache(self, batch: int) -> KVCache:
        return KVCache(1, batch, 1, self.pyramid.total, 3, self.dtype, self.device)

    def condition(self, labels_N: torch.Tensor) -> SimpleNamespace:
        whole = SimpleNamespace(class_NC=labels_N[:, None])
        whole.narrow = lambda rows: SimpleNamespace(class_NC=labels_N[rows, None])
        return whole

    def first_rows(self, class_NC: torch.Tensor) -> torch.Tensor:
        one = torch.tensor([[0, i, 0] for i in range(self.pyramid.lengths[0])])
        return one.expand(len(class_NC), -1, -1)

    def stage_rows(self, first: int, input_Bqc: torch.Tensor, stop: int) -> torch.Tensor:
        assert input_Bqc[0, :, 0].unique().tolist() == list(range(first, stop))
        return input_Bqc

    def __call__(
        self,
        x: torch.Tensor,
        condition: SimpleNamespace,
        cache: KVCache,
        mask: torch.Tensor | None,
        rows: slice,
        spans: object = None,
    ) -> torch.Tensor:
        behind, count = cache.length, x.shape[1]
        assert x[0, :, 1].tolist() == list(range(behind, behind + count)), "rows stand at another place than theirs"
        assert mask is None or mask.shape == (count, behind + count)
        kv = x[:, None].double()
        for slot in cache.slots(0, rows, count):
            slot.copy_(kv)
        labels = condition.class_NC[:, 0].tolist()
        halves = 2 if self.num_classes in labels and len(set(labels)) > 1 else 1
        self.log.append(Pass(self.role, tuple(x[0, :, 0].long().unique().tolist()), halves, behind, mask))
        out = torch.zeros(len(x), count, self.vocab_size, dtype=self.dtype)
        say = self.script.draft if self.role == "draft" else self.script.target
        for n, label in enumerate(labels):
            for i, (stage, place, before) in enumerate(x[n].long().tolist()):
                position = place - self.pyramid.offsets[stage]
                if label != self.num_classes:
                    out[n, i, say(label, stage, position, before)] = 1e4
        return out


class FakePair:
    """Stands in for `Pair`; `log` has every pass of both models in order."""

    name, num_classes = "fake", 100

    def __init__(self, patch_nums: tuple[int, ...] = (1, 2, 3, 4), script: Script | None = None) -> None:
        self.pyramid, self.script = Pyramid(patch_nums), script or Script()
        self.log: list[Pass] = []
        self.vae = SimpleNamespace(quantize=FakeQuantizer(self.pyramid, self.script.vocab_size))
        self.draft, self.target = (
            FakeModel(role, self.pyramid, self.script, self.num_classes, self.log) for role in ("draft", "target")
        )

    def passes(self, role: str) -> list[tuple[int, ...]]:
        """Stages fed in each pass of one model."""
        return [p.stages for p in self.log if p.role == role]
