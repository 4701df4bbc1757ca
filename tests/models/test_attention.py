"""Who sees whom, and what attention makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from latentum_jax.kernels.placement import Placement, visible
from latentum_jax.models.attention import attend, attend_in_order
from latentum_jax.train.stages.sequence import generation_placement
from tests import published


def dual_placement(golden, padding, cut):
    """U [12 tokens] and three G blocks of `<img>` and two tokens, as the golden hand case has."""
    batch = {
        "target_position": jnp.asarray(golden["delim_positions"]),
        "target_valid": jnp.arange(3) < jnp.asarray(golden["num_tgt_images"])[:, None],
        "target_base": jnp.zeros((2, 3), int),
        "target_block": jnp.zeros((2, 3), int),
    }
    und = Placement.causal(jnp.broadcast_to(jnp.arange(12), (2, 12)), jnp.asarray(padding == 1))
    return Placement.join([und, generation_placement(batch, 3, cut)])


def test_visibility_equals_the_public_code():
    """The inclusive cut, with and without padding; places that do not count are left out."""
    golden = published.outputs("training/masks")
    padding = golden["padding_mask"]
    for name, pad in (("mask_is_zero", padding), ("mask_nopad_is_zero", np.ones_like(padding))):
        at = dual_placement(golden, pad, "inclusive")
        valid = np.asarray(at.valid)
        np.testing.assert_array_equal(visible(at, at)[valid], golden[name][:, 0][valid])
        np.testing.assert_array_equal(at.position[valid], golden["position_ids"][valid])
        after = np.asarray(at.context)[:, 12::3] + 1  # what a block sees of U ends before it
        drawn = valid[:, 12::3]
        np.testing.assert_array_equal(after[drawn], golden["ctx_start_positions"][drawn])


def test_exclusive_cut_hides_the_block_s_own_img_of_u():
    """At inference U's `<img>` is not in the cache while its picture is drawn."""
    golden = published.outputs("training/masks")
    at = dual_placement(golden, golden["padding_mask"], "exclusive")
    expected = golden["mask_is_zero"][:, 0].copy()
    for row, starts in enumerate(golden["delim_positions"]):
        for block, start in enumerate(starts):
            expected[row, 12 + 3 * block : 15 + 3 * block, start] = False
    valid = np.asarray(at.valid)
    np.testing.assert_array_equal(visible(at, at)[valid], expected[valid])


def random_qkv(seed=0, t=5, s=7):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    return draw(2, t, 4, 8), draw(2, s, 2, 8), draw(2, s, 2, 8)


def by_torch(q, k, v, **options):
    """Heads are torch's second axis; a key head there is for each query head."""
    to_torch = lambda x, n=1: torch.tensor(np.array(x)).transpose(1, 2).repeat_interleave(n, 1)  # noqa: E731
    made = torch.nn.functional.scaled_dot_product_attention(
        to_torch(q), to_torch(k, 2), to_torch(v, 2), **options
    )
    return made.transpose(1, 2)


def test_grouped_heads_equal_torch():
    """Query head n reads key head n // (N/K); scale and softmax are torch's."""
    q, k, v = random_qkv()
    q_at = Placement.causal(jnp.broadcast_to(jnp.arange(2, 7), (2, 5)))
    k_at = Placement.causal(jnp.broadcast_to(jnp.arange(7), (2, 7)))
    mask = np.array(visible(q_at, k_at))
    for placed in (True, False):
        expected = by_torch(q, k, v, attn_mask=torch.tensor(mask)[:, None] if placed else None)
        got = attend(q, k, v, q_at, k_at) if placed else attend(q, k, v)
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("t", [1, 5, 64, 150, 300])
def test_tokens_in_their_order_equal_torch(t):
    """Of 150 tokens there are three parts, the last of them short, of 300 four. Breaks if a part
    sees tokens behind it, or not all before."""
    q, k, v = random_qkv(t=t, s=t)
    expected = by_torch(q, k, v, is_causal=True)
    np.testing.assert_allclose(attend_in_order(q, k, v), expected, atol=1e-5)


def test_queries_that_see_nothing_give_zeros():
    """Padding that gives NaN spreads through gradients into every weight."""
    q, k, v = random_qkv(t=3, s=3)
    valid = jnp.array([[True, True, True], [False, False, True]])
    at = Placement.causal(jnp.broadcast_to(jnp.arange(3), (2, 3)), valid)

    @jax.jit
    def both(q, k, v):
        return jax.value_and_grad(
            lambda *a: jnp.sum(jnp.sin(attend(*a, at, at))), (0, 1, 2)
        )(q, k, v), attend(q, k, v, at, at)  # fmt: skip

    (_, grads), out = both(q, k, v)
    assert (out[1, :2] == 0).all() and (jnp.abs(out[1, 2]).max() > 0)
    assert all(jnp.isfinite(grad).all() for grad in grads)
    assert (grads[0][1, :2] == 0).all() and (grads[2][1, :2] == 0).all()


def test_large_scores_stay_finite():
    """Softmax is taken from the largest visible score, whatever the hidden ones are."""
    q, k, v = random_qkv(t=3, s=3)
    k = k.at[:, 2].mul(1e4)
    at = Placement.causal(jnp.broadcast_to(jnp.arange(3), (2, 3)))
    out = attend(q * 100, k, v, at, at)
    assert jnp.isfinite(out).all()
    np.testing.assert_allclose(out[:, 0], jnp.repeat(v[:, 0], 2, axis=1), atol=1e-6)
