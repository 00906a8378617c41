"""From logits to tokens: thresholds and ties as VAR keeps them, nothing in place, and how near a token was to another."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdvar_exp.cell import Sampling
from sdvar_exp.decoding import sampling as sampling_module
from sdvar_exp.decoding.sampling import NEAR_TIE, gumbel_argmax, margin, nucleus, process, sorted_nucleus
from sdvar_exp.errors import UserError

INF = float("inf")
LOG = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).log()


def kept(logits: torch.Tensor, **sampling: float) -> list[int]:
    """Codes that survive."""
    return process(logits[None, None], Sampling(**sampling))[0, 0].isfinite().nonzero()[:, 0].tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"top_k": 1}, [0]),
        ({"top_k": 3}, [0, 1, 2]),
        ({"top_k": 4}, [0, 1, 2, 3]),
        ({"top_k": 99}, [0, 1, 2, 3]),
        ({"top_p": 0.96}, [0, 1, 2, 3]),  # ascending 0.05: the rest has 0.95 < 0.96, so it stays
        ({"top_p": 0.94}, [0, 1, 2]),
        ({"top_p": 0.79}, [0, 1]),
        ({"top_p": 0.01}, [0]),  # the most probable code always stays
        ({"top_p": 1.0}, [0, 1, 2, 3]),
        ({"top_k": 2, "top_p": 0.62}, [0]),  # of 5/8 and 3/8, after top-k
        ({"top_k": 2, "top_p": 0.63}, [0, 1]),
        ({"temperature": 0.25, "top_p": 0.86}, [0]),  # p⁴: 0.878 …
        ({"temperature": 0.25, "top_p": 0.9}, [0, 1]),
        ({"temperature": 2.0, "top_p": 0.9}, [0, 1, 2, 3]),  # √p: the least has 0.120 of all
    ],
)
def test_literal_cases(sampling: dict[str, float], expected: list[int]) -> None:
    assert kept(LOG, **sampling) == expected
    shuffled = [2, 0, 3, 1]
    assert kept(LOG[shuffled], **sampling) == sorted(shuffled.index(code) for code in expected)


def test_ties_are_kept_as_var_keeps_them() -> None:
    assert kept(torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0]), top_k=2) == [1, 2, 3]  # all that are not below the k-th
    # four equal codes of ¼: ascending and stable, so the first one is removed at top_p = ¾
    assert kept(torch.zeros(4), top_p=0.75) == [1, 2, 3]
    assert kept(torch.zeros(4), top_p=0.01) == [3]
    assert kept(torch.zeros(4), top_p=1e-9) == [3]  # where 1 - top_p rounds to 1 in float32


def by_hand(logits: torch.Tensor, s: Sampling) -> torch.Tensor:
    """VAR's rule once more, one row and plain loops."""
    rows = []
    for row in logits.reshape(-1, logits.shape[-1]).tolist():
        x = [v / s.temperature for v in row]
        if 0 < s.top_k < len(x):
            kth = sorted(x, reverse=True)[s.top_k - 1]
            x = [v if v >= kth else -INF for v in x]
        if 0 < s.top_p < 1:
            p = torch.tensor(x, dtype=logits.dtype).softmax(0).tolist()
            order = sorted(range(len(x)), key=lambda i: x[i])  # ascending, stable
            total = 0.0
            for i in order[:-1]:
                total += p[i]
                if total <= 1 - s.top_p:
                    x[i] = -INF
        rows.append(x)
    return torch.tensor(rows, dtype=logits.dtype).view_as(logits)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 999),
    size=st.integers(2, 9),
    top_k=st.integers(0, 10),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.97, 1.0]),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    coarse=st.booleans(),
)
def test_equals_an_implementation_by_hand(
    seed: int, size: int, top_k: int, top_p: float, temperature: float, coarse: bool
) -> None:
    logits = torch.randn(2, 3, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2
    if coarse and top_p in (0.0, 1.0):
        logits = logits.round()  # many ties
    sampling = Sampling(temperature, top_k, top_p)
    out, expected = process(logits, sampling), by_hand(logits, sampling)
    assert torch.equal(out.isfinite(), expected.isfinite())
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=0)
    assert out.isfinite().any(-1).all()


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 3, 0.8), Sampling(top_k=2), Sampling(top_p=0.5)])
def test_nothing_in_place(sampling: Sampling) -> None:
    logits, g = torch.randn(2, 3, 6), torch.randn(2, 3, 6)
    before, before_g = logits.clone(), g.clone()
    processed = process(logits, sampling)
    kept_processed = processed.clone()
    gumbel_argmax(processed, g)
    margin(logits, g, sampling)
    assert torch.equal(logits, before)
    assert torch.equal(g, before_g)
    assert torch.equal(processed, kept_processed)


