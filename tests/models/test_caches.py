"""The KV cache as a whole, and as a CPU reads it: in segments, with its keys turned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from latentum_jax.models import caches
from latentum_jax.models.attention import attend_cache
from latentum_jax.models.caches import KVCache, SegmentedCache

KINDS = [KVCache, SegmentedCache]


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    """Of 8 slots."""
    monkeypatch.setattr(caches, "SEGMENT", 8)


def filled(kind, lengths, slots=20, seed=0):
    """A cache of rows [B K=2 S H=8] filled up to their lengths, and its keys and values [B S K H];
    all of a row's are put at once, those behind its length outside."""
    rng = np.random.default_rng(seed)
    draw = lambda: jnp.asarray(rng.standard_normal((len(lengths), slots, 2, 8)), jnp.float32)  # noqa: E731
    k, v, cache = draw(), draw(), kind.empty(len(lengths), 2, slots, 8, jnp.float32)
    places = jnp.arange(slots)[None]
    where = jnp.where(places < jnp.asarray(lengths)[:, None], places, cache.length)
    return cache.write(where, k, v), k, v


def by_torch(q, k, v, position):
    """Every query over the slots up to its own; two query heads to a key head."""
    turned = lambda x, n=1: torch.tensor(np.array(x)).transpose(1, 2).repeat_interleave(n, 1)  # noqa: E731
    seen = torch.tensor(np.arange(k.shape[1]) <= np.asarray(position)[:, None, :, None])
    made = torch.nn.functional.scaled_dot_product_attention(
        turned(q), turned(k, 2), turned(v, 2), attn_mask=seen
    )
    return made.transpose(1, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ends", [(3, 1, 7), (9, 2, 14), (20, 8, 16)])
@pytest.mark.parametrize("t", [1, 3])
def test_attention_over_a_cache_equals_torch(kind, ends, t):
    """Rows that end in the first, the second or the last segment, at its first or its last slot.
    Breaks if a token sees the slot behind its own, or not all before."""
    cache, k, v = filled(kind, ends)
    q = jax.random.normal(jax.random.key(1), (len(ends), t, 4, 8))
    position = jnp.maximum(jnp.asarray(ends)[:, None] - t + jnp.arange(t), 0)
    got = jax.jit(attend_cache)(q, cache, position)
    np.testing.assert_allclose(got, by_torch(q, k, v, position), atol=1e-5)


@pytest.mark.parametrize("t", [1, 3])
def test_a_row_gets_the_same_beside_longer_ones(t):
    """To the last bit: a batch reads as many segments as its longest row has filled. What is
    outside its cache reads none, and gives numbers."""
    q = jax.random.normal(jax.random.key(1), (2, t, 4, 8))
    alone = None
    for other in (5, 12, 20, 99):
        cache, _, _ = filled(SegmentedCache, (5, 20))
        position = jnp.asarray([[4], [other - 1]]) * jnp.ones((1, t), int)
        got = np.asarray(jax.jit(attend_cache)(q, cache, position))
        assert np.isfinite(got).all()
        alone = got[0] if alone is None else alone
        np.testing.assert_array_equal(got[0], alone)


@pytest.mark.parametrize("kind", KINDS)
def test_writes_outside_the_cache_are_dropped(kind):
    """A full row must not overwrite its own first slots, nor the last one, nor a segment the one
    beside it."""
    cache = kind.empty(1, 2, 16, 8, jnp.float32)
    ones = jnp.ones((1, 3, 2, 8))
    written = cache.write(jnp.array([[7, 15, 16]]), ones, ones)
    k, v = written.k, written.v
    if kind is SegmentedCache:
        assert [x.shape for x in k] == [(1, 2, 8, 8)] * 2
        k, v = jnp.concatenate(k, axis=3).swapaxes(2, 3), jnp.concatenate(v, axis=2)
    for x in (k, v):
        (filled,) = np.nonzero(np.asarray(x).any(axis=(0, 1, 3)))
        np.testing.assert_array_equal(filled, [7, 15])


def test_a_long_cache_has_few_segments():
    """Each is written to at every step: a context of 40960 slots must not have hundreds."""
    cache = SegmentedCache.empty(1, 1, 603, 2, jnp.bfloat16)
    assert (len(cache.v), cache.size, cache.length) == (4, 151, 604)
    assert cache.k[0].dtype == jnp.bfloat16
