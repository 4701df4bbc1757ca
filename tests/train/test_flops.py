"""Arithmetic counted in what jax has traced, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from latentum_jax.config import LatentUMConfig
from latentum_jax.eval import fits
from latentum_jax.sharding import make_mesh
from latentum_jax.train.flops import count_flops
from latentum_jax.train.recipe import load_config

X, W = jnp.zeros((4, 8)), jnp.zeros((3, 8, 8))
LAYER = 2 * 4 * 8 * 8  # of x w


def layers(w, x, layer):
    return jax.lax.scan(lambda x, w: (layer(x, w), None), x, w)[0].sum()


def once(x, w):
    return jnp.tanh(x @ w)


@pytest.mark.parametrize(
    ("layer", "forward", "backward"),
    [
        (once, 1, 3),
        # Twice a layer, of which the backward pass needs the first again.
        (jax.checkpoint(lambda x, w: once(once(x, w), w)), 2, 8),
    ],
)
def test_products_in_loops_and_what_is_computed_again(layer, forward, backward):
    """Three layers: their products, twice as many for both gradients, and those done again."""
    assert count_flops(lambda w, x: layers(w, x, layer), W, X) == 3 * forward * LAYER
    assert count_flops(jax.grad(lambda w, x: layers(w, x, layer)), W, X) == 3 * backward * LAYER


def test_convolutions_and_branches():
    """2 x 16 x 16 places of 7 features from 3 x 3 x 5; of two branches the dearer."""
    pixels, kernel = jnp.zeros((2, 16, 16, 5)), jnp.zeros((3, 3, 5, 7))
    dims = ("NHWC", "HWIO", "NHWC")
    conv = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", None, None, dims)  # noqa: E731
    assert count_flops(conv, pixels, kernel) == 2 * 2 * 16 * 16 * 7 * 45
    either = lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x @ W[0], lambda: x)  # noqa: E731
    assert count_flops(either, X) == LAYER


def test_a_pretraining_step_is_what_its_weights_are_worth():
    """MoME at full size, by hand: 2 operations a weight and token forward, 6 where it trains.
    Breaks if frozen weights take part in the backward pass, or more than a third is done again."""
    config = load_config("mome_pretrain", {})
    config.data.rows = rows = 2
    config.mesh.fsdp = 1
    mesh = make_mesh({}, jax.devices()[:1])
    state, batch, step, plain = fits.abstract_steps(config, mesh)
    c = LatentUMConfig()
    d, kv = c.language.hidden_size, c.language.num_kv_heads * c.language.head_dim
    heads = c.language.num_heads * c.language.head_dim
    branch = c.language.num_layers * (2 * d * heads + 2 * d * kv + 3 * d * c.language.mlp_size)
    head = c.head.num_layers * 12 * d * d + d * c.quantizer.codebook_size
    vit = c.vision.num_layers * 12 * c.vision.hidden_size**2
    visual = c.vision.num_tokens
    by_hand = 2 * branch * config.data.length + 6 * branch * visual
    by_hand += 6 * head * visual * c.quantizer.num_codebooks
    by_hand += 2 * vit * (c.vision.grid**2 + 1)
    by_hand *= rows
    with jax.set_mesh(mesh):
        needed, done = (count_flops(one, state, batch) for one in (plain, step))
    assert by_hand < needed < 1.06 * by_hand  # attention, the quantizer, projectors
    assert done < 1.35 * by_hand
