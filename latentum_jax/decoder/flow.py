"""Flow matching (appendix A.3) and SD3's schedule of noise levels sigma.

x_t = (1 - sigma) x_0 + sigma eps, the model predicts the velocity v = eps - x_0, so that
x_0 = x_t - sigma v. Timesteps are 1000 sigma.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LEVELS = 1000  # noise levels of training
SHIFT = 3.0


def shifted(sigma: np.ndarray) -> np.ndarray:
    """SD3's shift towards noise: 3 sigma / (1 + 2 sigma)."""
    return SHIFT * sigma / (1 + (SHIFT - 1) * sigma)


def training_sigmas() -> np.ndarray:
    """The 1000 levels of training, from 1 down."""
    return shifted(np.linspace(1.0, 1.0 / LEVELS, LEVELS))


def euler_sigmas(steps: int) -> np.ndarray:
    """Levels of a sampler, [steps + 1], from 1 down to 0.

    As published: even steps down to the smallest level of training, which is shifted already, and
    shifted again.
    """
    if steps < 1:
        raise ValueError(f"{steps} sampling steps, expected at least 1")
    return np.append(shifted(np.linspace(1.0, training_sigmas()[-1], steps)), 0.0)


def logit_normal_sigmas(key: jax.Array, batch: int) -> Float[Array, " B"]:
    """Levels for training: sigmoid of a unit normal picks one of the 1000."""
    place = jax.nn.sigmoid(jax.random.normal(key, (batch,))) * LEVELS
    levels = jnp.asarray(training_sigmas(), jnp.float32)
    return levels[jnp.minimum(place.astype(jnp.int32), LEVELS - 1)]


def noised(
    x_0: Float[Array, "B h w c"], eps: Float[Array, "B h w c"], sigma: Float[Array, " B"]
) -> Float[Array, "B h w c"]:
    """x_t."""
    sigma = sigma[:, None, None, None]
    return (1 - sigma) * x_0 + sigma * eps


def flow_loss(
    x_0: Float[Array, "B h w c"],
    x_t: Float[Array, "B h w c"],
    velocity: Float[Array, "B h w c"],
    sigma: Float[Array, " B"],
) -> Float[Array, ""]:
    """Mean squared error of the clean latents that the velocity implies (weight 1, A.3)."""
    implied = x_t - sigma[:, None, None, None] * velocity
    return jnp.mean((implied - x_0) ** 2)