def test_half_precision_logits_are_processed_in_float32() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert process(torch.randn(1, 1, 4).to(dtype), Sampling(0.5, 2)).dtype == torch.float32
    assert process(torch.randn(1, 1, 4).double(), Sampling(0.5, 2)).dtype == torch.float64


def test_the_lowest_index_wins_a_tie() -> None:
    assert gumbel_argmax(torch.tensor([[[1.0, 3.0, 3.0]]]), torch.zeros(1, 1, 3)).item() == 1
    x = torch.zeros(1, 1, 4096)
    assert gumbel_argmax(x, torch.zeros_like(x)).item() == 0


def test_a_code_that_was_removed_is_never_drawn() -> None:
    g = torch.zeros(1, 1, 4, dtype=torch.float64)
    g[..., 3] = 100
    assert gumbel_argmax(process(LOG[None, None], Sampling(top_k=2)), g).item() == 0


def of(logits: list[float], g: list[float], **sampling: float) -> float:
    x = torch.tensor([[logits]], dtype=torch.float64)
    return margin(x, torch.tensor([[g]], dtype=torch.float64), Sampling(**sampling)).item()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("logits", "g", "sampling", "expected"),
    [
        ([3, 2, 1, 0], [0, 0, 0, 0], {}, 1.0),  # best against second
        ([3, 2, 1, 0], [0, 0.75, 0, 0], {}, 0.25),
        ([3, 2, 1, 0], [0, 0, 0, 0], {"top_k": 2}, 1.0),
        ([3, 2, 1, 0], [0, 5, 0, 0], {"top_k": 2}, 1.0),  # the winner is the last kept one: 2 against the removed 1
        ([3, 2, 1.5, 0], [0, 5, 0, 0], {"top_k": 2}, 0.5),
        ([3, 2, 1, 0], [0, 0, 9, 0], {"top_k": 2}, 1.0),  # a removed code would have won: 1 against the kept 2
        ([3, 2, 1.75, 0], [0, 0, 9, 0], {"top_k": 2}, 0.25),
        ([3, 2.5, 1, 0], [0, 0, 0, 0], {"top_k": 1}, 0.5),  # greedy: the runner-up may become the survivor
        ([3, 2.5, 1, 0], [7, 0, 0, 0], {"top_k": 1}, 0.5),
        ([3, 2, 1, 0], [0, 0, 0, 9], {"top_k": 99}, 6.0),  # nothing is removed: 9 against 3
    ],
)
def test_margins(logits: list[float], g: list[float], sampling: dict[str, float], expected: float) -> None:
    assert of(logits, g, **sampling) == pytest.approx(expected)


def test_a_near_tie_is_what_rounding_turns() -> None:
    """A float32 sum of 4096 products errs by 1e-5 or so, a float64 one by 1e-14."""
    assert [sampling_module.near_tie(dtype) for dtype in (torch.float32, torch.float64)] == [1e-4, 1e-11]
    for noise, expected in ((2.25 - 1e-3, 2.0), (2.25 - 1e-5, 0.25)):  # of a removed code that would just not have won
        assert of([0, -2, -2.25, -9], [0, 0, noise, 0], top_k=2) == pytest.approx(expected)


def test_support_is_that_of_the_own_token_and_of_codes_that_weigh() -> None:
    """Codes 1 and 2, half a logit apart at the cut of top-2, weigh e^-12: nothing to a token that is neither."""
    x = torch.tensor([[[0.0, -12.0, -12.5]] * 3], dtype=torch.float64)
    found = sampling_module.support_edge(x, torch.tensor([[0, 1, 2]]), Sampling(top_k=2))
    assert found.tolist() == [[12.5, 0.5, 0.5]]
    assert sampling_module.support_edge(x + x, torch.tensor([[0, 1, 2]]), Sampling(2.0, 2)).tolist() == found.tolist()
    heavy = torch.tensor([[[0.0, -2.0, -2.5]]], dtype=torch.float64)
    assert sampling_module.support_edge(heavy, torch.tensor([[0]]), Sampling(top_k=2)).item() == 0.5


def test_margin_sees_a_probability_near_the_top_p_threshold() -> None:
    """Ascending masses of 0.2, 0.3, 0.5: at top_p = 0.8 ± 1e-5 the least one is on the edge, far from any other logit."""
    logits = [float(x) for x in torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()]
    wins = [0.0, 0.0, 9.0]
    assert of(logits, wins, top_p=0.80001) == pytest.approx(1e-5, rel=1e-3)  # kept by a hair, and it won
    assert of(logits, wins, top_p=0.79999) == pytest.approx(1e-5, rel=1e-3)  # removed by a hair, and it would have won
    assert of(logits, [9.0, 0.0, 0.0], top_p=0.79999) > 0.1  # on the edge, but it could not have won


