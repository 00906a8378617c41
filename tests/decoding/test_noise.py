"""The noise: the published generator, keyed by what is sampled, never by when; and what it draws has the right distribution."""

from __future__ import annotations

import random
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from sdvar_exp.cell import Sampling, Unit
from sdvar_exp.decoding.acceptance.standard import rejection
from sdvar_exp.decoding.evidence import StageView
from sdvar_exp.decoding.noise import NoiseBook, Stream, gumbels, philox4x32, uniforms
from sdvar_exp.decoding.sampling import gumbel_argmax, process
from sdvar_exp.errors import UserError
from sdvar_exp.pyramid import Pyramid
from sdvar_exp.registry import Empty

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    """Known-answer vectors of Random123 (Salmon et al., SC 2011)."""
    words = philox4x32([np.array([c], dtype=np.uint64) for c in counter], key)
    assert [int(w[0]) for w in words] == list(expected)


def test_where_each_number_comes_from() -> None:
    """Key (label, seed), counter (code // 4, position, stage, row · 4 + stream), word code % 4."""
    unit = Unit(label=7, seed=1234, row=2)
    u = uniforms(unit, Stream.residual, stage=3, positions=5, codes=10)
    counter = [np.array([c], dtype=np.uint64) for c in (9 // 4, 4, 3, 2 * 4 + 3)]
    word = philox4x32(counter, (7, 1234))[9 % 4]
    assert u.shape == (5, 10)
    assert u[4, 9] == (int(word[0]) + 0.5) / 2**32
    assert uniforms(Unit(0, 0), Stream.draft, 0, 1, 1)[0, 0] == (0x6627E8D5 + 0.5) / 2**32
    g = gumbels(unit, Stream.residual, 3, 5, 10)
    assert g.dtype == np.float32
    assert g[4, 9] == np.float32(-np.log(-np.log(u[4, 9])))


def test_extreme_words_stay_finite() -> None:
    for i in (0, ONES):
        u = (i + 0.5) / 2**32
        assert 0 < u < 1
        assert np.isfinite(np.float32(-np.log(-np.log(u))))


def test_everything_that_keys_the_noise_changes_it() -> None:
    base = {"unit": Unit(3, 5), "stream": Stream.target, "stage": 1}
    variants = [
        {},
        {"unit": Unit(3, 6)},
        {"unit": Unit(4, 5)},
        {"unit": Unit(5, 3)},
        {"unit": Unit(3, 5, row=1)},
        {"unit": Unit(3, 5, row=4)},
        {"stage": 0},
        {"stage": 2},
        *({"stream": s} for s in Stream if s is not Stream.target),
    ]
    arrays = [uniforms(**{**base, **v}, positions=16, codes=16) for v in variants]  # type: ignore[arg-type]
    for a, b in combinations(arrays, 2):
        assert not np.intersect1d(a, b).size  # not even shifted or reordered
    one = arrays[0].ravel()
    assert np.unique(one).size == one.size


def test_a_number_does_not_depend_on_what_else_is_drawn() -> None:
    big = uniforms(Unit(1, 2), Stream.target, 3, 9, 64)
    assert np.array_equal(uniforms(Unit(1, 2), Stream.target, 3, 4, 64), big[:4])
    assert np.array_equal(uniforms(Unit(1, 2), Stream.target, 3, 9, 7), big[:, :7])


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_streams_units_stages_and_neighbours_are_uncorrelated() -> None:
    n = 4096
    bound = 4.5 / np.sqrt(n)
    accept = uniforms(Unit(1, 1), Stream.accept, 0, n, 1)[:, 0]
    for stream in (Stream.draft, Stream.target, Stream.residual):
        u = uniforms(Unit(1, 1), stream, 0, n, 8)
        assert all(abs(correlation(accept, u[:, code])) < bound for code in range(8))
        assert abs(correlation(accept, u.max(axis=1))) < bound
        assert abs(correlation(u[:-1, 0], u[1:, 0])) < bound  # neighbouring positions
        assert abs(correlation(u[:, 0], u[:, 1])) < bound  # neighbouring codes
    target = uniforms(Unit(1, 1), Stream.target, 0, n, 1)
    for other in (
        uniforms(Unit(1, 2), Stream.target, 0, n, 1),
        uniforms(Unit(2, 1), Stream.target, 0, n, 1),
        uniforms(Unit(1, 1), Stream.target, 1, n, 1),
        uniforms(Unit(1, 1), Stream.draft, 0, n, 1),
    ):
        assert abs(correlation(target, other)) < bound
    assert abs(correlation(accept, uniforms(Unit(1, 1), Stream.accept, 0, n, 1)[:, 0])) > 0.99  # the check itself works


def test_uniforms_are_uniform_and_gumbels_gumbel() -> None:
    assert stats.kstest(uniforms(Unit(0, 0), Stream.target, 0, 100, 200).ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(gumbels(Unit(0, 1), Stream.target, 0, 100, 200).ravel(), "gumbel_r").pvalue > 1e-3


@pytest.mark.parametrize("unit", [Unit(-1, 0), Unit(0, -1), Unit(0, 2**32), Unit(2**32, 0)])
def test_labels_and_seeds_that_cannot_key_are_refused(unit: Unit) -> None:
    with pytest.raises(UserError, match="must lie in 0 … 2³²-1"):
        uniforms(unit, Stream.target, 0, 1, 1)


# --- books ---------------------------------------------------------------------------------------------------------------

PYRAMID = Pyramid((1, 2, 3))


def test_a_book_is_independent_of_batch_and_order() -> None:
    units = [Unit(1, 0), Unit(2, 0), Unit(1, 1)]
    together, swapped = NoiseBook(PYRAMID, 6, units), NoiseBook(PYRAMID, 6, units[::-1])
    late = swapped.prepare([Stream.residual, Stream.accept])
    for stream in (Stream.draft, Stream.target, Stream.residual):
        for stage in (2, 0, 1):
            g = together.gumbel(stream, stage)
            assert g.shape == (3, PYRAMID.lengths[stage], 6)
            assert g.dtype == torch.float32
            assert torch.equal(g, late.gumbel(stream, stage).flip(0))
            for row, unit in enumerate(units):
                assert torch.equal(g[row], NoiseBook(PYRAMID, 6, [unit]).gumbel(stream, stage)[0])
    assert together.uniform(2).shape == (3, 9)
    assert together.uniform(2).dtype == torch.float64
    assert torch.equal(together.uniform(2), late.uniform(2).flip(0))


def test_the_acceptance_stream_of_a_book_is_the_uniform_one() -> None:
    book = NoiseBook(PYRAMID, 6, [Unit(3, 4)])
    assert np.array_equal(book.uniform(1)[0].numpy(), uniforms(Unit(3, 4), Stream.accept, 1, 4, 1)[:, 0])


def test_no_global_generator_is_touched() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    NoiseBook(PYRAMID, 6, [Unit(1, 0)]).prepare(list(Stream))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]
    assert random.getstate() == before[2]


# --- what is drawn -------------------------------------------------------------------------------------------------------

N, V = 60_000, 8
LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, 0.8], dtype=torch.float64)
OTHER = torch.tensor([0.0, 1.5, 0.2, 1.5, 1.0, 0.3, -0.5, 0.1], dtype=torch.float64)


