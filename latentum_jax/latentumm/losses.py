"""The terms of LatentUMM, each one equation. All are per sample, in fp32; a batch's is the mean."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def modal_loss(z_t: Float[Array, "*b d"], z_v: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """L_modal = mse(z_t, z_v): a text and its image are one point."""
    return mse(z_t, z_v)


def target_loss(
    z_t: Float[Array, "*b d"],
    z_v: Float[Array, "*b d"],
    e_t: Float[Array, "*b d"],
    e_v: Float[Array, "*b d"],
) -> Float[Array, "*b"]:
    """L_target = 1/2 [mse(z_t, e_t) + mse(z_v, e_v)]: where a stronger model has them."""
    return 0.5 * (mse(z_t, e_t) + mse(z_v, e_v))


def task_loss(z: Float[Array, "*b d"], again: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """L_task = mse(z, enc(G(z))): what was made and read `again` is what was meant."""
    return mse(z, again)


def generation_loss(made: Float[Array, "*b d"], v: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """L_gen = mse(G(z), v). Without it a z that is always the same is a minimum of the rest."""
    return mse(made, v)


def preference_loss(scores: Float[Array, "K *b"]) -> Float[Array, "*b"]:
    """L_pref = -log sigmoid(max s_k - min s_k), of K rollouts of each sample."""
    return -jax.nn.log_sigmoid(jnp.max(scores, axis=0) - jnp.min(scores, axis=0))


def rollouts(
    key: jax.Array, z: Float[Array, "*b d"], count: int, sigma: float
) -> Float[Array, "K *b d"]:
    """z_k = z + sigma eps_k."""
    return z + sigma * jax.random.normal(key, (count, *z.shape), z.dtype)


def cosine(a: Float[Array, "*#b d"], b: Float[Array, "*#b d"]) -> Float[Array, "*#b"]:
    """a.b / (|a| |b|), s_k of z and what comes of its k-th rollout; 0 where one is zero."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    squares = jnp.sum(a * a, -1) * jnp.sum(b * b, -1)
    # The root of a product that is kept from 0: its gradient there would not be finite.
    return jnp.sum(a * b, -1) * jax.lax.rsqrt(jnp.maximum(squares, 1e-16))


def mse(a: Float[Array, "*b d"], b: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """Mean square of the elements' differences."""
    return jnp.mean((a.astype(jnp.float32) - b.astype(jnp.float32)) ** 2, axis=-1)
