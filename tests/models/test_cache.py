"""The KV cache: position-addressed, written ahead, advanced and rolled back by who owns it."""

from __future__ import annotations

import pytest
import torch

from sdvar_exp.errors import UserError
from sdvar_exp.models.cache import KVCache

ALL = slice(None)


def cache(capacity: int = 6) -> KVCache:
    out = KVCache(depth=2, batch=3, heads=2, capacity=capacity, head_dim=4, dtype=torch.float32, device="cpu")
    out.kv.zero_()  # so that rows nobody wrote can be told
    return out


def write(
    cache: KVCache, block: int, rows: slice, k_NHqc: torch.Tensor, v_NHqc: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Store new rows of one block behind `length`, as a forward does; all keys and values up to them."""
    for slot, new in zip(cache.slots(block, rows, k_NHqc.shape[2]), (k_NHqc, v_NHqc), strict=True):
        slot.copy_(new)
    return cache.view(block, rows, k_NHqc.shape[2])


def rows(count: int, batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 2, count, 4)


def test_a_write_is_read_back_and_advances_nothing() -> None:
    c = cache()
    k, v = rows(2), rows(2)
    out_k, out_v = write(c, 1, ALL, k, v)
    assert torch.equal(out_k, k) and torch.equal(out_v, v)
    assert c.length == 0
    assert not c.kv[0].any()
    c.advance(2)
    more_k, _ = write(c, 1, ALL, rows(3), rows(3))
    assert more_k.shape == (3, 2, 5, 4)
    assert torch.equal(more_k[:, :, :2], k)
    assert c.length == 2


def test_rows_that_are_not_fed_are_left_alone() -> None:
    c = cache()
    write(c, 0, slice(1, 3), rows(2, batch=2), rows(2, batch=2))
    assert not c.kv[:, :, 0].any()
    assert c.kv[0, :, 1:, :, :2].all()


def test_a_rollback_copies_nothing_and_is_overwritten() -> None:
    c = cache()
    first = rows(3)
    write(c, 0, ALL, first, first)
    c.advance(3)
    storage = c.kv.data_ptr()
    before = c.kv.clone()
    c.truncate(1)
    assert c.length == 1
    assert torch.equal(c.kv, before)
    second = rows(2)
    out, _ = write(c, 0, ALL, second, second)
    assert torch.equal(out, torch.cat((first[:, :, :1], second), dim=2))
    assert c.kv.data_ptr() == storage


def test_overflow_is_refused_before_anything_is_written() -> None:
    c = cache(4)
    write(c, 0, ALL, rows(3), rows(3))
    c.advance(3)
    before = c.kv.clone()
    with pytest.raises(ValueError, match="cache of 4 rows cannot take 5"):
        write(c, 0, ALL, rows(2), rows(2))
    assert torch.equal(c.kv, before)
    with pytest.raises(ValueError, match="cannot advance 2 rows from 3 of 4"):
        c.advance(2)
    with pytest.raises(ValueError, match="cannot advance -1 rows from 3 of 4"):
        c.advance(-1)
    assert c.length == 3


@pytest.mark.parametrize("length", [-1, 3, 99])
def test_truncating_to_what_is_not_there_is_refused(length: int) -> None:
    c = cache()
    c.advance(2)
    with pytest.raises(UserError, match=f"cache of 2 rows cannot be truncated to {length}"):
        c.truncate(length)
    assert c.length == 2


def test_size() -> None:
    c = cache()
    assert c.capacity == 6
    assert c.nbytes == 2 * 2 * 3 * 2 * 6 * 4 * 4
