"""Attention over a cache: kernel and twin against torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from latentum_jax.kernels.decode import decode_kernel, decode_twin
from tests.devices import HERE

B, N, K, H = 3, 4, 2, 32


def given(slots, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    return draw(B, N, H), draw(B, K, slots, H), draw(B, K, slots, H)


def attend(q, k, v, lengths):
    """A row at a time over the slots that it has filled, by torch."""
    out = np.zeros((B, N, H), np.float32)
    to_torch = lambda x: torch.tensor(np.array(x))  # noqa: E731
    for row, length in enumerate(lengths):
        if length:
            keys, values = (to_torch(x[row, :, :length]).repeat_interleave(2, 0) for x in (k, v))
            out[row] = torch.nn.functional.scaled_dot_product_attention(
                to_torch(q[row])[:, None], keys, values, scale=1.0
            )[:, 0]
    return out


@pytest.mark.parametrize("lengths", [(1, 128, 129), (0, 300, 77)])
def test_over_what_is_filled(lengths):
    """A cache of 300 slots is three blocks, the last of them partly behind its end. Breaks if
    blocks are put together with wrong weights, or a slot behind a row's end is seen."""
    q, k, v = given(300)
    behind = jnp.arange(300)[:, None] >= jnp.asarray(lengths)[:, None, None, None]
    k, v = (jnp.where(behind, 1e4, x) for x in (k, v))
    expected = attend(q, k, v, lengths)
    whole = functools.partial(decode_twin, filled=True)
    for run in (decode_twin, whole, lambda *args: decode_kernel(HERE, *args)):
        np.testing.assert_allclose(run(q, k, v, jnp.asarray(lengths)), expected, atol=1e-5)


def test_long_caches_have_larger_blocks():
    """8300 slots are 17 blocks of 512, of the twin 13 of 682. Breaks if the size of blocks is not
    taken along, or slots that two blocks share count twice."""
    q, k, v = given(8300)
    lengths = jnp.asarray([8300, 5, 4097])
    for run in (decode_twin, functools.partial(decode_kernel, HERE)):
        got = jax.jit(run)(q, k, v, lengths)
        np.testing.assert_allclose(got, attend(q, k, v, lengths.tolist()), atol=1e-5)


def test_what_is_behind_the_longest_row_is_not_read():
    """Breaks if a batch on a CPU reads the whole of caches that are nearly empty."""
    q, k, v = given(2100)
    k, v = (x.at[:, :, 700:].set(jnp.nan) for x in (k, v))  # the second block ends at 1364
    lengths = jnp.asarray([682, 5, 0])
    np.testing.assert_allclose(
        decode_twin(q, k, v, lengths), attend(q, k, v, lengths.tolist()), atol=1e-5
    )
