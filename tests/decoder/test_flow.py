"""The schedule against diffusers, the objective by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from latentum_jax.decoder.flow import (
    euler_sigmas,
    flow_loss,
    logit_normal_sigmas,
    noised,
    training_sigmas,
)
from tests.published import outputs


@pytest.mark.parametrize("steps", [1, 4, 25, 50])
def test_levels_are_those_of_diffusers(steps):
    """Breaks if the shift is applied once where the published scheduler applies it twice."""
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    np.testing.assert_allclose(training_sigmas(), theirs.sigmas, rtol=1e-6)
    theirs.set_timesteps(steps)
    np.testing.assert_allclose(euler_sigmas(steps), theirs.sigmas, atol=1e-6)


def test_levels_are_the_published_ones():
    """Breaks if 25 steps end elsewhere than at timestep 8.93."""
    np.testing.assert_allclose(euler_sigmas(25), outputs("decoder/sample")["sigmas_25"], atol=1e-6)
    with pytest.raises(ValueError, match="0 sampling steps, expected at least 1"):
        euler_sigmas(0)


def test_training_levels_are_logit_normal():
    """Breaks if levels are drawn evenly: half of a logit-normal lies below the middle level, which
    the shift moves to 3 x 0.5 / (1 + 2 x 0.5) = 0.75, and sigmoid(+-1) holds 68.3% of it."""
    drawn = np.asarray(logit_normal_sigmas(jax.random.key(0), 20_000))
    assert abs(np.mean(drawn < 0.75) - 0.5) < 0.02
    low, high = (3 * u / (1 + 2 * u) for u in (1 - 1 / (1 + np.exp(1)), 1 / (1 + np.exp(1))))
    low, high = min(low, high), max(low, high)
    assert abs(np.mean((drawn > low) & (drawn < high)) - 0.683) < 0.02
    assert drawn.max() <= 1 and drawn.min() > 0


def test_objective_by_hand():
    """Breaks if the velocity points the other way: x_0 = 2, eps = 4, sigma = 0.25 gives x_t = 2.5;
    the true velocity eps - x_0 = 2 gives x_0 back, a velocity of 0 is off by 0.5."""
    ones, sigma = jnp.ones((1, 1, 1, 1)), jnp.array([0.25])
    x_t = noised(2 * ones, 4 * ones, sigma)
    assert x_t.item() == 2.5
    assert flow_loss(2 * ones, x_t, 2 * ones, sigma) == 0
    assert flow_loss(2 * ones, x_t, 0 * ones, sigma) == 0.25
