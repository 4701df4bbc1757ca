"""GRPO's objective (section 3.3, B.1; Shao et al., arXiv 2402.03300): each term one equation, fp32.

A rollout is what a policy did for one prompt: M tokens or codes, some of which pad. R rollouts are
the groups of P prompts one behind the other, G = R / P each.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from latentum_jax.train.losses import mean_of

SAME = 1e-6  # rewards of a group that are no further apart tell nothing


def advantages(
    rewards: Float[Array, "R"], group: int
) -> tuple[Float[Array, "R"], Float[Array, "P"]]:
    """A = (r - mean) / std within each group of G; and 1 for each group in which all rewards are
    equal, whose advantages are 0."""
    r = rewards.astype(jnp.float32).reshape(-1, group)
    away = r - r.mean(axis=1, keepdims=True)
    spread = r.std(axis=1, keepdims=True)
    equal = r.max(axis=1, keepdims=True) - r.min(axis=1, keepdims=True) <= SAME
    normalised = jnp.where(equal, 0.0, away / jnp.where(equal, 1.0, spread))
    return normalised.reshape(-1), equal[:, 0].astype(jnp.float32)


def clipped_surrogate(
    scores: Float[Array, "R M"],
    old: Float[Array, "R M"],
    advantages: Float[Array, "R"],
    clip: float,
) -> Float[Array, "R M"]:
    """PPO's min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), ratio = pi / pi_old."""
    ratio, a = jnp.exp(scores - old), advantages[:, None]
    return jnp.minimum(ratio * a, jnp.clip(ratio, 1 - clip, 1 + clip) * a)


def importance_weights(
    old: Float[Array, "R M"], sampled: Float[Array, "R M"], most: float
) -> Float[Array, "R M"]:
    """min(pi_old / pi_sampler, most): what was drawn by other kernels, or weights in 8 bits, counts
    as if the policy had drawn it."""
    return jnp.minimum(jnp.exp(old - sampled), most)


def kl_estimate(scores: Float[Array, "R M"], reference: Float[Array, "R M"]) -> Float[Array, "R M"]:
    """pi_ref / pi - log(pi_ref / pi) - 1, whose mean over what pi drew is KL(pi || pi_ref)."""
    log_ratio = reference - scores
    return jnp.exp(log_ratio) - log_ratio - 1


def over_rollouts(values: Float[Array, "R M"], valid: Bool[Array, "R M"]) -> Float[Array, ""]:
    """Mean over each rollout's own tokens, then over rollouts."""
    own = jax.vmap(mean_of)(jnp.sum(values * valid, axis=1), jnp.sum(valid, axis=1))
    return jnp.mean(own)