@settings(max_examples=200, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), top_k=st.integers(0, 7), top_p=st.sampled_from([0.0, 0.5, 0.8, 0.95]))
def test_no_perturbation_below_the_margin_changes_a_token(seed: int, top_k: int, top_p: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    sampling = Sampling(1.0, top_k, top_p)
    x = torch.randn(64, 8, 6, dtype=torch.float64, generator=generator) * 1.5
    # half of the rows have a code just below another one, so that edges and ties are met
    x[:32, :, 0] = x[:32, :, 1] - 10 ** (-5 * torch.rand(32, 8, dtype=torch.float64, generator=generator))
    g = -(-torch.rand(64, 8, 6, dtype=torch.float64, generator=generator).log()).log()
    safe = margin(x, g, sampling) >= NEAR_TIE
    tokens = gumbel_argmax(process(x, sampling), g)
    for _ in range(8):
        shift = (torch.rand(x.shape, dtype=torch.float64, generator=generator) * 2 - 1).sign() * 0.45 * NEAR_TIE
        moved = gumbel_argmax(process(x + shift, sampling), g)
        assert torch.equal(moved[safe], tokens[safe])
    assert safe[32:].double().mean() > 0.99  # and hardly any ordinary token is called a near-tie


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"temperature": 0.0}, "sampling.temperature must be ≥ 1e-06, got 0.0; greedy decoding"),
        ({"temperature": float("nan")}, "sampling.temperature must be ≥ 1e-06, got nan"),
        ({"top_k": -1}, "sampling.top_k must be ≥ 0, got -1"),
        ({"top_p": 1.5}, r"sampling.top_p must lie in \[0, 1\], got 1.5"),
    ],
)
def test_bad_sampling_is_refused(bad: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sampling(**bad)  # type: ignore[arg-type]


@given(
    st.integers(0, 10**6),
    st.sampled_from([1024, 1500, 4096]),
    st.sampled_from([0.05, 0.5, 0.9, 0.96, 0.999]),
    st.sampled_from([0.0, 0.3, 2.0, 6.0]),
    st.booleans(),
    st.sampled_from([0, 3, 300]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_top_p_from_the_largest_quarter_equals_the_full_sort(
    seed: int, codes: int, p: float, spread: float, tied: bool, top_k: int, wide: bool
) -> None:
    """Bit for bit, also with ties, with codes that top-k removed, and with mass that the quarter does not hold."""
    x = torch.randn(2, 3, codes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread
    x = (x.round() if tied else x).to(torch.float64 if wide else torch.float32)
    x = process(x, Sampling(top_k=top_k))
    kept = x.clone()
    assert torch.equal(nucleus(x, p), sorted_nucleus(x, p))
    assert torch.equal(x, kept)


def test_the_quarter_suffices_for_peaked_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []

    def counted(x_NV: torch.Tensor, p: float) -> torch.Tensor:
        rows.append(len(x_NV))
        return sorted_nucleus(x_NV, p)

    monkeypatch.setattr(sampling_module, "sorted_nucleus", counted)
    nucleus(torch.randn(1, 64, 4096, generator=torch.Generator().manual_seed(1)) * 3, 0.96)
    assert sum(rows) <= 16  # of 64
    nucleus(torch.zeros(1, 4, 4096), 0.96)
    assert rows[-1] == 4  # all tied: sorted whole


def edges_apart(steps: list[float]) -> int:
    """Rows of which the quarter and the full sort keep other codes, with p a little off the mass before some code."""
    apart = 0
    for seed, step in enumerate(steps):
        x = torch.randn(1, 1, 2048, generator=torch.Generator().manual_seed(seed)) * 3
        ordered = x.double().sort(descending=True).values.softmax(dim=-1)
        p = (ordered.cumsum(dim=-1) - ordered)[0, 0, 40 + 3 * seed].item() + step
        apart += not torch.equal(nucleus(x, p), sorted_nucleus(x, p))
    return apart


def test_where_rounding_could_decide_the_row_is_sorted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """p lies so near to a cumulated mass that the float32 sum of the full sort may fall on its other side; and does."""
    steps = [sign * 10.0**-exponent for exponent in (6, 7, 8, 9) for sign in (1, -1) for _ in range(5)]
    assert edges_apart(steps) == 0
    monkeypatch.setattr(sampling_module, "ROUNDING", 0.0)
    assert edges_apart(steps) > 3


def test_distance_of_each_code_to_the_edge_of_the_nucleus() -> None:
    """From the least probable on .05, .20, .50 and 1 are cumulated; top-p .6 cuts at .4, and the most probable code always stays."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).log()[None, None]
    found = sampling_module._mass_edge(logits, Sampling(top_p=0.6))[0, 0].tolist()
    assert found == pytest.approx([math.inf, 0.1, 0.2, 0.35])