class Toy:
    """Noise of one stage with N positions."""

    def __init__(self, seed: int) -> None:
        self.unit = Unit(0, seed)

    def gumbel(self, stream: Stream, stage: int) -> torch.Tensor:
        return torch.from_numpy(gumbels(self.unit, stream, stage, N, V))[None]

    def uniform(self, stage: int) -> torch.Tensor:
        return torch.from_numpy(uniforms(self.unit, Stream.accept, stage, N, 1)[None, :, 0])


def p_value(tokens: torch.Tensor, logits: torch.Tensor, sampling: Sampling) -> float:
    """χ² of the tokens' counts against the distribution of the given sampling; 0 if a code without probability was drawn."""
    expected = process(logits[None, None], sampling).softmax(-1)[0, 0].numpy() * tokens.numel()
    counts = torch.bincount(tokens.flatten(), minlength=V).numpy()
    if counts[expected == 0].any():
        return 0.0
    return float(stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=5), Sampling(top_p=0.8), Sampling(0.7, 6, 0.9)])
def test_gumbel_max_samples_the_processed_distribution(sampling: Sampling) -> None:
    tokens = gumbel_argmax(process(LOGITS.expand(1, N, V), sampling), Toy(1).gumbel(Stream.target, 0))
    assert p_value(tokens, LOGITS, sampling) > 1e-3
    if sampling != Sampling():
        assert p_value(tokens, LOGITS, Sampling()) < 1e-9  # negative control: not the unprocessed one


def drafted(sampling: Sampling, q: Sampling | None = None) -> StageView:
    """A proposal from OTHER to a target of LOGITS; `q` claims another sampling for the draft's distribution."""
    noise = Toy(2)
    tokens = gumbel_argmax(process(OTHER.expand(1, N, V), sampling), noise.gumbel(Stream.target, 0))
    one = torch.zeros(1)
    view = StageView(
        0,
        tokens,
        OTHER.expand(1, N, V),
        LOGITS.expand(1, N, V),
        sampling,
        noise,  # type: ignore[arg-type]
        lambda t: one,
        one,
        one,
    )
    if q is not None:
        vars(view)["q"] = process(OTHER.expand(1, N, V), q).softmax(-1)
    return view


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=5)])
def test_rejection_commits_the_target_distribution(sampling: Sampling) -> None:
    verdict = rejection(Empty(), drafted(sampling))
    assert p_value(verdict.corrected_Bl, LOGITS, sampling) > 1e-3
    assert 0.3 < verdict.accepted_Bl.double().mean() < 0.9


def test_negative_controls_of_rejection() -> None:
    sampling = Sampling(top_k=5)
    raw_q = rejection(Empty(), drafted(sampling, q=Sampling()))
    assert p_value(raw_q.corrected_Bl, LOGITS, sampling) < 1e-9
    view = drafted(sampling)
    verdict = rejection(Empty(), view)
    from_p = torch.where(verdict.accepted_Bl, view.draft_tokens_Bl, view.target_tokens_Bl)
    assert p_value(from_p, LOGITS, sampling) < 1e-9  # redrawn from p instead of the residual


def test_negative_control_acceptance_uniforms_taken_from_the_sampling_stream() -> None:
    view = drafted(Sampling())
    tied = SimpleNamespace(
        gumbel=view.noise.gumbel, uniform=lambda k: torch.from_numpy(uniforms(Unit(0, 2), Stream.target, k, N, 1)[None, :, 0])
    )
    view.noise = tied  # type: ignore[assignment]
    assert p_value(rejection(Empty(), view).corrected_Bl, LOGITS, Sampling()) < 1e-9
