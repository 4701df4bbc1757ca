"""Flash attention under the dual-sequence rule: kernels and twins against jax's own attention."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.kernels import flash
from latentum_jax.kernels.placement import Placement, visible
from tests.devices import HERE

B, N, K, H = 2, 4, 2, 64
U, IMAGES, L = 150, 3, 50

ROOT = Path(__file__).parents[2]


def dual():
    """U of 150 tokens and three G blocks of 50 that see 40, 60 and 80 of them; padding in U."""
    und = Placement.causal(
        jnp.broadcast_to(jnp.arange(U), (B, U)), jnp.ones((B, U), bool).at[1, 30:45].set(False)
    )
    block = jnp.repeat(jnp.arange(1, IMAGES + 1), L)
    position = 20 * block + 20 + jnp.tile(jnp.arange(L), IMAGES)
    rows = lambda x: jnp.broadcast_to(x, (B, IMAGES * L))  # noqa: E731
    said = position, block, 20 * block + 19, jnp.ones(IMAGES * L, bool), 0 * block
    return und, Placement(*map(rows, said))


@pytest.fixture(scope="module")
def given():
    """G queries over all keys, so that T and S differ and neither is whole blocks."""
    und, gen = dual()
    at = Placement.join([und, gen])
    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)  # noqa: E731
    s = U + IMAGES * L
    q, do = (draw(i, B, N, IMAGES * L, H) for i in (0, 1))
    return (q * H**-0.5, draw(2, B, K, s, H), draw(3, B, K, s, H), gen, at), do


@pytest.fixture(scope="module")
def expected(given):
    """Output and gradients by jax.nn.dot_product_attention with the dense mask."""
    (q, k, v, q_at, k_at), do = given

    def plain(q, k, v):
        turned = (x.swapaxes(1, 2) for x in (q, k, v))
        mask = visible(q_at, k_at)[:, None]
        return jax.nn.dot_product_attention(*turned, mask=mask, scale=1.0).swapaxes(1, 2)

    out, pull = jax.vjp(plain, q, k, v)
    return out, pull(do)


@pytest.mark.parametrize("kernel", [True, False])
def test_forward_and_backward(given, expected, kernel):
    """Breaks if a block that holds a visible pair is skipped, a group's heads are not summed, or a
    gradient lacks a term."""
    args, do = given
    out, grads = expected
    run = lambda made, twin, *xs: made(HERE, *xs) if kernel else twin(*xs)  # noqa: E731
    o, lse = run(flash.forward_kernel, flash.forward_twin, *args)
    np.testing.assert_allclose(o, out, atol=2e-5)
    delta = jnp.sum(do * o, axis=-1)
    made = run(flash.backward_kernel, flash.backward_twin, *args, do, lse, delta)
    for got, wanted in zip(made, grads, strict=True):
        np.testing.assert_allclose(got, wanted, atol=5e-5)


def test_gradients_through_the_door(given, expected):
    """Breaks if the hand-written gradient is not the one that training takes."""
    (q, k, v, *at), do = given
    out, pull = jax.vjp(lambda q, k, v: flash.flash_attention(q, k, v, *at), q, k, v)
    np.testing.assert_allclose(out, expected[0], atol=2e-5)
    for got, wanted in zip(pull(do), expected[1], strict=True):
        np.testing.assert_allclose(got, wanted, atol=5e-5)


def test_queries_that_see_nothing_give_zeros(given):
    """Padding that gives NaN spreads through gradients into every weight."""
    (q, k, v, q_at, k_at), do = given
    blind = q_at.replace(block=q_at.block + 90, context=q_at.context * 0 - 1)
    o, lse = flash.forward_kernel(HERE, q, k, v, blind, k_at)
    made = flash.backward_kernel(HERE, q, k, v, blind, k_at, do, lse, jnp.zeros(lse.shape))
    assert all((x == 0).all() for x in (o, *made))


def test_which_blocks_are_computed():
    """By hand, blocks of 64 tokens: U of 150 and G of 150 behind it are tokens 0-149 and 150-299.

    G's first block (image 1 and 14 tokens of image 2) sees U up to 59: key block 0; and itself, in
    key blocks 2 (tokens 128-191) and 3. Its second (36 of image 2, 28 of image 3) sees U up to 79:
    blocks 0 and 1; image 2 from token 200 and image 3: blocks 3 and 4. Its third (22 of image 3)
    sees the same of U, and image 3 from token 250: blocks 3 and 4. The last two are padding.
    """
    und, gen = dual()
    tags = flash._tags(gen, Placement.join([und, gen]))
    seen = flash._pairs(*tags, 64)
    assert seen.shape == (B, 4, 6)
    assert seen[0].astype(int).tolist() == [
        [1, 0, 1, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    count, order = flash._lists(seen)
    assert count[:4].tolist() == [3, 4, 4, 0]
    assert order[:3].tolist() == [0, 2, 3]


def test_over_a_mesh_it_is_the_same():
    """Rows, heads and queries on devices of their own. Breaks if a device's keys get the gradients
    of its own queries alone, or a head reads another's keys."""
    command = [sys.executable, "-m", "tests.kernels.on_mesh"]
    several = os.environ | {"JAX_PLATFORMS": "cpu"}  # the device at hand may be one
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=several)
    assert done.returncode == 0, done.stderr[-2000:]
    far = json.loads(done.stdout.splitlines()[-1])
    assert len(far) == 16 and max(far) < 1e-5
